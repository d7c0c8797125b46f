"""The law of the ledger: what a posting must be, and what becomes of it.

Nothing here knows a clock, a database or chance. ``command_of`` checks a posting against its
application's rules; ``decide`` takes what was loaded of the book and a list of commands, and
returns an outcome for each and the changes to write. The rules, in the order they are applied:

1. A nonce that the application has used for this owner answers with the first entry if the body is
   the same, and with the first differing field if it is not. It does so for ever.
2. An operation that is allowed once per period is refused when the owner has had it.
3. Nobody spends below the floor: ``posted - held + amount >= floor``. A gain is never refused for
   the floor.
4. No balance leaves the range of a signed 64-bit integer.
5. The owner gains the amount, the counterparty loses it: the sum over all accounts stays zero.

A refusal changes nothing and leaves its nonce free. Commands are decided in the order given, each
seeing what those before it did.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec

from shared_ledger.book import (
    Account,
    AccountKey,
    ClaimKey,
    Entry,
    NonceKey,
    Outcome,
    Posted,
    Posting,
)
from shared_ledger.errors import (
    AlreadyClaimed,
    BalanceOutOfRange,
    InsufficientCredits,
    InvalidPosting,
    NonceReused,
    Refusal,
)
from shared_ledger.operations import INT64_MAX, INT64_MIN, Application, Once, Rule

MAX_ID_LENGTH = 255
MAX_METADATA_BYTES = 8 * 1024
MAX_METADATA_DEPTH = 64

# jsonb cannot hold a NUL: an odd number of backslashes before u0000 is one.
_NUL_IN_JSON = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


class Command(msgspec.Struct, frozen=True, gc=False):
    """A posting that has passed its rule: complete, and safe to write."""

    app: str
    operation: str
    owner_id: str
    nonce: str
    amount: int
    counterparty: str
    asset: str
    once: Once | None = None
    amount_given: bool = False
    metadata: str | None = None


def command_of(application: Application[Any], posting: Posting[Any]) -> Command:
    """Check a posting against its application's rules.

    Raises
    ------
    InvalidPosting
        Naming the field that is wrong, and what to do about it.
    """
    operation = posting.operation
    rule = application.rules.get(operation) if isinstance(operation, str) else None
    if rule is None:
        raise application.unknown_operation(operation)
    owner_id = check_owner_id(posting.owner_id)
    nonce = _checked_text("nonce", posting.nonce)
    amount = posting.amount
    metadata = posting.metadata
    return Command(
        application.name,
        str.__str__(operation),
        owner_id,
        nonce,
        rule.minimum
        if amount is None and rule.minimum == rule.maximum
        else _checked_amount(rule, amount),
        rule.counterparty,
        rule.asset,
        rule.once,
        amount is not None,
        None if metadata is None else _checked_metadata(metadata),
    )


def check_owner_id(owner_id: str) -> str:
    """Return the id; raise ``InvalidPosting`` if it cannot be an owner's."""
    owner_id = _checked_text("owner_id", owner_id)
    if owner_id[0] == "@":
        raise InvalidPosting("owner_id", "begins with '@', which is kept for system accounts")
    if not owner_id.isascii() and not unicodedata.is_normalized("NFC", owner_id):
        raise InvalidPosting("owner_id", "is not in Unicode's normal form NFC; normalise it first")
    return owner_id


def check_asset(asset: str) -> str:
    """Return the asset; raise ``InvalidPosting`` if nothing can have this name."""
    return _checked_text("asset", asset)


def _checked_text(name: str, text: object) -> str:
    if not isinstance(text, str):
        raise InvalidPosting(name, f"is a string, not {type(text).__name__}")
    if not text:
        raise InvalidPosting(name, "is empty")
    if len(text) > MAX_ID_LENGTH:
        raise InvalidPosting(name, f"is longer than {MAX_ID_LENGTH} characters")
    if not text.isprintable():
        raise InvalidPosting(name, "holds a control character or another that cannot be printed")
    if not text.isascii() and "\ufffd" in text:
        raise InvalidPosting(name, "holds U+FFFD: it was not valid UTF-8 on its way here")
    if text[0] == " " or text[-1] == " ":
        raise InvalidPosting(name, "begins or ends with a space")
    # Plain, since a member of another enum of strings is written as its name by some and as its
    # value by others.
    return str.__str__(text)


def _checked_amount(rule: Rule, amount: object) -> int:
    if amount is None:
        raise InvalidPosting("amount", "is required: this operation has no fixed amount")
    if type(amount) is not int:
        raise InvalidPosting("amount", f"is a whole number, not {type(amount).__name__}")
    if rule.minimum <= amount <= rule.maximum:
        return amount
    if rule.minimum == rule.maximum:
        raise InvalidPosting("amount", f"is fixed at {rule.minimum} for this operation")
    if not INT64_MIN <= amount <= INT64_MAX:
        raise InvalidPosting("amount", "is outside the range of a 64-bit integer")
    if rule.maximum <= 0 < amount:
        raise InvalidPosting("amount", f"{amount} has the wrong sign: this operation takes credits")
    if rule.minimum >= 0 > amount:
        raise InvalidPosting("amount", f"{amount} has the wrong sign: this operation gives credits")
    raise InvalidPosting("amount", f"{amount} is not within {rule.minimum} to {rule.maximum}")


def _checked_metadata(metadata: object) -> str:
    if not isinstance(metadata, Mapping):
        raise InvalidPosting("metadata", f"is a JSON object, not {type(metadata).__name__}")
    try:
        text = json_text(metadata)
        value = json.loads(text)
        faithful = value == metadata
        size = len(text.encode())
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidPosting("metadata", f"is not JSON: {error}") from None
    if not faithful:
        raise InvalidPosting("metadata", "is not JSON: keys are strings, sequences are lists")
    if size > MAX_METADATA_BYTES:
        raise InvalidPosting("metadata", f"is {size} bytes of JSON, over {MAX_METADATA_BYTES}")
    if _NUL_IN_JSON.search(text):
        raise InvalidPosting("metadata", "holds a NUL character")
    # What the caller's stack could hold might be too deep for that of whoever reads it.
    if text.count("[") + text.count("{") > MAX_METADATA_DEPTH < _depth(value):
        raise InvalidPosting("metadata", f"is nested deeper than {MAX_METADATA_DEPTH} levels")
    return text


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level := [node for node in level if isinstance(node, dict | list)]:
        depth += 1
        level = [
            child for node in level for child in (node.values() if isinstance(node, dict) else node)
        ]
    return depth


def json_text(value: Mapping[str, Any]) -> str:
    """Write a JSON object on one line."""
    return json.dumps(dict(value), allow_nan=False, ensure_ascii=False, separators=(",", ":"))


def _as_stored(text: str) -> Any:
    """Read JSON as the database gives it back: 1e+23 comes as a whole number of 24 digits."""
    return json.loads(
        text, parse_float=lambda digits: int(Decimal(digits)) if "e+" in digits else float(digits)
    )


def _comparable(value: object) -> object:
    """Return what is equal for an equal field: in metadata 1 is 1.0, and is not true."""
    if not isinstance(value, Mapping):
        return value
    return json.loads(json_text(value), parse_int=_number, parse_float=_number)


def _number(digits: str) -> tuple[Decimal]:
    # In a tuple, which JSON has not, because Python takes true for 1.
    return (Decimal(digits),)


@dataclass(slots=True)
class Book:
    """What was loaded for a list of commands, after the accounts were locked.

    Attributes
    ----------
    now
        The database's clock, UTC.
    ids
        As many new entry ids as there are commands, increasing.
    accounts
        The existing owners' accounts; one that is missing has nothing yet.
    entries
        Entries that already hold one of the commands' nonces.
    claims
        The newest period in which an owner has had an operation that is allowed once per period.
    """

    now: datetime
    ids: Iterable[int]
    accounts: Mapping[AccountKey, Account] = field(default_factory=dict)
    entries: Mapping[NonceKey, Entry] = field(default_factory=dict)
    claims: Mapping[ClaimKey, str] = field(default_factory=dict)


@dataclass(slots=True)
class Changes:
    """What to write, all of it or nothing: new entries in order, and the accounts they change.

    ``posted`` and ``opened`` are the new balances of owners' accounts that exist and that are new;
    ``system`` is what system accounts gain.
    """

    entries: list[Entry] = field(default_factory=list)
    posted: dict[AccountKey, int] = field(default_factory=dict)
    opened: dict[AccountKey, int] = field(default_factory=dict)
    system: dict[AccountKey, int] = field(default_factory=dict)


def decide(book: Book, commands: Sequence[Command]) -> tuple[list[Outcome], Changes]:
    """Decide every command in order; return an outcome for each, and what to write."""
    decision = Decision(book)
    return decision.take(commands), decision.changes


class Decision:
    """Decisions on one book, some commands at a time; those to come see those that were taken.

    A writer that takes a batch in pieces can write one piece while it decides the next.
    """

    __slots__ = ("_book", "_claims", "_ids", "_known", "changes")

    def __init__(self, book: Book) -> None:
        self.changes = Changes()
        self._book = book
        self._ids = iter(book.ids)
        self._known = dict(book.entries)
        self._claims = dict(book.claims)

    def take(self, commands: Iterable[Command]) -> list[Outcome]:
        """Decide these commands in order; the changes grow by what they do."""
        book, known, claims, changes = self._book, self._known, self._claims, self.changes
        now, accounts, system = book.now, book.accounts, changes.system
        outcomes: list[Outcome] = []
        for command in commands:
            owner_id, app, asset = command.owner_id, command.app, command.asset
            nonce_key = (owner_id, app, command.nonce)
            recorded = known.get(nonce_key)
            if recorded is not None:
                outcomes.append(replay(recorded, command))
                continue
            key = (owner_id, asset)
            account = accounts.get(key)
            if account is None:
                account, balances = Account(owner_id, asset), changes.opened
            else:
                balances = changes.posted
            posted = balances.get(key, account.posted)
            # A clock that was set back does not make an account's time run backwards.
            changed_on = account.changed_on
            created_on = (
                now if changed_on is None or changed_on <= now else changed_on.astimezone(UTC)
            )
            period = None
            refusal = refuse_amount(command, account, posted)
            if command.once is not None:
                period = period_of(command.once, created_on)
                claim_key = (owner_id, app, command.operation)
                refusal = refuse_claim(command, period, claims.get(claim_key)) or refusal
                if refusal is None:
                    claims[claim_key] = period
            if refusal is not None:
                outcomes.append(refusal)
                continue
            amount = command.amount
            entry = Entry(
                next(self._ids),
                app,
                command.operation,
                owner_id,
                command.counterparty,
                asset,
                amount,
                posted + amount,
                command.nonce,
                created_on,
                None if command.metadata is None else _as_stored(command.metadata),
                period,
            )
            known[nonce_key] = entry
            balances[key] = posted + amount
            counterparty = (command.counterparty, asset)
            system[counterparty] = system.get(counterparty, 0) - amount
            changes.entries.append(entry)
            outcomes.append(Posted(entry))
        return outcomes


def replay(recorded: Entry, command: Command) -> Outcome:
    """Answer a nonce that was used before: the first entry, or the first field that differs.

    An amount that was left out agrees with any: it asks for the amount that the rule gave then.
    """
    given = {
        "operation": command.operation,
        "asset": command.asset,
        "amount": command.amount if command.amount_given else recorded.amount,
        "metadata": None if command.metadata is None else _as_stored(command.metadata),
    }
    for name, now in given.items():
        before = getattr(recorded, name)
        if _comparable(before) != _comparable(now):
            return NonceReused(
                command.owner_id, command.nonce, field=name, recorded=before, given=now
            )
    return Posted(recorded, replayed=True)


def period_of(once: Once, at: datetime) -> str:
    """Name the period of an operation that is allowed once in it: ``ever``, or the UTC day."""
    return once if once == "ever" else at.date().isoformat()


def refuse_claim(command: Command, period: str, claimed: str | None) -> Refusal | None:
    """Refuse what the owner has already had in this period or a later one."""
    if claimed is None or claimed < period:
        return None
    return AlreadyClaimed(command.owner_id, operation=command.operation, period=period)


def refuse_amount(command: Command, account: Account, posted: int) -> Refusal | None:
    """Refuse an amount that would pass the floor, or leave the range of the balance."""
    amount = command.amount
    if amount < 0 and account.floor is not None:
        available = posted - account.held - account.floor
        if available + amount < 0:
            return InsufficientCredits(
                command.owner_id, asset=command.asset, available=available, required=-amount
            )
    if not INT64_MIN <= posted + amount <= INT64_MAX:
        return BalanceOutOfRange(
            command.owner_id, asset=command.asset, posted=posted, amount=amount
        )
    return None
