"""Where the service is and how it is spoken to, for both clients."""

from __future__ import annotations

import re

import httpx

from shared_ledger.client.attempts import Lost
from shared_ledger.errors import ConfigurationError

HEADER = b"x-token"

CONNECTIONS = 16
"""How many there are at most. Each step of httpx looks at all of them: with 64 it is slower."""

# A little shorter than the 5 s after which the service closes a connection that nobody uses: a
# request should not meet that.
LIMITS = httpx.Limits(
    max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS, keepalive_expiry=4
)

_UNSENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
_CONTROL = re.compile(rb"[\x00-\x20\x7f]")


def checked_url(url: str) -> str:
    """Return where the service is, without a slash at the end.

    Raises
    ------
    ConfigurationError
        If it is no address of a service. It is not shown, since it may hold a password.
    """
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, TypeError):
        raise ConfigurationError("the service's url cannot be read") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ConfigurationError("the service's url begins with http:// or https:// and a host")
    if parsed.userinfo or parsed.query or parsed.fragment:
        # It is in logs and errors.
        raise ConfigurationError(
            "the service's url has a user, a query or a fragment: leave that out, and give the "
            "key as token"
        )
    return str(parsed).rstrip("/")


def headers(token: str) -> list[tuple[bytes, bytes]]:
    """Return what every request carries.

    Raises
    ------
    ConfigurationError
        If the token is empty or cannot be in a header. It is not shown.
    """
    try:
        raw = token.encode()
    except (AttributeError, UnicodeEncodeError):
        raw = b""
    if not raw or _CONTROL.search(raw):
        raise ConfigurationError(
            "the token is empty, or holds a space or a character that no header can hold"
        )
    return [(HEADER, raw), (b"user-agent", b"shared-ledger-client")]


def lost(error: httpx.HTTPError) -> Lost:
    """Say why there was no answer."""
    reason = " ".join(str(error).split()) or type(error).__name__
    return Lost(reason, sent=not isinstance(error, _UNSENT))
