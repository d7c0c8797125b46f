"""The client of a ledger's service: the library's calls, over HTTP.

::

    from shared_ledger import SHARED, Posting, SharedOperation
    from shared_ledger.client import LedgerClient, new_nonce

    with LedgerClient("http://localhost:8000", SHARED, token="secret-token") as ledger:
        ledger.post(Posting(SharedOperation.SIGNUP_CREDIT, "user1", new_nonce()))
        print(ledger.balance("user1").available)

Requests, results and refusals are those of the library. Every call is tried again when that is
safe: a posting whose answer was lost is sent again with its nonce, and happens once.
"""

from shared_ledger.client.asynchronous import AsyncLedgerClient
from shared_ledger.client.calls import new_nonce
from shared_ledger.client.sync import LedgerClient

__all__ = ["AsyncLedgerClient", "LedgerClient", "new_nonce"]
