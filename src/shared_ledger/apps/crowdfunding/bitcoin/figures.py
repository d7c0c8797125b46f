"""What of deposits and withdrawals is under way, as metrics show it.

All of it is found by the index of what is due.
"""

from __future__ import annotations

import sqlalchemy as sa

from shared_ledger.apps.crowdfunding.bitcoin.store import deposits, withdrawals
from shared_ledger.service.figures import Figure

_under_way = withdrawals.c.due_on.is_not(None)
_age = sa.func.extract("epoch", sa.func.clock_timestamp() - sa.func.min(withdrawals.c.begun_on))

FIGURES = (
    Figure(
        name="crowdfunding_deposits_awaited",
        about="Invoices of ours that may still be paid.",
        select=sa.select(sa.func.count()).where(deposits.c.due_on.is_not(None)),
    ),
    Figure(
        name="crowdfunding_withdrawals_in_flight",
        about="Withdrawals that are reserved, or that the node was asked to pay.",
        select=sa.select(sa.func.count()).where(_under_way),
    ),
    Figure(
        name="crowdfunding_withdrawals_in_flight_msat",
        about="What they pay in all, without fees.",
        select=sa.select(sa.func.coalesce(sa.func.sum(withdrawals.c.amount), 0)).where(_under_way),
    ),
    Figure(
        name="crowdfunding_oldest_payment_seconds",
        about="How long ago the node was asked for the oldest payment that is not decided.",
        select=sa.select(sa.func.coalesce(_age, 0)).where(_under_way),
    ),
)
