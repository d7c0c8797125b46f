"""How often a caller may ask a route: the same for all routes, by what kind of caller it is."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Literal

from fastapi import Request

from shared_ledger.access.attempts import network_of
from shared_ledger.access.callers import Kind
from shared_ledger.access.counts import Counts, Limit
from shared_ledger.access.refusals import TooManyRequests
from shared_ledger.errors import ConfigurationError
from shared_ledger.service.answers import ledger_of
from shared_ledger.settings import Settings

Asker = Kind | Literal["anonymous"]
"""A kind of caller; ``anonymous`` has no credentials, or wrong ones, and is a network."""


class RateLimits:
    """The limits of one process, or of all that share its Redis.

    Raises
    ------
    ConfigurationError
        If a setting is no limit.
    """

    def __init__(self, settings: Settings, counts: Counts) -> None:
        user = _limit("RATE_LIMIT_USER", settings.rate_limit_user)
        self._limits: dict[Asker, Limit | None] = {
            "user": user,
            "administrator": user,
            "service": _limit("RATE_LIMIT_SERVICE", settings.rate_limit_service),
            "anonymous": _limit("RATE_LIMIT_ANONYMOUS", settings.rate_limit_anonymous),
        }
        self._counts = counts

    def count(self, request: Request, kind: Asker, name: str) -> Awaitable[None] | None:
        """Count a request of somebody; what is returned, if anything, is to be awaited.

        Raises
        ------
        TooManyRequests
            If he asked this route of this application too often.
        """
        limit = self._limits[kind]
        if limit is None:
            return None
        scope = request.scope
        application = ledger_of(request).application.name
        key = f"{kind} {name} {scope['method']} {scope['route'].path} {application}"
        if self._counts.shares(limit):
            return self._count_together(limit, key)
        if wait_s := self._counts.take_here(limit, key):
            raise TooManyRequests(limit=limit.text, retry_after_s=wait_s)
        return None

    async def count_network(self, request: Request) -> None:
        """Count a request by where it comes from; raises as ``count``."""
        if shared := self.count(request, "anonymous", network_of_client(request)):
            await shared

    async def _count_together(self, limit: Limit, key: str) -> None:
        if wait_s := await self._counts.take(limit, key):
            raise TooManyRequests(limit=limit.text, retry_after_s=wait_s)


def rates_of(request: Request) -> RateLimits:
    """Return the limits of the application that serves a request."""
    rates: RateLimits = request.scope["app"].state.rates
    return rates


def network_of_client(request: Request) -> str:
    """Return what stands for the client: its address, or its network's with IPv6."""
    return network_of(request.client.host if request.client else "")


def _limit(name: str, text: str) -> Limit | None:
    try:
        return Limit(text) if text else None
    except ConfigurationError as error:
        raise ConfigurationError(f"{name}: {error}") from None
