"""Where the accounting context keeps what it knows; balances and entries are in the book."""

from __future__ import annotations

import sqlalchemy as sa

from shared_ledger import Ledger
from shared_ledger.apps.crowdfunding.accounting.model import Account, Reservation
from shared_ledger.apps.crowdfunding.accounting.operations import SparkOperation
from shared_ledger.apps.crowdfunding.common.repositories import FieldRepository
from shared_ledger.messages import (
    Source,
    TransactionalOutbox,
    UnitOfWork,
    message_tables,
)

SparkLedger = Ledger[SparkOperation]

metadata = sa.MetaData()
TABLES = message_tables(metadata, "crowdfunding_accounting")

accounts = sa.Table(
    "crowdfunding_accounting_accounts",
    metadata,
    sa.Column("account_id", sa.Text, primary_key=True),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("username", sa.Text, nullable=False),
)

reservations = sa.Table(
    "crowdfunding_accounting_reservations",
    metadata,
    sa.Column("payment_hash", sa.Text, primary_key=True),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("account_id", sa.Text, nullable=False),
    sa.Column("amount_hold_id", sa.BigInteger, nullable=False),
    sa.Column("fee_hold_id", sa.BigInteger, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.CheckConstraint(
        "state in ('held', 'captured', 'released')",
        name="crowdfunding_accounting_reservations_state",
    ),
)


class Accounts(FieldRepository[Account]):
    """Accounts by id."""

    table = accounts
    aggregate = Account


class Reservations(FieldRepository[Reservation]):
    """Reservations by payment hash."""

    table = reservations
    aggregate = Reservation


class AccountingUnitOfWork(UnitOfWork):
    """One transaction of the accounting context; entries of the ledger are part of it."""

    def __init__(self, source: Source, ledger: SparkLedger) -> None:
        super().__init__(source, TransactionalOutbox(TABLES))
        self.ledger = ledger
        self.accounts = Accounts(self)
        self.reservations = Reservations(self)
