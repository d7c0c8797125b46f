"""What the auth context does."""

from __future__ import annotations

from shared_ledger.apps.crowdfunding.auth.model import Account
from shared_ledger.apps.crowdfunding.auth.store import TABLES, AuthUnitOfWork, make_unit_of_work
from shared_ledger.apps.crowdfunding.common.clock import now
from shared_ledger.apps.crowdfunding.messages import RegisterAccount
from shared_ledger.messages import Context, handles


@handles(RegisterAccount)
async def register_account(command: RegisterAccount, uow: AuthUnitOfWork) -> None:
    """Let a user take part, if he does not already."""
    if await uow.accounts.find(command.account_id) is None:
        uow.accounts.add(
            Account.register(command.account_id, command.username, at=await now(uow.connection))
        )


AUTH = Context(
    name="auth", tables=TABLES, unit_of_work=make_unit_of_work, handlers=[register_account]
)
