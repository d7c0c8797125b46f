"""What a URL of NATS is: where the servers are, and what one says to be let in."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import SplitResult, unquote, urlsplit

from shared_ledger.errors import ConfigurationError


@dataclass(frozen=True)
class NatsAddress:
    """Where NATS is; the secrets are in no ``repr``, and in no URL that is handed on."""

    servers: tuple[str, ...]
    tls: bool
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)


def nats_address(url: str) -> NatsAddress:
    """Read a URL, or several of one cluster, separated by commas.

    ``nats://user:password@host:4222``, ``nats://token@host``, or ``tls://`` instead of ``nats://``.
    Special characters of a secret are written as in any URL, ``%2C`` for a comma.

    Raises
    ------
    ConfigurationError
        If it is none. The message does not repeat it: it may hold a secret.
    """
    try:
        parts = [urlsplit(part.strip()) for part in url.split(",")]
        servers = tuple(map(_server, parts))
    except ValueError:
        raise ConfigurationError(
            "the NATS URL is not one of NATS: it is nats://HOST or tls://HOST, with "
            "USER:PASSWORD@ or TOKEN@ before HOST if need be; several are separated by commas"
        ) from None
    named = next((part for part in parts if part.username), None)
    user = unquote(named.username or "") if named is not None else None
    password = named.password if named is not None else None
    tls = any(part.scheme == "tls" for part in parts)
    if password is None:
        return NatsAddress(servers, tls, token=user)
    return NatsAddress(servers, tls, user=user, password=unquote(password))


def _server(parts: SplitResult) -> str:
    if parts.scheme not in ("nats", "tls") or not parts.hostname:
        raise ValueError
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError
    # A password without a name would be taken for no password at all.
    if parts.password is not None and not parts.username:
        raise ValueError
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}:{parts.port or 4222}"
