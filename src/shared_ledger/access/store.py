"""What of users and keys is in the database. Its calls wait for it: not for an event loop."""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from types import TracebackType
from typing import Any, Self

import sqlalchemy as sa
import sqlalchemy.exc
from sqlalchemy.engine import Connection

from shared_ledger.access.callers import Caller
from shared_ledger.access.keys import ApiKey, NewKey, digest, is_id, new_id, new_secret
from shared_ledger.access.refusals import KeyBudgetSpent, KeyNotFound, UsernameTaken
from shared_ledger.access.users import User, folded
from shared_ledger.connections import make_engine
from shared_ledger.errors import LedgerUnavailable
from shared_ledger.schema import BookTables

CONNECTIONS = 4

_NO_DIGEST = bytes(32)

_KEY_COLUMNS = """
    key.id, key.name, key.app, key.operations, key.daily_budget, coalesce(today.issued, 0),
    key.created_on, key.created_by, key.rotated_on,
    case when key.previous_until > clock_timestamp() then key.previous_until end, key.revoked_on
from {api_keys} as key
left join {key_issues} as today on today.key_id = key.id and today.day = {today}
"""

# The database's day, which all processes agree on.
_TODAY = "(clock_timestamp() at time zone 'UTC')::date"

# One statement, so that what several processes reserve at once adds up. The sum is of numerics: it
# may be more than a 64-bit integer holds. No row: the budget does not allow it.
_RESERVE = """
insert into {key_issues} as issues (key_id, day, issued)
select id, {today}, cast(:amount as numeric)
from {api_keys}
where id = :key_id and (daily_budget is null or daily_budget >= cast(:amount as numeric))
on conflict (key_id, day) do update
set issued = issues.issued + excluded.issued
where issues.issued::numeric + excluded.issued <= (
    select coalesce(daily_budget, 9223372036854775807) from {api_keys} where id = :key_id
)
returning day
"""


@dataclass(frozen=True, slots=True)
class Reservation:
    """What a key is allowed to give, of the budget of a day."""

    key_id: str
    day: date
    amount: int


class AccessStore:
    """Users and keys in one book."""

    def __init__(self, url: str, tables: BookTables) -> None:
        self._engine = make_engine(url, pool_size=CONNECTIONS)
        self._tables = tables
        self._names = {
            "users": tables.users.fullname,
            "api_keys": tables.api_keys.fullname,
            "key_issues": tables.key_issues.fullname,
            "accounts": tables.accounts.fullname,
            "entries": tables.entries.fullname,
            "today": _TODAY,
        }

    def add_user(
        self, username: str, password_hash: str, *, is_admin: bool = False, unclaimed: bool = False
    ) -> User:
        """Add a user; with ``unclaimed`` only if the book knows no owner of this name.

        Raises
        ------
        UsernameTaken
            If somebody has the name.
        """
        nobody = "where not exists (select from {accounts} where owner_id = :username)"
        found = self._one(
            "insert into {users} (created_on, is_admin, folded, username, password_hash) "
            "select clock_timestamp(), :is_admin, :folded, :username, :password_hash "
            + (nobody if unclaimed else "")
            + " on conflict do nothing returning username, is_admin, created_on",
            username=username,
            folded=folded(username),
            is_admin=is_admin,
            password_hash=password_hash,
        )
        if found is None:
            raise UsernameTaken(username)
        return User(*found)

    def user(self, username: str) -> tuple[User, str] | None:
        """Return a user, however the name is written, and what is stored of his password."""
        found = self._one(
            "select username, is_admin, created_on, password_hash from {users} "
            "where folded = :folded",
            folded=folded(username),
        )
        return None if found is None else (User(*found[:3]), found[3])

    def caller_of_user(self, username: str) -> Caller | None:
        """Return a user as a caller."""
        found = self._one(
            "select is_admin from {users} where folded = :folded and username = :username",
            folded=folded(username),
            username=username,
        )
        if found is None:
            return None
        return Caller("administrator" if found[0] else "user", username)

    def caller_of_key(self, key_id: str, key: str) -> Caller | None:
        """Return the service that has this key; ``None`` if nobody has, or it is revoked."""
        found = self._one(
            "select digest, "
            "case when previous_until > clock_timestamp() then previous_digest end, "
            "app, operations, daily_budget "
            "from {api_keys} where id = :key_id and revoked_on is null",
            key_id=key_id,
        )
        given = digest(key)
        present, previous = (_NO_DIGEST, None) if found is None else found[:2]
        # Both are compared, in constant time.
        right = hmac.compare_digest(given, bytes(present))
        right |= hmac.compare_digest(given, bytes(previous or _NO_DIGEST))
        if found is None or not right:
            return None
        operations = None if found[3] is None else frozenset(found[3])
        return Caller("service", key_id, found[2], operations, found[4])

    def add_key(self, new: NewKey, created_by: str) -> tuple[ApiKey, str]:
        """Add a key; return it, and what its service has to send."""
        key_id = new_id()
        key = new_secret(key_id)
        with self._begin() as connection:
            connection.execute(
                sa.insert(self._tables.api_keys).values(
                    id=key_id,
                    name=new.name,
                    app=new.application,
                    operations=None if new.operations is None else list(new.operations),
                    daily_budget=new.daily_budget,
                    created_on=sa.func.clock_timestamp(),
                    created_by=created_by,
                    digest=digest(key),
                )
            )
            return self._key(connection, key_id), key

    def keys(self) -> list[ApiKey]:
        """Return all keys, the revoked ones too, oldest first."""
        with self._begin() as connection:
            rows = connection.execute(
                self._text(f"select {_KEY_COLUMNS} order by key.created_on, key.id")
            )
            return [ApiKey(*row) for row in rows]

    def rotate_key(self, key_id: str, grace_s: int = 0) -> tuple[ApiKey, str]:
        """Give a key a new secret; the old one opens for ``grace_s`` seconds more.

        Raises
        ------
        KeyNotFound
            If there is no such key, or it is revoked.
        """
        key = new_secret(key_id)
        return self._changed(
            "set digest = :digest, rotated_on = clock_timestamp(), "
            "previous_digest = case when :grace_s > 0 then digest end, "
            "previous_until = case when :grace_s > 0 "
            "then clock_timestamp() + make_interval(secs => :grace_s) end",
            key_id,
            digest=digest(key),
            grace_s=grace_s,
        ), key

    def revoke_key(self, key_id: str) -> ApiKey:
        """End a key for good. Raises as ``rotate_key``."""
        return self._changed("set revoked_on = clock_timestamp()", key_id)

    def reserve(self, key_id: str, amount: int) -> Reservation:
        """Take an amount of what a key may give today.

        Raises
        ------
        KeyBudgetSpent
            If that would be more than its budget.
        """
        with self._begin() as connection:
            reserve = self._text(_RESERVE)
            found = connection.execute(reserve, {"key_id": key_id, "amount": amount}).one_or_none()
            if found is not None:
                return Reservation(key_id, found[0], amount)
            left = connection.execute(
                self._text(
                    "select {today}, daily_budget, daily_budget - coalesce(issued, 0) "
                    "from {api_keys} left join {key_issues} on key_id = id and day = {today} "
                    "where id = :key_id"
                ),
                {"key_id": key_id},
            ).one_or_none()
        day, budget, rest = left or (date.min, 0, 0)
        raise KeyBudgetSpent(
            day=str(day), budget=budget or 0, left=max(0, rest or 0), required=amount
        )

    def give_back(self, reservation: Reservation, amount: int) -> None:
        """Return what was reserved and not given to anybody."""
        with self._begin() as connection:
            connection.execute(
                self._text(
                    "update {key_issues} set issued = issued - :amount "
                    "where key_id = :key_id and day = :day"
                ),
                {"key_id": reservation.key_id, "day": reservation.day, "amount": amount},
            )

    def operation_of_entry(self, entry_id: int, application: str) -> str | None:
        """Return the operation of an application's entry."""
        found = self._one(
            "select operation::text from {entries} where id = :entry_id and app = :app",
            entry_id=entry_id,
            app=application,
        )
        return None if found is None else str(found[0])

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _changed(self, change: str, key_id: str, **values: Any) -> ApiKey:
        if not is_id(key_id):
            raise KeyNotFound(key_id[:63])
        with self._begin() as connection:
            changed = connection.execute(
                self._text(
                    f"update {{api_keys}} {change} "
                    "where id = :key_id and revoked_on is null returning id"
                ),
                {"key_id": key_id, **values},
            ).one_or_none()
            if changed is None:
                raise KeyNotFound(key_id)
            return self._key(connection, key_id)

    def _key(self, connection: Connection, key_id: str) -> ApiKey:
        row = connection.execute(
            self._text(f"select {_KEY_COLUMNS} where key.id = :key_id"), {"key_id": key_id}
        ).one()
        return ApiKey(*row)

    def _one(self, statement: str, **values: Any) -> tuple[Any, ...] | None:
        with self._begin() as connection:
            row = connection.execute(self._text(statement), values).one_or_none()
            return None if row is None else tuple(row)

    def _text(self, statement: str) -> sa.TextClause:
        return sa.text(statement.format(**self._names))

    @contextmanager
    def _begin(self) -> Iterator[Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except (sqlalchemy.exc.OperationalError, sqlalchemy.exc.InterfaceError) as error:
            reason = " ".join(str(error.orig).split())
            raise LedgerUnavailable(f"the database cannot be reached: {reason}") from None
