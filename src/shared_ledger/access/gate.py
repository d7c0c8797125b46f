"""Who is it? The credentials of a request, looked up in the database and remembered for seconds.

What was looked up is good for ``REMEMBERED_S``: a key that is revoked, or an administrator who is
none any more, is refused everywhere within five seconds. Well before that it is looked up again,
while requests go on with what is known: none of them waits.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import ParamSpec, TypeVar

from shared_ledger.access.callers import Caller
from shared_ledger.access.keys import id_of
from shared_ledger.access.refusals import CredentialsRefused
from shared_ledger.access.store import CONNECTIONS, AccessStore
from shared_ledger.access.tokens import Tokens

REMEMBERED_S = 4.0
RENEWED_S = 2.0
MAX_REMEMBERED = 20_000

_P = ParamSpec("_P")
_T = TypeVar("_T")

_LookUp = Callable[[bytes], Awaitable[tuple[Caller, float]]]

_Seen = tuple[Caller, float, float]
"""A caller, when to look again, and until when it holds, in seconds of the monotonic clock."""


class Gate:
    """Tells who calls one service.

    Parameters
    ----------
    token
        The key of the configuration, which may do everything; empty is none.
    """

    def __init__(self, store: AccessStore, tokens: Tokens, token: str) -> None:
        self.store = store
        self.tokens = tokens
        self._configured = _digest(b"key", token.encode()) if token else None
        self._operator = Caller("service", "API_TOKEN")
        self._seen: dict[bytes, _Seen] = {}
        self._asked: dict[bytes, asyncio.Task[Caller]] = {}
        # Threads of its own: whoever tries keys at random must not keep readers waiting.
        self._threads = ThreadPoolExecutor(CONNECTIONS, "shared-ledger-access")

    def service(self, key: bytes) -> Caller | Awaitable[Caller]:
        """Return the service that has a key, or, if it must be looked up, who is to be awaited.

        Raises
        ------
        CredentialsRefused
            If nobody has.
        LedgerUnavailable
            If that cannot be looked up.
        """
        digest = _digest(b"key", key)
        if self._configured is not None and hmac.compare_digest(digest, self._configured):
            return self._operator
        return self._caller(digest, key, self._service)

    def user(self, token: bytes) -> Caller | Awaitable[Caller]:
        """Return the user of a token as ``service`` does; raises as it."""
        return self._caller(_digest(b"token", token), token, self._user)

    async def run(self, call: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Call the store in a thread; what it logs is logged for the same request."""
        loop = asyncio.get_running_loop()
        context = copy_context()
        return await loop.run_in_executor(self._threads, lambda: context.run(call, *args, **kwargs))

    def forget(self, key_id: str) -> None:
        """Look a key up again before it is used: it was changed here."""
        for digest in [d for d, seen in self._seen.items() if seen[0].name == key_id]:
            del self._seen[digest]

    def close(self) -> None:
        """Wait for what is being looked up, and let go of the database."""
        self._threads.shutdown()
        self.store.close()

    def _caller(self, digest: bytes, given: bytes, look_up: _LookUp) -> Caller | Awaitable[Caller]:
        # What is compared are digests: the time that takes tells nothing about a secret.
        seen = self._seen.get(digest)
        now = time.monotonic()
        if seen is not None and now < seen[2]:
            if now >= seen[1]:
                self._ask(digest, given, look_up)
            return seen[0]
        # One look-up serves all who wait for it, and goes on if one of them leaves.
        return asyncio.shield(self._ask(digest, given, look_up))

    def _ask(self, digest: bytes, given: bytes, look_up: _LookUp) -> asyncio.Task[Caller]:
        task = self._asked.get(digest)
        if task is None:
            task = asyncio.create_task(self._looked_up(digest, given, look_up))
            self._asked[digest] = task
            task.add_done_callback(lambda done: self._answered(digest, done))
        return task

    def _answered(self, digest: bytes, task: asyncio.Task[Caller]) -> None:
        self._asked.pop(digest, None)
        if not task.cancelled():
            # Nobody may be waiting: what went wrong must not be reported as lost.
            task.exception()

    async def _looked_up(self, digest: bytes, given: bytes, look_up: _LookUp) -> Caller:
        began = time.monotonic()
        try:
            caller, lasts_s = await look_up(given)
        except CredentialsRefused:
            self._seen.pop(digest, None)
            raise
        self._seen.pop(digest, None)
        while len(self._seen) >= MAX_REMEMBERED:
            del self._seen[next(iter(self._seen))]
        until = began + min(REMEMBERED_S, lasts_s)
        self._seen[digest] = caller, min(began + RENEWED_S, until), until
        return caller

    async def _service(self, given: bytes) -> tuple[Caller, float]:
        key = given.decode("latin-1")
        key_id = id_of(key)
        if key_id is None:
            raise CredentialsRefused("a key that is none of ours")
        caller = await self.run(self.store.caller_of_key, key_id, key)
        if caller is None:
            raise CredentialsRefused("a key that is unknown or revoked")
        return caller, REMEMBERED_S

    async def _user(self, given: bytes) -> tuple[Caller, float]:
        claims = self.tokens.read(given.decode("latin-1"))
        caller = await self.run(self.store.caller_of_user, claims.username)
        if caller is None:
            raise CredentialsRefused("a token of an unknown user")
        return caller, claims.lasts_s


def _digest(kind: bytes, given: bytes) -> bytes:
    return hashlib.sha256(kind + b" " + given).digest()
