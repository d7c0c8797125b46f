"""Tokens of users: JSON Web Tokens (RFC 7519), signed with HMAC-SHA256.

A token says who it is for and until when. Its ``kid`` names the key that signed it, so that a new
key signs from now on while tokens of the one before are still accepted.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from dataclasses import dataclass

import jwt

from shared_ledger.access.refusals import CredentialsRefused

ALGORITHM = "HS256"
ISSUER = "shared-ledger"
AUDIENCE = "shared-ledger"
MAX_TOKEN = 2_048
# How far the clocks of two machines that share a key may differ.
LEEWAY_S = 1

_CLAIMS = ("sub", "iss", "aud", "iat", "exp")


@dataclass(frozen=True, slots=True)
class Claims:
    """What a token says: for whom, and how long still."""

    username: str
    lasts_s: float


class Tokens:
    """Issues and reads tokens; ``previous`` is a key that is still accepted."""

    def __init__(self, secret: str, previous: str | None = None, *, lifetime_s: int) -> None:
        self.lifetime_s = lifetime_s
        self._secret = secret
        self._kid = _kid(secret)
        self._secrets = {_kid(one): one for one in (previous, secret) if one}

    def issue(self, username: str) -> str:
        """Return a token for a user, from now on."""
        now = int(time.time())
        claims = {
            "sub": username,
            "iss": ISSUER,
            "aud": AUDIENCE,
            "iat": now,
            "exp": now + self.lifetime_s,
        }
        return jwt.encode(claims, self._secret, ALGORITHM, headers={"kid": self._kid})

    def read(self, token: str) -> Claims:
        """Return what a token says.

        Raises
        ------
        CredentialsRefused
            If it is not one of ours, or not for now.
        """
        if len(token) > MAX_TOKEN:
            raise CredentialsRefused("a token that is too long")
        try:
            kid = jwt.get_unverified_header(token).get("kid")
            secret = self._secrets.get(kid) if isinstance(kid, str) else None
            if secret is None:
                raise CredentialsRefused("a token of an unknown signing key")
            # The algorithm is ours, whatever the token says (RFC 8725, 3.1).
            claims = jwt.decode(
                token,
                secret,
                algorithms=[ALGORITHM],
                audience=AUDIENCE,
                issuer=ISSUER,
                leeway=LEEWAY_S,
                options={"require": list(_CLAIMS)},
            )
            username, lasts_s = claims["sub"], float(claims["exp"]) - time.time()
        except jwt.ExpiredSignatureError:
            raise CredentialsRefused(
                "an expired token", detail="the token has expired: log in again"
            ) from None
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
            raise CredentialsRefused(f"a wrong token ({type(error).__name__})") from None
        return Claims(username, max(0.0, lasts_s))

    def __repr__(self) -> str:
        return f"Tokens({self._kid})"


def _kid(secret: str) -> str:
    """Name a key without telling it."""
    return hmac.new(secret.encode(), b"shared-ledger kid", hashlib.sha256).hexdigest()[:16]
