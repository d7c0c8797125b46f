"""The HTTP service: FastAPI over a ledger."""

from shared_ledger.service.app import create_app

__all__ = ["create_app"]
