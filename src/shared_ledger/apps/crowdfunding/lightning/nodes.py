"""Which node: one URL, the setting ``LIGHTNING_NODE``. See docs/lightning.md."""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
import ssl
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple
from urllib.parse import SplitResult, parse_qs, urlsplit

from sqlalchemy.ext.asyncio import AsyncEngine

from shared_ledger.apps.crowdfunding.lightning import cln, lnbits, lnd
from shared_ledger.apps.crowdfunding.lightning.port import LightningNode
from shared_ledger.apps.crowdfunding.lightning.rest import Rest
from shared_ledger.apps.crowdfunding.lightning.simulated import SimulatedNode
from shared_ledger.errors import ConfigurationError

SIMULATED = "simulated:"

_FORMS = (
    f"LIGHTNING_NODE is {SIMULATED}, lnd+https://HOST:PORT?macaroon_file=…&cert_file=…, "
    "lnbits+https://HOST?key_file=… or cln+https://HOST:PORT?rune_file=…&cert_file=…"
)


class _Kind(NamedTuple):
    make: Callable[[Rest], LightningNode]
    header: str
    secret: str
    """What it calls the secret that goes into the header."""


_KINDS = {
    "lnd": _Kind(lnd.LndNode, lnd.HEADER, "macaroon"),
    "lnbits": _Kind(lnbits.LnbitsNode, lnbits.HEADER, "key"),
    "cln": _Kind(cln.ClnNode, cln.HEADER, "rune"),
}

_VISIBLE = re.compile(r"[\x21-\x7e]+")
_HEXADECIMAL = re.compile(r"(?:[0-9a-fA-F]{2})+")
_PEM = "-----BEGIN CERTIFICATE-----"


async def open_node(
    url: str = SIMULATED, engine: AsyncEngine | None = None, *, production: bool = False
) -> LightningNode:
    """Make the node that a URL names; it is connected to when it is asked something.

    Parameters
    ----------
    url
        Which node, and where its secret and its certificate are. It may hold a secret, and is in no
        error.
    engine
        Where the tables of the simulated node are; the others need none.
    production
        Whether real money is meant, so that the node may not be simulated.

    Raises
    ------
    ConfigurationError
        If the URL cannot be used; with a sentence that says what to do.
    """
    if url == SIMULATED:
        if production:
            raise ConfigurationError(
                f"LIGHTNING_NODE is {SIMULATED}, which is money that nobody has: name a real node "
                "in production"
            )
        if engine is None:
            raise ConfigurationError("the simulated Lightning node needs a database")
        return SimulatedNode(engine)
    # It reads files.
    return await asyncio.to_thread(_real_node, url)


def _real_node(url: str) -> LightningNode:
    try:
        parts = urlsplit(url)
        name, _, scheme = parts.scheme.partition("+")
        is_named = bool(parts.hostname) and parts.port != 0
        parameters = parse_qs(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:
        raise ConfigurationError(_FORMS) from None
    if name not in _KINDS or scheme not in ("http", "https") or not is_named:
        raise ConfigurationError(_FORMS)
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise ConfigurationError(f"LIGHTNING_NODE has a user or a fragment: leave it out. {_FORMS}")
    if scheme == "http" and not _is_loopback(parts.hostname or ""):
        raise ConfigurationError(
            "LIGHTNING_NODE: without TLS a node is spoken to on this machine only; begin with "
            f"{name}+https://"
        )
    kind = _KINDS[name]
    given = _given(parameters, {kind.secret, f"{kind.secret}_file", "cert", "cert_file"})
    secret = _secret(kind.secret, given)
    certificate = _certificate(given)
    if certificate is not None and scheme == "http":
        raise ConfigurationError("LIGHTNING_NODE has a certificate, but begins with http://")
    try:
        rest = Rest(
            _address(scheme, parts),
            header=kind.header,
            secret=secret,
            certificate=certificate,
        )
    except (ssl.SSLError, ValueError):
        raise ConfigurationError(
            "LIGHTNING_NODE: the certificate cannot be read; it is a file in PEM"
        ) from None
    return kind.make(rest)


def _address(scheme: str, parts: SplitResult) -> str:
    place = parts.netloc
    return f"{scheme}://{place}{parts.path.rstrip('/')}"


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _given(parameters: Mapping[str, list[str]], known: set[str]) -> dict[str, str]:
    unknown = sorted(set(parameters) - known)
    if unknown:
        # Its name may be a secret that was written at a wrong place.
        raise ConfigurationError(
            f"LIGHTNING_NODE has a parameter that is not known: there are {_listed(known)}"
        )
    if any(len(values) > 1 for values in parameters.values()):
        raise ConfigurationError("LIGHTNING_NODE has a parameter twice")
    return {name: values[0] for name, values in parameters.items()}


def _secret(name: str, given: Mapping[str, str]) -> str:
    if (name in given) == (f"{name}_file" in given):
        raise ConfigurationError(
            f"LIGHTNING_NODE needs either {name}_file=PATH, or the {name} itself as {name}=…"
        )
    if name in given:
        secret = given[name].strip()
    else:
        content = _read(f"{name}_file", given)
        secret = content.decode("ascii", "replace").strip()
        # LND keeps its macaroons as bytes.
        if name == "macaroon" and not _HEXADECIMAL.fullmatch(secret):
            secret = content.hex()
    if name == "macaroon" and not _HEXADECIMAL.fullmatch(secret):
        raise ConfigurationError("LIGHTNING_NODE: the macaroon is not in hexadecimal digits")
    if not _VISIBLE.fullmatch(secret):
        raise ConfigurationError(
            f"LIGHTNING_NODE: the {name} is empty, or has characters that none has"
        )
    return secret


def _certificate(given: Mapping[str, str]) -> str | None:
    if "cert" in given and "cert_file" in given:
        raise ConfigurationError("LIGHTNING_NODE has both cert and cert_file: one is enough")
    if "cert_file" in given:
        text = _read("cert_file", given).decode("ascii", "replace")
    elif "cert" in given:
        text = given["cert"]
        if _PEM not in text:
            text = _decoded(text)
    else:
        return None
    if _PEM not in text:
        raise ConfigurationError("LIGHTNING_NODE: the certificate is not in PEM, or base64 of it")
    return text


def _decoded(text: str) -> str:
    try:
        return base64.b64decode(text).decode("ascii", "replace")
    except (binascii.Error, ValueError):
        return ""


def _read(name: str, given: Mapping[str, str]) -> bytes:
    try:
        return Path(given[name]).expanduser().read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no path"
        raise ConfigurationError(f"LIGHTNING_NODE: {name} cannot be read: {reason}") from None


def _listed(names: set[str]) -> str:
    *most, last = sorted(names)
    return f"{', '.join(most)} and {last}"
