"""Satoshi Spark alone, at the root: ``uvicorn shared_ledger.apps.crowdfunding.main:app``."""

from shared_ledger.apps.crowdfunding import SERVICE
from shared_ledger.service import alone

app = alone(SERVICE)
