"""A client's connection, on which no request is endless, and none takes for ever to come.

Uvicorn limits neither how long a request's head is nor how slowly one is sent. A proxy in front of
it may; this is for a service without one.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import NamedTuple

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from shared_ledger.service.headers import CLOSE, SAFE
from shared_ledger.service.problems import problem

MAX_URL = 8 * 1024
MAX_HEAD = 32 * 1024
"""Of URL and headers together, in bytes; what comes in one piece may be half as long again."""
HEAD_TIMEOUT_S = 10
BODY_TIMEOUT_S = 30
"""From the request's first byte to its last."""
LEAVING_TIMEOUT_S = 3
"""The same when the process is about to end."""

# A head is measured after each piece; what is longer is taken in several.
_PIECE = MAX_HEAD // 2


class _Refusal(NamedTuple):
    status: HTTPStatus
    code: str
    detail: str


_NOT_HTTP = _Refusal(HTTPStatus.BAD_REQUEST, "bad_request", "what was sent is not HTTP/1.1")
_LONG_URL = _Refusal(
    HTTPStatus.REQUEST_URI_TOO_LONG, "uri_too_long", f"the URL is longer than {MAX_URL} bytes"
)
_LONG_HEAD = _Refusal(
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    "headers_too_large",
    f"the URL and the headers are longer than {MAX_HEAD} bytes",
)
_SLOW = _Refusal(
    HTTPStatus.REQUEST_TIMEOUT, "request_timeout", "the request took too long to arrive"
)


class BoundedConnection(HttpToolsProtocol):
    """Uvicorn's connection, with bounds: whoever goes beyond one is told so, and it is closed."""

    url = b""
    _in_head = True
    """Whether the head of a request is awaited, or arrives."""
    _of_head = 0
    _since: float | None = None
    """When the request that is not complete began; before the first, when the connection did."""
    _refusal = _NOT_HTTP

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as its base
        """Wait for the first request."""
        super().connection_made(transport)
        self._since = self.loop.time()

    def data_received(self, data: bytes) -> None:
        """Take what arrived."""
        if len(data) <= _PIECE:
            self._take(data)
            return
        for start in range(0, len(data), _PIECE):
            self._take(data[start : start + _PIECE])

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        self._since = self.loop.time()

    def on_headers_complete(self) -> None:
        """Begin to answer it; a URL that is too long ends the parsing."""
        if len(self.url) > MAX_URL:
            self._refusal = _LONG_URL
            raise ValueError(_LONG_URL.detail)
        self._in_head = False
        self._of_head = 0
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Wait for the next one."""
        self._in_head = True
        self._since = None
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002  # the base's sentence
        """Answer what could not be parsed."""
        self._refuse(self._refusal)

    def check(self, *, leaving: bool) -> None:
        """Refuse a request that takes too long to arrive; called from time to time."""
        if self._since is None or self.flow.read_paused or self.transport.is_closing():
            return
        timeout_s = HEAD_TIMEOUT_S if self._in_head else BODY_TIMEOUT_S
        if leaving:
            timeout_s = min(timeout_s, LEAVING_TIMEOUT_S)
        if self.loop.time() - self._since <= timeout_s:
            return
        answering = self.cycle is not None and not self.cycle.response_complete
        if self._in_head and answering:
            # The one before is not answered yet: this one can wait.
            return
        unanswered = answering and not self.cycle.response_started
        if unanswered or (self._in_head and self._of_head > 0):
            self._refuse(_SLOW)
        else:
            self.transport.close()

    def _take(self, piece: bytes) -> None:
        if self.transport.is_closing():
            return
        super().data_received(piece)
        if self._in_head:
            self._of_head += len(piece)
            if self._of_head > MAX_HEAD:
                self._refuse(_LONG_URL if len(self.url) > MAX_URL else _LONG_HEAD)

    def _refuse(self, refusal: _Refusal) -> None:
        if self.transport.is_closing():
            return
        response = problem(refusal.status, refusal.code, refusal.detail)
        headers = [*self.server_state.default_headers, *response.raw_headers, *SAFE, CLOSE]
        lines = [name + b": " + value + b"\r\n" for name, value in headers]
        head = STATUS_LINE[refusal.status] + b"".join(lines) + b"\r\n"
        self.transport.write(head + bytes(response.body))
        self.transport.close()
