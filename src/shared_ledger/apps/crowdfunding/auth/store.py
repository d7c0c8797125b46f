"""Where the auth context keeps what it knows."""

from __future__ import annotations

import sqlalchemy as sa

from shared_ledger.apps.crowdfunding.auth.model import Account
from shared_ledger.apps.crowdfunding.common.repositories import FieldRepository
from shared_ledger.messages import (
    Source,
    TransactionalOutbox,
    UnitOfWork,
    message_tables,
)

metadata = sa.MetaData()
TABLES = message_tables(metadata, "crowdfunding_auth")

accounts = sa.Table(
    "crowdfunding_auth_accounts",
    metadata,
    sa.Column("account_id", sa.Text, primary_key=True),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("username", sa.Text, nullable=False),
    sa.Column("registered_on", sa.DateTime(timezone=True), nullable=False),
)


class Accounts(FieldRepository[Account]):
    """Accounts by id."""

    table = accounts
    aggregate = Account


class AuthUnitOfWork(UnitOfWork):
    """One transaction of the auth context."""

    def __init__(self, source: Source) -> None:
        super().__init__(source, TransactionalOutbox(TABLES))
        self.accounts = Accounts(self)


def make_unit_of_work(source: Source) -> AuthUnitOfWork:
    """Open a unit of work: ``async with make_unit_of_work(engine) as uow``."""
    return AuthUnitOfWork(source)
