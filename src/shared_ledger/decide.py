"""The law of the ledger: what becomes of a command.

Nothing here knows a clock, a database or chance. ``decide`` takes what was loaded of the book and a
list of commands, and returns a result for each and the changes to write. The rules, in the order
they are applied:

1. A nonce that the application has used for this owner answers with the first result if the body
   is the same, and with the first differing field if it is not. It does so for ever.
2. What has expired of an account is booked before anything else happens to it: in the order of
   time, each at its own time.
3. An operation that is allowed once per period is refused when the owner has had it, and one whose
   budget is spent when it would give more.
4. Nobody spends below the floor: ``posted - held + amount >= floor``. A gain is never refused for
   the floor. Only a reversal may go below it, if it is told to (``allow_debt``).
5. No balance leaves the range of a signed 64-bit integer.
6. The owner gains the amount, the counterparty loses it: the sum over all accounts stays zero.
7. A spend takes expiring credits first: by priority, the soonest expiry, the oldest, the smallest
   id; then those that do not expire. A hold reserves what a spend would have taken: what it
   reserves does not expire before it ends.
8. A reversal of a spend gives back to the credits that paid, as if the spend had been smaller. What
   has expired meanwhile expires again at once. It may be shown as an operation of the application's
   own, within the bounds of that one's rule.
9. While there is debt, what comes in pays it first, whether it would expire or not.

A refusal changes nothing and leaves its nonce free. Commands are decided in the order given, each
seeing what those before it did.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec

from shared_ledger.book import (
    Account,
    AccountKey,
    Entry,
    Grant,
    Held,
    Hold,
    NonceKey,
    Posted,
    Result,
)
from shared_ledger.changes import Book, Changes, add_all
from shared_ledger.checks import as_stored
from shared_ledger.commands import (
    AnyCommand,
    AtomicCommand,
    CaptureCommand,
    Command,
    GroupCommand,
    PlaceCommand,
    ReleaseCommand,
    ReverseCommand,
    SweepCommand,
    Terms,
    TransferCommand,
)
from shared_ledger.errors import (
    BalanceOutOfRange,
    BatchRefused,
    BudgetSpent,
    HoldExceeded,
    HoldNotFound,
    InvalidPosting,
    Refusal,
    ReversalExceedsEntry,
)
from shared_ledger.hand import Hand, copy_of, split, time_of
from shared_ledger.limits import (
    budgets_of,
    insufficient,
    period_of,
    refuse_amount,
    refuse_claim,
    refuse_hold,
)
from shared_ledger.operations import (
    INT64_MAX,
    INT64_MIN,
    MAX_LIFETIME,
    REVERSAL,
    TRANSFER,
    TRANSFERS,
)
from shared_ledger.replays import as_placed, replay

DEFAULT_HOLD = timedelta(days=7)
"""How long a hold lasts whose caller does not say."""


class Swept(msgspec.Struct, frozen=True):
    """What a sweep of an account booked."""

    entries: tuple[Entry, ...]


class Together(msgspec.Struct, frozen=True):
    """What became of the commands of an atomic batch."""

    results: list[Result]


Decided = Result | Swept | Together


def decide(book: Book, commands: Sequence[AnyCommand]) -> tuple[list[Decided], Changes]:
    """Decide every command in order; return a result for each, and what to write."""
    decision = Decision(book)
    return decision.take(commands), decision.changes


class Decision:
    """Decisions on one book, some commands at a time; those to come see those that were taken.

    A writer that takes a batch in pieces can write one piece while it decides the next.
    """

    __slots__ = ("_hand", "changes")

    def __init__(self, book: Book, *, parent: Hand | None = None) -> None:
        self._hand = Hand(book, parent)
        self.changes = self._hand.changes

    def take(self, commands: Iterable[AnyCommand]) -> list[Decided]:
        """Decide these commands in order; the changes grow by what they do."""
        known, post = self._hand.known, self._post
        results: list[Decided] = []
        for command in commands:
            nonce_key = (command.owner_id, command.app, command.nonce)
            recorded = known.get(nonce_key)
            if recorded is not None:
                results.append(self.replay(recorded, command))
            elif type(command) is Command:
                results.append(post(command, nonce_key))
            else:
                results.append(self._other(command))
        return results

    def replay(self, recorded: Entry, command: AnyCommand) -> Result:
        """Answer a command whose nonce was used before, by ``recorded``."""
        hold = None if recorded.hold_id is None else self._hand.hold(recorded.hold_id)
        others = self._hand.together_with(recorded)
        return replay(recorded, command, others=others, hold=hold)

    def account(self, key: AccountKey) -> Account:
        """Return an account as it is now: after what has expired, and what was decided."""
        return self._hand.account(key)

    def grant(self, grant_id: int) -> Grant:
        """Return a grant that was loaded, or given."""
        loaded = (grant for grants in self._hand.book.grants.values() for grant in grants)
        return self.changes.grants.get(grant_id) or next(
            grant for grant in loaded if grant.id == grant_id
        )

    def _other(self, command: AnyCommand) -> Decided:
        decided: Decided
        match command:
            case PlaceCommand():
                decided = self._place(command)
            case CaptureCommand():
                decided = self._capture(command)
            case ReleaseCommand():
                decided = self._release(command)
            case TransferCommand():
                decided = self._transfer(command)
            case ReverseCommand():
                decided = self._reverse(command)
            case GroupCommand():
                decided = self._group(command)
            case AtomicCommand():
                decided = self._together(command)
            case SweepCommand():
                decided = self._sweep(command)
            case Command():
                decided = self._post(command, (command.owner_id, command.app, command.nonce))
        return decided

    def _sweep(self, command: SweepCommand) -> Swept:
        written = len(self.changes.entries)
        self._hand.account((command.owner_id, command.asset))
        return Swept(tuple(self.changes.entries[written:]))

    # Postings

    def _post(  # noqa: C901, PLR0912  # the shortest way for what happens most
        self, command: Command, nonce_key: NonceKey, entry_id: int | None = None, group: int = 0
    ) -> Posted | Refusal:
        """Post one operation; as the first of a group with the group's id."""
        key = (command.owner_id, command.asset)
        hand = self._hand
        account = hand.accounts.get(key) or hand.open(key)
        amount, terms, once, period = command.amount, command.terms, command.once, None
        posted = account.posted + amount
        created_on: Any = account.changed_on
        if once is not None:
            period = period_of(once, created_on)
            claim_key = (command.owner_id, command.app, command.operation)
            refusal = refuse_claim(command, created_on, period, hand.claims.get(claim_key))
            if refusal is not None:
                return refusal
        if amount < 0 and account.floor is not None and posted - account.held < account.floor:
            return insufficient(account, -amount)
        if not INT64_MIN <= posted <= INT64_MAX:
            return BalanceOutOfRange(
                command.owner_id, asset=command.asset, posted=account.posted, amount=amount
            )
        if terms is not None:
            budget_refusal = self._refuse_budget(command, terms, created_on)
            if budget_refusal is not None:
                return budget_refusal
        if entry_id is None:
            entry_id = next(hand.ids)
        expires_on = priority = None
        if amount < 0:
            account.posted = posted
            if account.expiring:
                hand.burn(account, entry_id, -amount)
        elif terms is None or terms.expires_in is None:
            account.posted = posted
        else:
            expires_on, priority = created_on + terms.expires_in, terms.priority
            hand.give(account, entry_id, [(amount, expires_on, priority, command.app)], amount)
        if terms is not None:
            self._spend_budget(command, terms, created_on)
        if period is not None:
            hand.claims[command.owner_id, command.app, command.operation] = period
        entry = Entry(
            entry_id,
            command.app,
            command.operation,
            command.owner_id,
            command.counterparty,
            command.asset,
            amount,
            posted,
            nonce_key[2],
            created_on,
            None if command.metadata is None else as_stored(command.metadata),
            period,
            account.held,
            account.expiring,
        )
        if group or expires_on is not None:
            entry = msgspec.structs.replace(
                entry, group_id=group or None, expires_on=expires_on, priority=priority
            )
        hand.known[nonce_key] = entry
        hand.changes.accounts[key] = account
        system, counterparty = hand.changes.system, (command.counterparty, command.asset)
        system[counterparty] = system.get(counterparty, 0) - amount
        if group:
            hand.append(entry)
        else:
            hand.changes.entries.append(entry)
        return Posted(entry)

    def _refuse_budget(self, command: Command, terms: Terms, at: datetime) -> Refusal | None:
        hand = self._hand
        for key, budget in budgets_of(command, terms, at):
            spent = hand.budgets.get(key, 0)
            if spent + command.amount > budget:
                return BudgetSpent(
                    command.operation,
                    period=key[2],
                    budget=budget,
                    left=max(0, budget - spent),
                    required=command.amount,
                )
        return None

    def _spend_budget(self, command: Command, terms: Terms, at: datetime) -> None:
        hand = self._hand
        for key, _ in budgets_of(command, terms, at):
            hand.budgets[key] = hand.budgets.get(key, 0) + command.amount
            add_all(hand.changes.budgets, {key: command.amount})

    def _group(self, command: GroupCommand) -> Result:
        hand = self._hand
        trial = Decision(hand.book, parent=hand)
        # What has expired of the first account is booked before it, with smaller ids.
        hand.account(command.keys[0])
        group = next(hand.ids)
        posted: list[Posted] = []
        for number, member in enumerate(command.members):
            nonce = f"@{group}.{number}" if number else command.nonce
            nonce_key = (member.owner_id, member.app, nonce)
            result = trial._post(member, nonce_key, None if number else group, group)
            if isinstance(result, Refusal):
                return result
            posted.append(result)
        trial._hand.keep()
        return Posted(posted[0].entry, False, tuple(one.entry for one in posted[1:]))

    def _together(self, command: AtomicCommand) -> Together:
        hand = self._hand
        trial = Decision(hand.book, parent=hand)
        results: list[Any] = trial.take(command.members)
        for position, result in enumerate(results):
            if isinstance(result, Refusal):
                reason = result.code
                return Together(
                    [
                        other
                        if isinstance(other, Refusal)
                        else BatchRefused(position=position, reason=reason)
                        for other in results
                    ]
                )
        trial._hand.keep()
        return Together(results)

    # Transfers

    def _transfer(self, command: TransferCommand) -> Posted | Refusal:
        hand = self._hand
        source_key, destination_key = command.keys
        source, destination = hand.account(source_key), hand.account(destination_key)
        amount = command.amount
        if source.available < amount:
            return insufficient(source, amount)
        if destination.posted + amount > INT64_MAX:
            return BalanceOutOfRange(
                destination.owner_id,
                asset=destination.asset,
                posted=destination.posted,
                amount=amount,
            )
        group = next(hand.ids)
        source.posted -= amount
        pieces = hand.burn(source, group, amount)
        first = hand.write(
            source,
            command,
            entry_id=group,
            operation=TRANSFER,
            counterparty=TRANSFERS,
            amount=-amount,
            nonce=command.nonce,
            group_id=group,
        )
        entry_id = next(hand.ids)
        # What expires keeps its expiry, priority and the application that gave it.
        given = [(taken, grant.expires_on, grant.priority, grant.app) for grant, taken in pieces]
        hand.give(destination, entry_id, given, amount)
        second = hand.write(
            destination,
            command,
            entry_id=entry_id,
            operation=TRANSFER,
            counterparty=TRANSFERS,
            amount=amount,
            nonce=f"@{group}.1",
            group_id=group,
        )
        # Where the clock was set back, what the source still had may have expired for the other.
        at = time_of(destination)
        for grant in hand.grants_of(destination):
            if grant.remaining and grant.expires_on <= at:
                expired, grant.remaining = grant.remaining, 0
                hand.expire(destination, grant, expired, at)
        return Posted(first, False, (second,))

    # Holds

    def _place(self, command: PlaceCommand) -> Held | Refusal:
        hand = self._hand
        account = hand.account((command.owner_id, command.asset))
        at = time_of(account)
        expires_on = command.expires_at or at + (command.expires_in or DEFAULT_HOLD)
        if expires_on <= at:
            return InvalidPosting("expires_at", "has passed")
        if expires_on - at > MAX_LIFETIME:
            return InvalidPosting("expires_at", f"is more than {MAX_LIFETIME.days} days away")
        if account.available < command.amount:
            return insufficient(account, command.amount)
        hold_id = next(hand.ids)
        reserved = hand.take(account, command.amount) if account.expiring else []
        account.held += command.amount
        hand.due(account, expires_on)
        hold = Hold(
            hold_id,
            command.app,
            command.operation,
            command.owner_id,
            command.counterparty,
            command.asset,
            command.amount,
            command.nonce,
            at,
            expires_on,
            grants=tuple((grant.id, taken) for grant, taken in reserved),
        )
        hand.holds[hold_id] = hand.changes.holds[hold_id] = hold
        hand.write(
            account,
            command,
            entry_id=hold_id,
            operation=command.operation,
            counterparty=command.counterparty,
            amount=0,
            nonce=command.nonce,
            hold_id=hold_id,
        )
        return Held(as_placed(hold))

    def _capture(self, command: CaptureCommand) -> Posted | Refusal:
        hand = self._hand
        account = hand.account((command.owner_id, command.asset))
        hold = hand.hold(command.hold_id)
        refusal = refuse_hold(hold, command)
        if refusal is not None or hold is None:
            return refusal or HoldNotFound(command.hold_id)
        amount = hold.remaining if command.amount is None else command.amount
        if amount > hold.remaining:
            return HoldExceeded(hold.id, remaining=hold.remaining, required=amount)
        entry_id = next(hand.ids)
        account.posted -= amount
        account.held -= amount
        hold.captured += amount
        paid, kept = split(hold.grants, amount)
        for grant_id, taken in paid:
            account.expiring -= taken
            hand.record(entry_id, grant_id, taken)
        hold.grants = kept
        rest, unused = hold.remaining, kept
        if command.final or rest == 0:
            hand.close(hold, "captured", account, entry_id if command.final else None)
        entry = hand.write(
            account,
            command,
            entry_id=entry_id,
            operation=hold.operation,
            counterparty=hold.counterparty,
            amount=-amount,
            nonce=command.nonce,
            hold_id=hold.id,
        )
        if command.final:
            hand.give_back(account, unused, entry.created_on)
        hand.changes.holds[hold.id] = hold
        return Posted(entry)

    def _release(self, command: ReleaseCommand) -> Held | Refusal:
        hand = self._hand
        account = hand.account((command.owner_id, command.asset))
        hold = hand.hold(command.hold_id)
        refusal = refuse_hold(hold, command)
        if refusal is not None or hold is None:
            return refusal or HoldNotFound(command.hold_id)
        entry_id = next(hand.ids)
        unused = hold.grants
        hand.close(hold, "released", account, entry_id)
        entry = hand.write(
            account,
            command,
            entry_id=entry_id,
            operation=hold.operation,
            counterparty=hold.counterparty,
            amount=0,
            nonce=command.nonce,
            hold_id=hold.id,
        )
        hand.give_back(account, unused, entry.created_on)
        return Held(copy_of(hold))

    # Reversals

    def _reverse(self, command: ReverseCommand) -> Posted | Refusal:
        hand = self._hand
        accounts = [hand.account(key) for key in command.keys]
        left = min(hand.left_of(entry) for entry in command.entries)
        amount = left if command.amount is None else command.amount
        first = command.entries[0]
        if amount == 0 or amount > left:
            required = abs(first.amount) if command.amount is None else command.amount
            return ReversalExceedsEntry(first.id, left=left, required=required)
        if command.rule is not None and command.amount is None:
            refusal = refuse_amount(command.rule, amount if first.amount < 0 else -amount)
            if refusal is not None:
                return refusal
        for entry, account in zip(command.entries, accounts, strict=True):
            refusal = self._refuse_reversal(entry, account, amount, command.allow_debt)
            if refusal is not None:
                return refusal
        group = next(hand.ids)
        entries: list[Entry] = []
        for number, (entry, account) in enumerate(zip(command.entries, accounts, strict=True)):
            entry_id = next(hand.ids) if number else group
            returned: list[tuple[int, int]] = []
            if entry.amount > 0:
                account.posted -= amount
                account.whole |= account.debt > 0
                hand.burn(account, entry_id, amount, first=entry.id)
            else:
                returned = hand.restore(account, entry, entry_id, amount)
            entries.append(
                hand.write(
                    account,
                    command,
                    entry_id=entry_id,
                    operation=command.operation or REVERSAL,
                    counterparty=entry.counterparty,
                    amount=-amount if entry.amount > 0 else amount,
                    nonce=f"@{group}.{number}" if number else command.nonce,
                    reverses=entry.id,
                    group_id=group if len(accounts) > 1 else None,
                )
            )
            hand.reversed[entry.id] = hand.reversed.get(entry.id, 0) + amount
            for grant_id, expired in returned:
                at = time_of(account)
                hand.expire(account, hand.grant(account, grant_id), expired, at)
        return Posted(entries[0], False, tuple(entries[1:]))

    def _refuse_reversal(
        self, entry: Entry, account: Account, amount: int, allow_debt: bool
    ) -> Refusal | None:
        hand = self._hand
        posted = account.posted + (amount if entry.amount < 0 else -amount)
        if not INT64_MIN <= posted <= INT64_MAX:
            return BalanceOutOfRange(
                account.owner_id,
                asset=account.asset,
                posted=account.posted,
                amount=posted - account.posted,
            )
        if entry.amount < 0 or account.available >= amount:
            return None
        # What a hold reserves of credits that expire cannot be owed: it may expire.
        free = sum(grant.remaining for grant in hand.grants_of(account))
        if allow_debt and account.expiring == free:
            return None
        return insufficient(account, amount)
