"""The HTTP service: FastAPI over a ledger, and what an application needs to be served by it."""

from shared_ledger.service.alone import alone
from shared_ledger.service.app import create_app
from shared_ledger.service.authorisation import (
    ADMIN,
    EVERYBODY,
    OPEN,
    POST,
    READ,
    SERVICE,
    Rights,
    RightsTable,
)
from shared_ledger.service.calls import Call, called
from shared_ledger.service.figures import Figure
from shared_ledger.service.problems import ServiceRefusal
from shared_ledger.service.service import Service, Serving

__all__ = [
    "ADMIN",
    "EVERYBODY",
    "OPEN",
    "POST",
    "READ",
    "SERVICE",
    "Call",
    "Figure",
    "Rights",
    "RightsTable",
    "Service",
    "ServiceRefusal",
    "Serving",
    "alone",
    "called",
    "create_app",
]
