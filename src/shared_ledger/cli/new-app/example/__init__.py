"""Example: an application on the shared ledger.

Its operations and what they cost are in ``operations``, its table in ``tables``, what can be done
in ``records``, and its routes in ``routes``. Everything else comes from the service.
"""

from pathlib import Path

from shared_ledger.service import Service

from . import routes
from .operations import RECORDS

__all__ = ["SERVICE"]

SERVICE = Service(
    application=RECORDS,
    title="Example",
    description="Each one costs credits; cancelled, it gives them back.",
    routers=[routes.router],
    rights=routes.RIGHTS,
    tags={
        "example": "Create, show and cancel.",
    },
    migrations=Path(__file__).parent / "migrations",
)
