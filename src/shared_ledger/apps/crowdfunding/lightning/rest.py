"""What nodes that are spoken to over HTTP have in common: one secret, one certificate, no guessing.

Whatever is not an answer of the node itself (a connection that broke, a proxy's page, something
that cannot be read) is ``NodeUnavailable``: whether it did what was asked is not known then.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import TypeVar

import httpx
import msgspec

from shared_ledger.apps.crowdfunding.lightning import bolt11
from shared_ledger.apps.crowdfunding.lightning.paying import NodeSilent
from shared_ledger.apps.crowdfunding.lightning.port import (
    DecodedInvoice,
    InvalidInvoice,
    NodeUnavailable,
)

# Of those that nobody uses, some servers close a connection after 5 s; no request should meet that.
LIMITS = httpx.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=4)
TIMEOUT_S = 30
CONNECT_TIMEOUT_S = 10
MAX_MESSAGE = 300

T = TypeVar("T")


class Rest:
    """Connections to one node.

    Parameters
    ----------
    url
        Where it is, with no more than a scheme, a host, a port and a path.
    header, secret
        What proves who asks. It is in no error and no log: ``httpx`` logs addresses only.
    certificate
        The node's own certificate, or that of whoever signed it, as PEM; without it the public
        authorities are trusted. What cannot be verified is not spoken to.
    """

    def __init__(
        self, url: str, *, header: str, secret: str, certificate: str | None = None
    ) -> None:
        self._secret = secret
        self._client = httpx.AsyncClient(
            base_url=url,
            headers={header: secret},
            verify=_trust(url, certificate),
            timeout=httpx.Timeout(TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
            limits=LIMITS,
            # Neither a proxy nor a certificate of the environment comes between.
            trust_env=False,
        )

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, object] | None = None,
        parameters: Mapping[str, str | int] | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> httpx.Response:
        """Ask, and return whatever was answered.

        Raises
        ------
        NodeUnavailable
            If there was no answer.
        """
        with _reaching():
            return await self._client.request(
                method, path, json=body, params=parameters, timeout=_timeout(timeout_s)
            )

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, object] | None = None,
        parameters: Mapping[str, str | int] | None = None,
        silence_s: float = TIMEOUT_S,
    ) -> AsyncIterator[httpx.Response]:
        """Ask for an answer that comes in pieces.

        Raises
        ------
        NodeSilent
            If nothing comes for ``silence_s``.
        NodeUnavailable
            If there was no answer, or it broke off.
        """
        with _reaching():
            async with self._client.stream(
                method, path, json=body, params=parameters, timeout=_timeout(silence_s)
            ) as response:
                yield response

    def shown(self, message: str) -> str:
        """Return what the node said as one short line, without the secret."""
        line = " ".join(message.replace(self._secret, "…").split())
        return line[:MAX_MESSAGE]

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()


def answer_of(content: bytes, kind: type[T]) -> T:
    """Read an answer in JSON, in which numbers may be written as strings.

    Raises
    ------
    NodeUnavailable
        If it is no such answer: something else than the node may have given it.
    """
    try:
        return msgspec.json.decode(content, type=kind, strict=False)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise NodeUnavailable("the answer is not one of the Lightning node") from None


def index_of(cursor: str | None) -> int:
    """Return the index that a cursor is; 0 is the beginning.

    What another kind of node gave, which had the same key, is the beginning too.
    """
    return int(cursor) if cursor is not None and cursor.isdecimal() else 0


def decoded(payment_request: str) -> DecodedInvoice:
    """Read an invoice that the node made.

    Raises
    ------
    NodeUnavailable
        If it is none.
    """
    try:
        return bolt11.decode(payment_request)
    except InvalidInvoice as error:
        raise NodeUnavailable(f"the Lightning node's own invoice is wrong: {error}") from None


async def lines_of(response: httpx.Response) -> AsyncIterator[bytes]:
    """Give each line of an answer as soon as it is there.

    Only a line feed ends one: JSON may hold other characters that end lines of text.
    """
    begun = b""
    async for piece in response.aiter_bytes():
        *lines, begun = (begun + piece).split(b"\n")
        for line in lines:
            if line.strip():
                yield line
    if begun.strip():
        yield begun


@contextmanager
def _reaching() -> Iterator[None]:
    try:
        yield
    except httpx.ReadTimeout:
        raise NodeSilent("the Lightning node does not answer") from None
    except httpx.RequestError as error:
        reason = str(error) or type(error).__name__
        raise NodeUnavailable(f"the Lightning node cannot be reached: {reason}") from None


def _trust(url: str, certificate: str | None) -> ssl.SSLContext:
    if certificate is not None:
        return ssl.create_default_context(cadata=certificate)
    if url.startswith("https:"):
        return httpx.create_ssl_context(trust_env=False)
    # No certificate is shown there, so nobody is trusted.
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _timeout(seconds: float) -> httpx.Timeout:
    return httpx.Timeout(seconds, connect=CONNECT_TIMEOUT_S)
