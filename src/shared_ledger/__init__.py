"""Shared Ledger: one credits ledger for all of a team's applications.

::

    from shared_ledger import SHARED, Ledger, Posting, SharedOperation

    with Ledger(SHARED) as ledger:
        ledger.post(Posting(SharedOperation.SIGNUP_CREDIT, owner_id="user1", nonce="welcome"))
        print(ledger.balance("user1").available)
"""

from shared_ledger.book import Balance, Entry, Outcome, Page, Posted, Posting
from shared_ledger.errors import (
    AccountBusy,
    AlreadyClaimed,
    BalanceOutOfRange,
    ConfigurationError,
    EmbeddedUnavailable,
    InsufficientCredits,
    InvalidPosting,
    LedgerClosed,
    LedgerError,
    LedgerOverloaded,
    LedgerUnavailable,
    MigrationRefused,
    NonceReused,
    Refusal,
    RejectedByDatabase,
    SchemaNotMigrated,
    SchemaTooNew,
)
from shared_ledger.ledger import Ledger
from shared_ledger.operations import (
    SHARED,
    SHARED_OPERATION_VALUES,
    SHARED_RULES,
    Application,
    BaseLedgerOperation,
    Rule,
    SharedOperation,
)

__version__ = "0.1.0"

__all__ = [
    "SHARED",
    "SHARED_OPERATION_VALUES",
    "SHARED_RULES",
    "AccountBusy",
    "AlreadyClaimed",
    "Application",
    "Balance",
    "BalanceOutOfRange",
    "BaseLedgerOperation",
    "ConfigurationError",
    "EmbeddedUnavailable",
    "Entry",
    "InsufficientCredits",
    "InvalidPosting",
    "Ledger",
    "LedgerClosed",
    "LedgerError",
    "LedgerOverloaded",
    "LedgerUnavailable",
    "MigrationRefused",
    "NonceReused",
    "Outcome",
    "Page",
    "Posted",
    "Posting",
    "Refusal",
    "RejectedByDatabase",
    "Rule",
    "SchemaNotMigrated",
    "SchemaTooNew",
    "SharedOperation",
    "__version__",
]
