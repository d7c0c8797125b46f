"""The shortest way to the hot handlers.

A ``DirectRoute`` is declared and documented as any route of FastAPI, but its handler takes the
request and returns the response itself. ``DirectRoutes`` finds it with one look into a dictionary
and calls it, before the routing, dependencies and exit stacks that other routes need.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from http import HTTPStatus
from urllib.parse import unquote

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from shared_ledger.errors import LedgerError
from shared_ledger.origin import ORIGIN
from shared_ledger.service.asked import Asked, asked_of
from shared_ledger.service.body_limit import too_long
from shared_ledger.service.problems import problem_of, problem_of_http, unexpected

MAX_BODY_BYTES = 64 * 1024

Handler = Callable[[Request], Awaitable[Response]]
Ended = Callable[[Scope, Asked, float], None]

_log = logging.getLogger("shared_ledger.service")

_NOT_FOUND = HTTPException(HTTPStatus.NOT_FOUND)


class DirectRoute(APIRoute):
    """A route whose handler takes the request and answers it, with no work in between.

    Its path has at most one parameter, which comes after a slash: at the end, or before the last
    part of the path; a slash in its value is quoted, as ``%2F``. Parameters and bodies are
    documented by ``openapi_extra``.
    """

    def get_route_handler(self) -> Handler:  # type: ignore[override]  # an awaitable serves as well
        """Return the endpoint itself."""
        endpoint: Handler = self.endpoint
        return endpoint


class DirectRoutes:
    """ASGI middleware that answers the direct routes and leaves the others to the application.

    ``ended`` is told of each request, and how many seconds it took, after it was served. That is
    done here because it is the one coroutine around all of them: another would cost a hundredth.
    """

    def __init__(self, app: ASGIApp, routes: Iterable[DirectRoute], ended: Ended) -> None:
        self._app = app
        self._ended = ended
        self._fixed: dict[tuple[str, str], DirectRoute] = {}
        self._ending: dict[tuple[str, str], tuple[str, DirectRoute]] = {}
        self._within: dict[tuple[str, str, str], tuple[str, DirectRoute]] = {}
        for route in routes:
            start, _, rest = route.path.partition("{")
            parameter, _, end = rest.partition("}")
            for method in route.methods or ():
                if end:
                    self._within[method, start, end.removeprefix("/")] = (parameter, route)
                elif parameter:
                    self._ending[method, start] = (parameter, route)
                else:
                    self._fixed[method, start] = route

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        asked = asked_of(scope)
        before = ORIGIN.set(asked)
        try:
            route = self._find(scope)
            if not isinstance(route, DirectRoute):
                await route(scope, receive, send)
                return
            try:
                response: Response = await route.endpoint(Request(scope, receive))
            except LedgerError as error:
                response = problem_of(error)
            except HTTPException as error:
                response = problem_of_http(error)
            except Exception:  # noqa: BLE001  # Nothing else is around this that would answer.
                _log.exception("%s %s failed", scope["method"], route.path)
                response = unexpected()
            await response(scope, receive, send)
        finally:
            ORIGIN.reset(before)
            self._ended(scope, asked, time.perf_counter() - began)

    def _find(self, scope: Scope) -> DirectRoute | ASGIApp:
        """Return the direct route that serves a request, noted in its scope, or who does."""
        method, path = scope["method"], scope["path"]
        # A slash that is quoted is a part of an owner's id; once all is unquoted nobody can tell.
        quoted = b"%" in (scope.get("raw_path") or b"")
        if quoted:
            path = scope["raw_path"].decode("latin-1")
        if prefix := scope.get("root_path"):
            path = path.removeprefix(prefix)
        route = self._fixed.get((method, path))
        parameters: dict[str, str] = {}
        if route is None:
            start, slash, value = path.rpartition("/")
            found = self._ending.get((method, start + slash)) if value else None
            if found is None:
                end = value
                start, slash, value = start.rpartition("/")
                found = self._within.get((method, start + slash, end)) if value else None
            if found is None:
                # Others route on the path after it is unquoted, where it would part the path.
                hidden = quoted and "%2f" in path.lower()
                return problem_of_http(_NOT_FOUND) if hidden else self._app
            name, route = found
            parameters[name] = unquote(value) if quoted else value
        scope["route"] = route
        scope["path_params"] = parameters
        return route


async def read_body(request: Request, limit: int = MAX_BODY_BYTES) -> bytes:
    """Return the request's body.

    Raises
    ------
    HTTPException
        413 if it is longer than ``limit`` bytes; 400 if the client leaves before it is complete.
    """
    body = b""
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            # Nobody gets this answer; it is for the metrics.
            raise HTTPException(HTTPStatus.BAD_REQUEST, "the body is not complete")
        chunk: bytes = message.get("body", b"")
        body += chunk
        if len(body) > limit:
            raise too_long(limit)
        if not message.get("more_body", False):
            return body
