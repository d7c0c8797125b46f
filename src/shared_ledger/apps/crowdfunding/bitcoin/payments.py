"""Paying what is reserved, and following each payment to its end.

Before the node is asked, ``paying`` is committed, by exactly one process: from then on nobody asks
it to pay again, and what is not known is asked for until it is. Only the node's own word ends a
payment; silence never does. A payment that the node has never heard of, when it could not be begun
any more because the invoice has expired, was never sent: the process ended in between.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncEngine

from shared_ledger.apps.crowdfunding.bitcoin.model import Withdrawal
from shared_ledger.apps.crowdfunding.bitcoin.store import (
    BitcoinUnitOfWork,
    make_unit_of_work,
    withdrawals,
)
from shared_ledger.apps.crowdfunding.common.clock import now
from shared_ledger.apps.crowdfunding.common.due import claim_due
from shared_ledger.apps.crowdfunding.common.faults import reached
from shared_ledger.apps.crowdfunding.lightning.port import (
    LightningNode,
    NodeRefused,
    NodeUnavailable,
    Payment,
)
from shared_ledger.messages import ConcurrentChange, retried

_log = logging.getLogger("shared_ledger.crowdfunding")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a payment is waited for.

    ``pay_s``: the node's own time to find a way. ``look_s``: how long until it is asked what has
    become of it.
    """

    pay_s: float = 20
    look_s: float = 5

    @property
    def lease(self) -> timedelta:
        """How long whoever claims a withdrawal has it for himself."""
        return timedelta(seconds=2 * self.pay_s)


async def pay_next(engine: AsyncEngine, node: LightningNode, patience: Patience) -> bool:
    """Pay, or look after, the withdrawal that has been due for longest; tell if there was one."""
    payment_hash = await claim_due(engine, withdrawals, lease=patience.lease)
    if payment_hash is None:
        return False
    reached("payments.claimed")
    withdrawal = await _begin(engine, patience, payment_hash)
    if withdrawal is None:
        await _follow(engine, node, patience, payment_hash)
        return True
    reached("payments.begun")
    try:
        payment: Payment | None = await node.pay(
            withdrawal.payment_request,
            max_fee_msat=withdrawal.max_fee,
            timeout_s=patience.pay_s,
        )
    except NodeRefused as refused:
        payment = Payment(payment_hash=payment_hash, state="failed", reason=str(refused))
    except NodeUnavailable as error:
        _log.warning("what became of the payment %s is not known: %s", payment_hash, error)
        payment = None
    reached("payments.asked")
    await _note(engine, patience, payment_hash, payment)
    return True


async def _begin(engine: AsyncEngine, patience: Patience, payment_hash: str) -> Withdrawal | None:
    """Commit that the node is asked now; ``None`` if it was asked before."""
    try:
        async with make_unit_of_work(engine) as uow:
            withdrawal = await _find(uow, payment_hash)
            if withdrawal.state != "reserved":
                return None
            at = await now(uow.connection)
            withdrawal.begin(at, look_on=at + patience.lease)
    except ConcurrentChange:
        # Another process was first.
        return None
    return withdrawal


async def _follow(
    engine: AsyncEngine, node: LightningNode, patience: Patience, payment_hash: str
) -> None:
    try:
        payment = await node.track(payment_hash)
    except NodeUnavailable as error:
        _log.warning("the payment %s cannot be followed now: %s", payment_hash, error)
        await _note(engine, patience, payment_hash, None)
        return
    reached("payments.followed")
    await _note(engine, patience, payment_hash, payment, unheard_of=payment is None)


async def _note(
    engine: AsyncEngine,
    patience: Patience,
    payment_hash: str,
    payment: Payment | None,
    *,
    unheard_of: bool = False,
) -> None:
    """Note what has become of a payment; ``None``, and what is in flight, is looked at again."""

    async def note() -> None:
        async with make_unit_of_work(engine) as uow:
            withdrawal = await _find(uow, payment_hash)
            at = await now(uow.connection)
            if payment is not None and payment.state == "succeeded":
                withdrawal.succeed(payment.fee_msat)
            elif payment is not None and payment.state == "failed":
                withdrawal.fail(payment.reason or "failed")
            elif unheard_of and withdrawal.was_never_sent(at):
                withdrawal.fail("never_sent")
            else:
                withdrawal.look_again(at + timedelta(seconds=patience.look_s))

    await retried(note)
    reached("payments.noted")


async def _find(uow: BitcoinUnitOfWork, payment_hash: str) -> Withdrawal:
    withdrawal = await uow.withdrawals.find(payment_hash)
    if withdrawal is None:
        raise LookupError(f"there is no withdrawal {payment_hash}")
    return withdrawal
