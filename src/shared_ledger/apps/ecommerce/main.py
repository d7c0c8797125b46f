"""E-commerce alone, at the root: ``uvicorn shared_ledger.apps.ecommerce.main:app``."""

from shared_ledger.apps.ecommerce import SERVICE
from shared_ledger.service import alone

app = alone(SERVICE)
