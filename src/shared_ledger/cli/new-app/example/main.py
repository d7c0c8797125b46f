"""The application alone, at the root.

Run it with ``uvicorn example.main:app``.
"""

from shared_ledger.service import alone

from . import SERVICE

app = alone(SERVICE)
