"""The rows of a batch: loads what commands need, and saves what became of them.

For any connection: the writer runs the statements (``sql``) with the driver (``store``), a caller's
own transaction with SQLAlchemy (``transaction``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import count
from typing import Any

from shared_ledger.book import (
    Account,
    AccountKey,
    Balance,
    BudgetKey,
    Entry,
    Grant,
    Hold,
    NonceKey,
    Reading,
)
from shared_ledger.changes import Book, Changes
from shared_ledger.commands import (
    AnyCommand,
    AtomicCommand,
    CaptureCommand,
    Command,
    ReleaseCommand,
    ReverseCommand,
    SweepCommand,
    flat,
)
from shared_ledger.decide import Decision
from shared_ledger.limits import budgets_of
from shared_ledger.operations import INT64_MAX, TRANSFER
from shared_ledger.sql import numbers, numbers_by_name, text_array, times

Run = Callable[[str, Mapping[str, str | None]], Sequence[Any]]
"""Runs the statement of this name and returns its rows."""


class Rows:
    """The rows of one book, over a connection that ``run`` knows."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def complete(
        self,
        book: Book,
        commands: Sequence[AnyCommand],
        *,
        careful: bool,
        plain: bool = False,
        locked: bool = True,
    ) -> None:
        """Load the rest of what the commands need, when the accounts are locked.

        In statements of their own: a lock wait does not refresh the snapshot of the statement that
        waited. Without ``careful`` nonces are taken for new; ``plain`` commands are all so by
        ``is_plain``. What is not ``locked`` is only looked at, and budgets are not locked either.
        """
        each = commands if plain else list(flat(commands))
        if not plain:
            once = [c for c in each if isinstance(c, Command) and c.once is not None]
            if once:
                book.claims = self._claims(once)
            if any(isinstance(c, Command) and c.terms is not None for c in each):
                book.budgets = self._budgets(book, each, locked=locked)
        # After the budgets: an owner without an account is not locked, so that whoever waits for a
        # budget may have waited for the very command that it is about to repeat.
        if careful:
            book.entries = self.entries_by_nonce(commands)
            groups = {e.group_id for e in book.entries.values() if e.group_id is not None}
            book.groups = self._groups(groups)
        named = {entry.hold_id for entry in book.entries.values() if entry.hold_id is not None}
        at = {
            key: account_time(account, book.now)
            for key, account in book.accounts.items()
            if account.due_on is not None
        }
        # What happens most needs no more than that.
        if plain and not at and not named:
            return
        named.update(c.hold_id for c in each if isinstance(c, CaptureCommand | ReleaseCommand))
        self._load_credits(book, each, at, named)

    def entries_by_nonce(self, commands: Iterable[AnyCommand]) -> dict[NonceKey, Entry]:
        """Return the entries that hold these commands' nonces."""
        named = list(_named(commands))
        rows = self._run(
            "entries_by_nonce",
            {
                "owners": text_array([command.owner_id for command in named]),
                "apps": text_array([command.app for command in named]),
                "nonces": text_array([command.nonce for command in named]),
            },
        )
        return {(row[3], row[1], row[8]): entry_of(row) for row in rows}

    def entries(self, ids: Collection[int]) -> dict[int, list[Entry]]:
        """Return entries by id; of a transfer, or the reversal of one, both, the first first."""
        if not ids:
            return {}
        found = self._entries_by_id(ids)
        groups = {
            entry.group_id
            for entry in found.values()
            if entry.group_id is not None and entry.operation == TRANSFER
        }
        if not groups:
            return {entry.id: [entry] for entry in found.values()}
        firsts = self._entries_by_id(groups)
        others = self._groups(groups)
        return {
            entry.id: [firsts[entry.group_id], *others.get(entry.group_id, ())]
            if entry.group_id in groups
            else [entry]
            for entry in found.values()
        }

    def holds(self, ids: Collection[int]) -> dict[int, Hold]:
        """Return holds by id, as they are stored: one that is due may still be open."""
        if not ids:
            return {}
        rows = self._run("holds_by_id", {"ids": numbers(ids)})
        return {row[0]: hold_of(row) for row in rows}

    def balances(self, keys: Collection[AccountKey]) -> dict[AccountKey, Reading | None]:
        """Read balances in one statement: those of none as zero, of accounts that are due none."""
        owners = sorted({owner_id for owner_id, _ in keys})
        assets = sorted({asset for _, asset in keys})
        found: dict[AccountKey, Reading | None] = {
            key: Reading(Balance(key[0], 0, 0, 0, key[1])) for key in keys
        }
        rows = self._run("balances", {"assets": text_array(assets), "owners": text_array(owners)})
        for owner_id, asset, posted, held, floor, changed_on, expiring, due_on, *more in rows:
            account = Account(
                owner_id, asset, posted, held, floor, changed_on, expiring or 0, due_on
            )
            version, lasts_s = more
            due = lasts_s is not None and lasts_s <= 0
            found[owner_id, asset] = None if due else Reading(balance_of(account), version, lasts_s)
        return found

    def settled(self, key: AccountKey, at: datetime | None = None) -> Account:
        """Return an account as it is now, or will be at a later time, if nobody touches it.

        To be called in a transaction with a snapshot of its own.
        """
        owner_id, asset = key
        (now,) = self._run("clock", {})[0]
        rows = self._run("look", {"asset": asset, "owners": text_array([owner_id])})
        book = Book(utc(now) if at is None else at, count(1))
        for row in rows:
            book.accounts = {key: account_of(row, asset)}
        self.complete(book, [SweepCommand(*key)], careful=False)
        return Decision(book).account(key)

    def change_credits(self, book: Book, changes: Changes) -> None:
        """Write what changed of the holds, grants and budgets that were there before."""
        holds = [hold for hold in changes.holds.values() if hold.id in book.holds]
        if holds:
            self._run(
                "change_holds",
                {
                    "ids": numbers([hold.id for hold in holds]),
                    "captured": numbers([hold.captured for hold in holds]),
                    "states": text_array([hold.state for hold in holds]),
                    "closed": times([hold.closed_on for hold in holds]),
                    "closers": numbers([hold.closed_by for hold in holds]),
                    "grant_ids": text_array([numbers(g for g, _ in h.grants) for h in holds]),
                    "grant_amounts": text_array([numbers(n for _, n in h.grants) for h in holds]),
                },
            )
        grants = [grant for grant in changes.grants.values() if grant.id not in changes.given]
        if grants:
            self._run(
                "change_grants",
                {
                    "ids": numbers([grant.id for grant in grants]),
                    "remaining": numbers([grant.remaining for grant in grants]),
                    "expired": numbers([grant.expired for grant in grants]),
                },
            )
        if changes.budgets:
            keys = sorted(changes.budgets)
            self._run(
                "spend_budgets",
                {
                    **_budget_columns(keys),
                    "amounts": numbers([changes.budgets[key] for key in keys]),
                },
            )

    def save_accounts(
        self, book: Book, changes: Changes, stored: Collection[AccountKey] = ()
    ) -> None:
        """Change the owners' accounts, then add to the system accounts.

        Those that are ``stored`` with what they have are saved if there is more to them.
        """
        accounts: Collection[Account] = changes.accounts.values()
        if stored:
            accounts = [
                account
                for key, account in changes.accounts.items()
                if account.whole or key not in stored
            ]
        now = book.now.isoformat()
        balances: dict[str, dict[str, int]] = {}
        for account in accounts:
            if not account.whole:
                balances.setdefault(account.asset, {})[account.owner_id] = account.posted
        for asset, of_asset in balances.items():
            named = {"now": now, "asset": asset, "balances": numbers_by_name(of_asset)}
            self._run("save", named)
        whole = [account for account in accounts if account.whole]
        if whole:
            self._save_whole(book, changes, whole)
        if changes.system:
            self._add_to_system(now, changes.system)

    def _save_whole(self, book: Book, changes: Changes, accounts: Sequence[Account]) -> None:
        """Change accounts with holds or grants: all that may change, or what mostly does."""
        held: list[Account] = []
        whole: list[Account] = []
        for account in accounts:
            before = book.accounts.get((account.owner_id, account.asset))
            few = before is not None and _only_holds_changed(before, account)
            (held if few else whole).append(account)
        if held:
            self._run(
                "save_held",
                {
                    "now": book.now.isoformat(),
                    **account_columns(held),
                    "helds": numbers([account.held for account in held]),
                },
            )
        if not whole:
            return
        # Of others nothing had expired, when it was looked for.
        written = {(entry.owner_id, entry.asset) for entry in changes.entries}
        ats = [a.changed_on if (a.owner_id, a.asset) in written else None for a in whole]
        self._run(
            "save_whole",
            {
                **account_columns(whole),
                "ats": times(ats),
                "helds": numbers([account.held for account in whole]),
                "expirings": numbers([account.expiring for account in whole]),
                "dues": times([account.due_on for account in whole]),
                "debts": numbers([account.debt for account in whole]),
            },
        )

    def _add_to_system(self, now: str, gains: Mapping[AccountKey, int]) -> None:
        """Add to the system accounts, in one order for everybody.

        Those that gain nothing need only be there: nobody waits for them.
        """
        for name, system in (
            ("open_system", sorted(key for key, gain in gains.items() if not gain)),
            ("add", sorted(key for key, gain in gains.items() if gain)),
        ):
            if system:
                self._run(
                    name,
                    {
                        "now": now,
                        "owners": text_array([owner_id for owner_id, _ in system]),
                        "assets": text_array([asset for _, asset in system]),
                        "gains": numbers([gains[key] for key in system]),
                    },
                )

    def _entries_by_id(self, ids: Iterable[int]) -> dict[int, Entry]:
        rows = self._run("entries_by_id", {"ids": numbers(ids)})
        return {row[0]: entry_of(row) for row in rows}

    def _groups(self, groups: Collection[int]) -> dict[int, list[Entry]]:
        found: dict[int, list[Entry]] = {}
        if groups:
            wanted = text_array([str(group) for group in groups])
            for row in self._run("entries_of_groups", {"groups": wanted}):
                entry = entry_of(row)
                if entry.group_id is not None:
                    found.setdefault(entry.group_id, []).append(entry)
        return found

    def _claims(self, once: Sequence[Command]) -> dict[tuple[str, str, str], str]:
        rows = self._run(
            "claims",
            {
                "owners": text_array([command.owner_id for command in once]),
                "apps": text_array([command.app for command in once]),
                "operations": text_array([command.operation for command in once]),
            },
        )
        return {(owner_id, app, operation): period for owner_id, app, operation, period in rows}

    def _budgets(
        self, book: Book, commands: Iterable[AnyCommand], *, locked: bool
    ) -> dict[BudgetKey, int]:
        keys: set[BudgetKey] = set()
        for command in commands:
            if isinstance(command, Command) and command.terms is not None:
                account = book.accounts.get((command.owner_id, command.asset))
                at = account_time(account, book.now) if account else book.now
                keys.update(key for key, _ in budgets_of(command, command.terms, at))
        if not keys:
            return {}
        columns = _budget_columns(sorted(keys))
        if locked:
            columns["after_id"] = str(next(iter(book.ids)) - 1)
        rows = self._run("budgets" if locked else "budgets_now", columns)
        return {(app, operation, period): spent for app, operation, period, spent in rows}

    def _load_credits(
        self,
        book: Book,
        commands: Sequence[AnyCommand],
        at: Mapping[AccountKey, datetime],
        named: set[int],
    ) -> None:
        """Load holds and grants: those named, those due, and those that may be spent."""
        due = {key: time for key, time in at.items() if (book.accounts[key].due_on or time) <= time}
        holds = self.holds(named)
        grants: list[Grant] = []
        if due:
            holds |= {row[0]: hold_of(row) for row in self._run("holds_due", _due_columns(due))}
            grants += map(grant_of, self._run("grants_due", _due_columns(due)))
            book.next_due = {
                (owner_id, asset): utc(next_on)
                for owner_id, asset, next_on in self._run("next_due", _due_columns(due))
                if next_on is not None
            }
        book.holds = holds
        ids = {grant_id for hold in holds.values() for grant_id, _ in hold.grants}
        undone = [
            entry
            for command in commands
            if isinstance(command, ReverseCommand)
            for entry in command.entries
        ]
        if undone:
            ids |= self._load_reversals(book, undone)
            given = numbers(entry.id for entry in undone if entry.amount > 0)
            grants += map(grant_of, self._run("grants_by_entry", {"ids": given}))
        if ids:
            grants += map(grant_of, self._run("grants_by_id", {"ids": numbers(ids)}))
        needs = _needs(book, commands)
        if needs:
            rows = self._run(
                "grants_needed",
                {
                    **_due_columns(
                        {key: account_time(book.accounts[key], book.now) for key in needs}
                    ),
                    "needs": numbers([min(need, INT64_MAX) for need in needs.values()]),
                },
            )
            grants += map(grant_of, rows)
        loaded: dict[AccountKey, dict[int, Grant]] = {}
        for grant in grants:
            loaded.setdefault((grant.owner_id, grant.asset), {})[grant.id] = grant
        book.grants = {key: list(found.values()) for key, found in loaded.items()}

    def _load_reversals(self, book: Book, undone: Sequence[Entry]) -> set[int]:
        """Load what was reversed before; return the grants that paid for the entries."""
        # Each once: a batch may reverse an entry several times.
        ids = {"ids": numbers({entry.id for entry in undone})}
        book.reversed = {entry_id: int(amount) for entry_id, amount in self._run("reversed", ids)}
        spends = {"ids": numbers({entry.id for entry in undone if entry.amount < 0})}
        burned: dict[int, dict[int, int]] = {}
        for entry_id, grant_id, amount in self._run("burned", spends):
            burned.setdefault(entry_id, {})[grant_id] = amount
        book.burned = burned
        return {grant_id for taken in burned.values() for grant_id in taken}


def account_time(account: Account, now: datetime) -> datetime:
    """Return the present of an account: a clock that was set back does not take it back."""
    changed_on = account.changed_on
    return now if changed_on is None or changed_on <= now else utc(changed_on)


def account_of(row: Sequence[Any], asset: str, gain: int = 0) -> Account:
    """Make an account of a row that ``lock``, ``look`` or ``advance`` gave, without the gain."""
    owner_id, posted, held, floor, changed_on, expiring, due_on = row
    posted -= gain
    return Account(
        owner_id,
        asset,
        posted,
        held,
        floor,
        changed_on,
        expiring or 0,
        due_on,
        due_on is not None or (floor is not None and posted - held < floor),
    )


def balance_of(account: Account) -> Balance:
    """Make a balance of an account."""
    return Balance(
        account.owner_id,
        account.posted,
        account.available,
        account.held,
        account.asset,
        account.expiring,
        account.debt,
    )


def is_plain(command: AnyCommand) -> bool:
    """Tell whether a command needs nothing of the book but its account."""
    return type(command) is Command and command.terms is None and command.once is None


def new_holds(book: Book, changes: Changes) -> list[Hold]:
    """Return the holds to be inserted."""
    return [hold for hold in changes.holds.values() if hold.id not in book.holds]


def new_grants(changes: Changes) -> list[Grant]:
    """Return the grants to be inserted."""
    return [grant for grant in changes.grants.values() if grant.id in changes.given]


def entry_of(row: Sequence[Any]) -> Entry:
    """Make an entry of a row with the columns ``ENTRY_COLUMNS``."""
    fields = list(row)
    fields[9] = utc(fields[9])
    fields[12] = fields[12] or 0
    fields[13] = fields[13] or 0
    if fields[14] is not None:
        fields[14] = utc(fields[14])
    if fields[18] is not None:
        fields[18] = utc(fields[18])
    return Entry(*fields)


def hold_of(row: Sequence[Any]) -> Hold:
    """Make a hold of a row with the columns ``HOLD_COLUMNS``."""
    fields: list[Any] = list(row[:14])
    fields[8], fields[9] = utc(fields[8]), utc(fields[9])
    if fields[12] is not None:
        fields[12] = utc(fields[12])
    fields.append(tuple(zip(row[14], row[15], strict=True)))
    return Hold(*fields)


def grant_of(row: Sequence[Any]) -> Grant:
    """Make a grant of a row with the columns ``GRANT_COLUMNS``."""
    fields = list(row)
    fields[8], fields[9] = utc(fields[8]), utc(fields[9])
    return Grant(*fields)


def utc(at: datetime) -> datetime:
    """Show a time in UTC, whatever the session's time zone."""
    return at.astimezone(UTC)


def _named(commands: Iterable[AnyCommand]) -> Iterator[AnyCommand]:
    """Give the commands that have nonces: a group as a whole, an atomic batch's one by one."""
    for command in commands:
        if isinstance(command, AtomicCommand):
            yield from _named(command.members)
        elif command.nonce:
            yield command


def _only_holds_changed(before: Account, after: Account) -> bool:
    """Tell whether of an account only what is posted and held is another."""
    return (
        (before.posted, before.held) != (after.posted, after.held)
        and before.expiring == after.expiring
        and before.due_on == after.due_on
        and not before.debt
        and not after.debt
    )


def _needs(book: Book, commands: Iterable[AnyCommand]) -> dict[AccountKey, int]:
    """Return what the commands may take of accounts that have credits which expire."""
    needs: dict[AccountKey, int] = {}
    for command in commands:
        if isinstance(command, ReverseCommand):
            keys = [(entry.owner_id, entry.asset) for entry in command.entries if entry.amount > 0]
        else:
            keys = [(command.owner_id, command.asset)] if command.spends else []
        for key in keys:
            account = book.accounts.get(key)
            if account is not None and account.expiring:
                needs[key] = needs.get(key, 0) + command.spends
    return needs


def account_columns(accounts: Sequence[Account]) -> dict[str, str | None]:
    """Write which accounts, and their balances."""
    return {
        "owners": text_array([account.owner_id for account in accounts]),
        "assets": text_array([account.asset for account in accounts]),
        "balances": numbers([account.posted for account in accounts]),
    }


def _due_columns(due: Mapping[AccountKey, datetime]) -> dict[str, str | None]:
    return {
        "owners": text_array([owner_id for owner_id, _ in due]),
        "assets": text_array([asset for _, asset in due]),
        "ats": times(due.values()),
    }


def _budget_columns(keys: Sequence[BudgetKey]) -> dict[str, str | None]:
    return {
        "apps": text_array([app for app, _, _ in keys]),
        "operations": text_array([operation for _, operation, _ in keys]),
        "periods": text_array([period for _, _, period in keys]),
    }
