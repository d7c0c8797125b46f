"""The balances of one book, as a reader and its writers use them."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from shared_ledger.book import AccountKey, Balance, Reading
from shared_ledger.cache.address import checked_redis_url, checked_ttl
from shared_ledger.cache.connection import Command, Connection, connector
from shared_ledger.cache.counts import CacheCounts
from shared_ledger.cache.link import Link
from shared_ledger.cache.scripts import BLOCK, FORGET, MAX_KEYS, PUT, TAKE

LEASE_S = 3
"""How long PostgreSQL may take until what was read is not kept any more."""

BLOCK_S = 5
"""How long a caller's transaction may take to commit until an old balance may be kept."""

# Later than any time of Redis: no value is from then.
_NEVER = 10**15

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Balance)


class Taken(NamedTuple):
    """The balances that were found, and the token of what may be kept; ``None``: nothing may."""

    balances: dict[AccountKey, Balance]
    token: str | None


class Cache:
    """The balances of one book in Redis.

    One thread alone may call ``take`` and ``put``; the others may be called by any. None of them
    raises or waits for long because of Redis.

    Parameters
    ----------
    url
        Which Redis.
    book
        What no other book has, in any database.
    ttl_s
        How many seconds a balance is kept at most.

    Raises
    ------
    ConfigurationError
        If ``url`` or ``ttl_s`` cannot be used.
    """

    def __init__(self, url: str, book: str, *, ttl_s: float) -> None:
        self._book = book
        self._ttl_s = checked_ttl(ttl_s)
        self._hits = 0
        self._misses = 0
        self._era = 0
        self._oldest = 0
        self._link = Link(connector(checked_redis_url(url)), self._settle)

    @property
    def counts(self) -> CacheCounts:
        """What was found and what was not, and how often Redis failed, since it was opened."""
        return CacheCounts(self._hits, self._misses, self._link.failures)

    def take(self, keys: Collection[AccountKey]) -> Taken:
        """Return what is kept of these accounts; take leases of the others.

        Those are then to be read from PostgreSQL, and given to ``put``.
        """
        wanted = list(keys)
        found: dict[AccountKey, Balance] = {}
        token = secrets.token_hex(8)
        # After a failure no value counts that was kept before the next call.
        era = self._link.era
        oldest = self._oldest if era == self._era else _NEVER
        replies = self._link.call(
            lambda connection: [
                self._script(connection, TAKE, part, token, LEASE_S * 1_000, oldest)
                for part in _parts(wanted)
            ]
        )
        if replies is not None:
            for part, (now, *values) in zip(_parts(wanted), replies, strict=True):
                if oldest == _NEVER:
                    # Not in the same millisecond either, which costs these leases.
                    self._era, self._oldest = era, int(now) + 1
                for key, value in zip(part, values, strict=True):
                    balance = _balance(key, value)
                    if balance is not None:
                        found[key] = balance
        self._hits += len(found)
        self._misses += len(wanted) - len(found)
        return Taken(found, None if replies is None else token)

    def put(self, token: str | None, readings: Mapping[AccountKey, Reading]) -> None:
        """Keep what was read after ``take`` gave the token.

        To be called before anybody is told of it: no older balance is kept after that.
        """
        if token is None:
            return
        self._link.call(
            lambda connection: [
                self._script(connection, PUT, part, token, *self._values(part, readings))
                for part in _parts(list(readings))
            ]
        )

    def forget(self, keys: Collection[AccountKey]) -> None:
        """Remove accounts that a transaction changed, after its commit."""
        changed = list(keys)
        self._link.call(
            lambda connection: [self._script(connection, FORGET, part) for part in _parts(changed)],
            owed=changed,
        )

    def block(self, keys: Collection[AccountKey]) -> None:
        """Remove accounts that a transaction changed, before its commit.

        Nothing of them is kept for ``BLOCK_S``.
        """
        self._link.call(lambda connection: self._blocks(connection, keys), owed=keys)

    def close(self) -> None:
        """Close the connections."""
        self._link.close()

    def _settle(self, connection: Connection, owed: Collection[AccountKey]) -> None:
        # A Redis that takes no writes is of no use, even if nothing is owed.
        probe = ("SET", self._prefix(connection), "", "PX", 1)
        connection.run([probe, *self._blocks(connection, owed)])

    def _blocks(self, connection: Connection, keys: Collection[AccountKey]) -> list[Command]:
        return [
            self._script(connection, BLOCK, part, BLOCK_S * 1_000) for part in _parts(list(keys))
        ]

    def _values(
        self, keys: Sequence[AccountKey], readings: Mapping[AccountKey, Reading]
    ) -> Iterator[str | bytes | int]:
        for key in keys:
            reading = readings[key]
            life_s = self._ttl_s if reading.lasts_s is None else min(reading.lasts_s, self._ttl_s)
            yield from (reading.version, int(life_s * 1_000), _encoder.encode(reading.balance))

    def _script(
        self,
        connection: Connection,
        script: str,
        keys: Sequence[AccountKey],
        *arguments: str | bytes | int,
    ) -> Command:
        prefix = self._prefix(connection)
        # With the asset's length, since either may hold any character.
        names = [f"{prefix}{len(asset)}:{asset}:{owner_id}" for owner_id, asset in keys]
        return ("EVAL", script, len(names), *names, *arguments)

    def _prefix(self, connection: Connection) -> str:
        # In braces: those who spread keys over several servers keep a book's together.
        return f"shared-ledger:{{{self._book}}}:{connection.run_id}:"


def _parts(keys: Sequence[AccountKey]) -> Iterator[Sequence[AccountKey]]:
    for start in range(0, len(keys), MAX_KEYS):
        yield keys[start : start + MAX_KEYS]


def _balance(key: AccountKey, held: bytes | None) -> Balance | None:
    """Return the balance that is held for an account, if it is that, and this account's."""
    if held is None or not held.startswith(b"="):
        return None
    try:
        balance = _decoder.decode(held.split(b" ", 2)[2])
    except (IndexError, msgspec.DecodeError):
        # As another version of this program may write it.
        return None
    return balance if (balance.owner_id, balance.asset) == key else None
