"""Who may call: services, by the key in the header ``x-token``."""

from __future__ import annotations

import hmac

from starlette.exceptions import HTTPException
from starlette.requests import Request

HEADER = "x-token"
_RAW_HEADER = HEADER.encode()


def require_service(request: Request) -> None:
    """Let the request pass if it carries the service's key.

    Raises
    ------
    HTTPException
        401 without a key or with a wrong one.
    """
    given = next((value for name, value in request.scope["headers"] if name == _RAW_HEADER), b"")
    # Compared in constant time: the time an answer takes must not tell how much was right.
    if not hmac.compare_digest(given, request.app.state.token):
        raise HTTPException(
            401,
            f"the header {HEADER} is missing or wrong",
            headers={"WWW-Authenticate": f'ApiKey realm="{HEADER}"'},
        )
