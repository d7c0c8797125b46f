"""The book in hand: what was loaded of it, as it becomes while commands are decided.

A ``Hand`` opens accounts (and books what has expired of them first), takes credits from grants in
the order in which they are spent, gives them back, ends holds, and writes entries. It keeps every
change for whoever saves them. It refuses nothing: what may be done is decided in ``decide``.
"""

from __future__ import annotations

import heapq
from bisect import insort
from collections import ChainMap
from collections.abc import Iterable, MutableMapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec

from shared_ledger.book import (
    Account,
    AccountKey,
    BudgetKey,
    ClaimKey,
    Entry,
    Grant,
    Hold,
    HoldState,
    NonceKey,
)
from shared_ledger.changes import Book, Changes
from shared_ledger.checks import as_stored
from shared_ledger.operations import EXPIRED, EXPIRY

T = TypeVar("T", Account, Grant, Hold)

Piece = tuple[Grant, int]
"""So much of a grant."""


def burn_order(grant: Grant) -> tuple[int, datetime, datetime, int]:
    """Order the grants of an account: the first is spent first."""
    return grant.priority, grant.expires_on, grant.granted_on, grant.id


class Hand:
    """A book in hand. With a ``parent`` it is on trial: the parent sees nothing before ``keep``."""

    __slots__ = (
        "_due_holds",
        "_parent",
        "accounts",
        "book",
        "budgets",
        "changes",
        "claims",
        "grants",
        "groups",
        "holds",
        "ids",
        "known",
        "reversed",
    )

    def __init__(self, book: Book, parent: Hand | None = None) -> None:
        self.book = book
        self.changes = Changes()
        self.holds: dict[int, Hold] = {}
        self._parent = parent
        self.accounts: dict[AccountKey, Account] = {}
        self.grants: dict[AccountKey, list[Grant]] = {}
        self._due_holds: dict[AccountKey, list[Hold]] | None = None
        if parent is None:
            self.ids = iter(book.ids)
            self.known: MutableMapping[NonceKey, Entry] = dict(book.entries)
            self.claims: MutableMapping[ClaimKey, str] = dict(book.claims)
            self.budgets: MutableMapping[BudgetKey, int] = dict(book.budgets)
            self.reversed: MutableMapping[int, int] = dict(book.reversed)
            self.groups: MutableMapping[int, list[Entry]] = {}
        else:
            self.ids = parent.ids
            self.known = ChainMap({}, parent.known)
            self.claims = ChainMap({}, parent.claims)
            self.budgets = ChainMap({}, parent.budgets)
            self.reversed = ChainMap({}, parent.reversed)
            self.groups = ChainMap({}, parent.groups)

    def account(self, key: AccountKey) -> Account:
        """Return an account as it is now: after what has expired, and what was decided."""
        return self.accounts.get(key) or self.open(key)

    def open(self, key: AccountKey) -> Account:
        """Take an account into hand, with the present time, after what has expired of it."""
        if self._parent is not None:
            account = copy_of(self._parent.account(key))
            self.accounts[key] = account
            return account
        book = self.book
        account = book.accounts.get(key) or Account(*key)
        if not book.ours:
            account = copy_of(account)
        # A clock that was set back does not make an account's time run backwards.
        changed_on = account.changed_on
        if changed_on is None or changed_on <= book.now:
            account.changed_on = book.now
        else:
            account.changed_on = changed_on.astimezone(UTC)
        self.accounts[key] = account
        if account.due_on is not None and account.due_on <= time_of(account):
            self._settle(key, account, time_of(account))
        return account

    def _settle(self, key: AccountKey, account: Account, now: datetime) -> None:
        """Book what has expired, in the order of time: holds before the grants they reserved."""
        self.changes.accounts[key] = account
        account.due_on = None
        alive: list[Grant] = []
        due: list[tuple[datetime, int, int, Hold | Grant]] = [
            (hold.expires_on, 0, hold.id, copy_of(hold))
            for hold in self._open_holds(key)
            if hold.expires_on <= now
        ]
        due += [
            (grant.expires_on, 1, grant.id, grant)
            for grant in self.grants_of(account)
            if grant.remaining and grant.expires_on <= now
        ]
        heapq.heapify(due)
        while due:
            at, _, _, ended = heapq.heappop(due)
            if isinstance(ended, Grant):
                amount, ended.remaining = ended.remaining, 0
                if amount:
                    self.expire(account, ended, amount, at)
                continue
            self.holds[ended.id] = ended
            unused = ended.grants
            self.close(ended, "expired", account, None)
            ended.closed_on = at
            entry_id = next(self.ids)
            self._write_own(
                account,
                entry_id,
                ended.app,
                ended.counterparty,
                0,
                effective_on=at,
                hold_id=ended.id,
            )
            alive += (returned := self.give_back(account, unused, at))
            for grant in returned:
                if grant.expires_on <= now:
                    heapq.heappush(due, (grant.expires_on, 1, grant.id, grant))
        later = [grant.expires_on for grant in alive if grant.expires_on > now]
        following = self.book.next_due.get(key)
        account.due_on = min(later if following is None else [following, *later], default=None)

    def _open_holds(self, key: AccountKey) -> Sequence[Hold]:
        """Return the account's loaded holds that are open."""
        if self._due_holds is None:
            self._due_holds = {}
            for hold in self.book.holds.values():
                if hold.state == "open":
                    self._due_holds.setdefault((hold.owner_id, hold.asset), []).append(hold)
        return self._due_holds.get(key, ())

    def expire(self, account: Account, grant: Grant, amount: int, at: datetime) -> None:
        """Book credits to ``@expired`` with the time at which they expired."""
        entry_id = next(self.ids)
        account.posted -= amount
        account.expiring -= amount
        grant.expired += amount
        self.changes.grants[grant.id] = grant
        self.record(entry_id, grant.id, amount)
        self._write_own(account, entry_id, grant.app, EXPIRED, -amount, effective_on=at)

    def due(self, account: Account, at: datetime) -> None:
        """Note that something of the account expires then."""
        account.whole = True
        if account.due_on is None or at < account.due_on:
            account.due_on = at

    def hold(self, hold_id: int) -> Hold | None:
        """Return a hold to be changed."""
        hold = self.holds.get(hold_id)
        if hold is None:
            found = self._parent.hold(hold_id) if self._parent else self.book.holds.get(hold_id)
            if found is None:
                return None
            hold = self.holds[hold_id] = copy_of(found)
        return hold

    def close(self, hold: Hold, state: HoldState, account: Account, entry_id: int | None) -> None:
        """End a hold: what is left of it is no longer held."""
        account.held -= hold.remaining
        hold.state = state
        hold.closed_on = account.changed_on
        hold.closed_by = entry_id
        hold.grants = ()
        self.changes.holds[hold.id] = hold

    def give_back(
        self, account: Account, pieces: Iterable[tuple[int, int]], at: datetime
    ) -> list[Grant]:
        """Give reserved pieces back to their grants at this time; return those that live on."""
        alive: list[Grant] = []
        for grant_id, amount in pieces:
            grant = self.grant(account, grant_id)
            if grant.expires_on <= at:
                self.expire(account, grant, amount, at)
            else:
                grant.remaining += amount
                self.changes.grants[grant.id] = grant
                self.due(account, grant.expires_on)
                alive.append(grant)
        return alive

    def grants_of(self, account: Account) -> list[Grant]:
        """Return the account's loaded grants, in the order they are spent."""
        key = (account.owner_id, account.asset)
        grants = self.grants.get(key)
        if grants is None:
            loaded = (
                self._parent.grants_of(self._parent.account(key))
                if self._parent
                else self.book.grants.get(key, ())
            )
            grants = self.grants[key] = sorted(map(copy_of, loaded), key=burn_order)
        return grants

    def grant(self, account: Account, grant_id: int) -> Grant:
        """Return one of the account's loaded grants."""
        return next(grant for grant in self.grants_of(account) if grant.id == grant_id)

    def take(self, account: Account, amount: int, first: int | None = None) -> list[Piece]:
        """Take so much of the grants in their order, those of the entry ``first`` before others."""
        pieces: list[Piece] = []
        grants = self.grants_of(account)
        if first is not None:
            grants = sorted(grants, key=lambda grant: grant.entry_id != first)
        for grant in grants:
            if amount == 0:
                break
            taken = min(amount, grant.remaining)
            if taken:
                amount -= taken
                grant.remaining -= taken
                self.changes.grants[grant.id] = grant
                pieces.append((grant, taken))
        return pieces

    def burn(
        self, account: Account, entry_id: int, amount: int, first: int | None = None
    ) -> list[Piece]:
        """Spend expiring credits, as far as there are any."""
        if not account.expiring:
            return []
        pieces = self.take(account, amount, first)
        for grant, taken in pieces:
            account.expiring -= taken
            self.record(entry_id, grant.id, taken)
        return pieces

    def give(
        self,
        account: Account,
        entry_id: int,
        pieces: Iterable[tuple[int, datetime, int, str]],
        amount: int,
    ) -> None:
        """Give an amount of which these pieces expire; debt is paid with the others first."""
        pieces = list(pieces)
        debt = account.debt
        account.posted += amount
        owed = max(0, debt - (amount - sum(piece[0] for piece in pieces)))
        for piece, expires_on, priority, app in pieces:
            paid = min(owed, piece)
            owed -= paid
            grant = Grant(
                next(self.ids),
                entry_id,
                app,
                account.owner_id,
                account.asset,
                piece,
                piece - paid,
                priority,
                time_of(account),
                expires_on,
            )
            account.expiring += piece - paid
            insort(self.grants_of(account), grant, key=burn_order)
            self.changes.grants[grant.id] = grant
            self.changes.given.add(grant.id)
            if paid:
                self.record(entry_id, grant.id, paid)
            if grant.remaining:
                self.due(account, expires_on)

    def left_of(self, entry: Entry) -> int:
        """Return how much of an entry can be reversed: not what was, nor what of it has expired."""
        taken_back = self.reversed.get(entry.id, 0)
        expired = 0
        if entry.amount > 0:
            account = self.account((entry.owner_id, entry.asset))
            expired = sum(
                grant.expired for grant in self.grants_of(account) if grant.entry_id == entry.id
            )
        return max(0, abs(entry.amount) - taken_back - expired)

    def restore(
        self, account: Account, entry: Entry, entry_id: int, amount: int
    ) -> list[tuple[int, int]]:
        """Give a spend back; return what of it has expired, to be booked after this entry.

        As if the spend had been smaller: what was taken last comes back first, and credits that do
        not expire are taken last of all.
        """
        debt = account.debt
        account.posted += amount
        taken = self.book.burned.get(entry.id, {})
        plain = abs(entry.amount) - sum(taken.values())
        # What came back before is known by its amount alone: it was the last of what was taken.
        before = self.reversed.get(entry.id, 0)
        back = amount - min(amount, max(0, plain - before))
        before = max(0, before - plain)
        owed = max(0, debt - (amount - back))
        grants = sorted((self.grant(account, grant_id) for grant_id in taken), key=burn_order)
        at = time_of(account)
        expired: list[tuple[int, int]] = []
        for grant in reversed(grants):
            skipped = min(before, taken[grant.id])
            before -= skipped
            piece = min(back, taken[grant.id] - skipped)
            if piece <= 0:
                continue
            back -= piece
            account.expiring += piece
            self.record(entry_id, grant.id, -piece)
            if grant.expires_on <= at:
                expired.append((grant.id, piece))
                continue
            paid = min(owed, piece)
            owed -= paid
            account.expiring -= paid
            if paid:
                self.record(entry_id, grant.id, paid)
            grant.remaining += piece - paid
            self.changes.grants[grant.id] = grant
            self.due(account, grant.expires_on)
        return expired

    def record(self, entry_id: int, grant_id: int, amount: int) -> None:
        """Keep what an entry takes of a grant; negative, what it gives back."""
        key = (entry_id, grant_id)
        self.changes.burns[key] = self.changes.burns.get(key, 0) + amount

    def together_with(self, entry: Entry) -> list[Entry]:
        """Return the entries that were written together with this one."""
        if entry.group_id is None:
            return []
        written = [*self.book.groups.get(entry.group_id, ()), *self.groups.get(entry.group_id, ())]
        return [other for other in written if other.id != entry.id]

    def write(
        self,
        account: Account,
        command: Any,
        *,
        entry_id: int,
        operation: str,
        counterparty: str,
        amount: int,
        nonce: str,
        **more: Any,
    ) -> Entry:
        """Write an entry about an account that is as it will be after it."""
        metadata = getattr(command, "metadata", None)
        entry = Entry(
            entry_id,
            command.app,
            operation,
            account.owner_id,
            counterparty,
            account.asset,
            amount,
            account.posted,
            nonce,
            time_of(account),
            None if metadata is None else as_stored(metadata),
            None,
            account.held,
            account.expiring,
            **more,
        )
        self._move(account, entry)
        self.known[account.owner_id, command.app, nonce] = entry
        return entry

    def _write_own(
        self,
        account: Account,
        entry_id: int,
        app: str,
        counterparty: str,
        amount: int,
        *,
        effective_on: datetime,
        hold_id: int | None = None,
    ) -> None:
        """Write an entry of the ledger itself, which has a nonce that no caller can have."""
        entry = Entry(
            entry_id,
            app,
            EXPIRY,
            account.owner_id,
            counterparty,
            account.asset,
            amount,
            account.posted,
            f"@{entry_id}",
            time_of(account),
            None,
            None,
            account.held,
            account.expiring,
            None if effective_on == account.changed_on else effective_on,
            hold_id=hold_id,
        )
        self._move(account, entry)

    def _move(self, account: Account, entry: Entry) -> None:
        key = (account.owner_id, account.asset)
        self.changes.accounts[key] = account
        system, counterparty = self.changes.system, (entry.counterparty, account.asset)
        system[counterparty] = system.get(counterparty, 0) - entry.amount
        self.append(entry)

    def append(self, entry: Entry) -> None:
        """Keep an entry to be written."""
        self.changes.entries.append(entry)
        if entry.group_id is not None:
            self.groups[entry.group_id] = [*self.groups.get(entry.group_id, ()), entry]

    def keep(self) -> None:
        """Let the parent have what was decided on trial."""
        parent = self._parent
        if parent is None:
            return
        parent.accounts |= self.accounts
        parent.grants |= self.grants
        parent.holds |= self.holds
        parent.known.update(_own(self.known))
        parent.claims.update(_own(self.claims))
        parent.budgets.update(_own(self.budgets))
        parent.reversed.update(_own(self.reversed))
        parent.groups.update(_own(self.groups))
        parent.changes.absorb(self.changes)


def _own(layered: Any) -> Any:
    """Return what a hand on trial has put over what its parent knows."""
    return layered.maps[0]


def split(
    pieces: Sequence[tuple[int, int]], amount: int
) -> tuple[tuple[tuple[int, int], ...], tuple[tuple[int, int], ...]]:
    """Divide pieces into the first of them up to this amount, and the others."""
    taken: list[tuple[int, int]] = []
    kept: list[tuple[int, int]] = []
    for grant_id, size in pieces:
        now = min(size, amount)
        amount -= now
        if now:
            taken.append((grant_id, now))
        if size > now:
            kept.append((grant_id, size - now))
    return tuple(taken), tuple(kept)


def time_of(account: Account) -> datetime:
    """Return the present of an account in hand."""
    assert account.changed_on is not None  # noqa: S101  # it was set when it was taken into hand
    return account.changed_on


def copy_of(struct: T) -> T:
    """Return a copy that can be changed."""
    return msgspec.structs.replace(struct)
