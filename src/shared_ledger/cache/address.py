"""What a URL of Redis is, and how long a value may live."""

from __future__ import annotations

from urllib.parse import urlsplit

from shared_ledger.errors import ConfigurationError

MAX_TTL_S = 3_600


def checked_redis_url(url: str) -> str:
    """Return the URL.

    Raises
    ------
    ConfigurationError
        If it is not one of Redis. The message does not repeat it: it may hold a password.
    """
    try:
        parts = urlsplit(url)
        named = bool(parts.path if parts.scheme == "unix" else parts.hostname)
        # Looked at only because it is checked then.
        named = named and parts.port != 0
    except ValueError:
        named = False
    else:
        named = named and parts.scheme in ("redis", "rediss", "unix")
    if not named:
        raise ConfigurationError(
            "the Redis URL is not one of Redis: it begins with redis://HOST, rediss://HOST or "
            "unix:///PATH"
        )
    return url


def checked_ttl(seconds: float) -> float:
    """Return for how many seconds a value may live.

    Raises
    ------
    ConfigurationError
        If it is not more than 0 and at most ``MAX_TTL_S``.
    """
    if not 0 < seconds <= MAX_TTL_S:
        raise ConfigurationError(f"a cache keeps a balance for more than 0 to {MAX_TTL_S} seconds")
    return seconds
