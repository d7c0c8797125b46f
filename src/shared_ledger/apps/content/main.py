"""Content alone, at the root: ``uvicorn shared_ledger.apps.content.main:app``."""

from shared_ledger.apps.content import SERVICE
from shared_ledger.service import alone

app = alone(SERVICE)
