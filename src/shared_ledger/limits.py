"""What limits a command: periods, budgets, the end of a hold, what is available. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from shared_ledger.book import Account, BudgetKey, Hold
from shared_ledger.checks import checked_amount
from shared_ledger.commands import CaptureCommand, Command, ReleaseCommand, Terms
from shared_ledger.errors import (
    AlreadyClaimed,
    HoldClosed,
    HoldExpired,
    HoldNotFound,
    InsufficientCredits,
    InvalidPosting,
    Refusal,
)
from shared_ledger.operations import Once, Rule


def period_of(once: Once, at: datetime) -> str:
    """Name the period of an operation that is allowed once in it: ``ever``, or its last UTC day."""
    if once == "ever":
        return "ever"
    day = at.date()
    if once == "week":
        day += timedelta(days=6 - day.weekday())
    elif once == "month":
        day = (day.replace(day=28) + timedelta(days=4)).replace(day=1) - timedelta(days=1)
    return day.isoformat()


def refuse_claim(
    command: Command, at: datetime, period: str, claimed: str | None
) -> Refusal | None:
    """Refuse what the owner has had already, in a period that has not ended."""
    if claimed is None:
        return None
    if "ever" not in (period, claimed) and claimed < at.date().isoformat():
        return None
    return AlreadyClaimed(command.owner_id, operation=command.operation, period=period)


def budgets_of(command: Command, terms: Terms, at: datetime) -> Iterable[tuple[BudgetKey, int]]:
    """Name the budgets that a posting spends, and how large they are."""
    if terms.budget is not None:
        yield (command.app, command.operation, "ever"), terms.budget
    if terms.daily_budget is not None:
        yield (command.app, command.operation, at.date().isoformat()), terms.daily_budget


def refuse_hold(hold: Hold | None, command: CaptureCommand | ReleaseCommand) -> Refusal | None:
    """Refuse to touch a hold that is not there, or that has ended."""
    if hold is None:
        return HoldNotFound(command.hold_id)
    if hold.state == "expired":
        return HoldExpired(hold.id, expires_on=hold.expires_on)
    if hold.state != "open":
        return HoldClosed(hold.id, state=hold.state)
    return None


def refuse_amount(rule: Rule, amount: int) -> Refusal | None:
    """Refuse a signed amount that its operation's rule does not allow."""
    try:
        checked_amount(rule, amount)
    except InvalidPosting as refusal:
        return refusal
    return None


def insufficient(account: Account, required: int) -> InsufficientCredits:
    """Refuse to take more than is available."""
    return InsufficientCredits(
        account.owner_id, asset=account.asset, available=account.available, required=required
    )
