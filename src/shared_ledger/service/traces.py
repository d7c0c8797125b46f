"""Traces of requests, from HTTP through the queue to the commit; the only user of OpenTelemetry.

A posting is written by another thread, together with those of other requests. That thread only
notes when; the spans are made of that afterwards, on the event loop, where nobody waits for them.
"""

from __future__ import annotations

import asyncio
import threading
import time
from http import HTTPStatus

from opentelemetry.context import Context, attach, detach
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import (
    Span,
    SpanKind,
    StatusCode,
    Tracer,
    format_trace_id,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.types import ASGIApp, Receive, Scope, Send

from shared_ledger import __version__
from shared_ledger.service.asked import Asked, Written, asked_of
from shared_ledger.service.observed import route_of
from shared_ledger.settings import Settings
from shared_ledger.writer import BatchReport

SEND_WITHIN_S = 3.0
"""How long the end waits for the last spans to be sent; what is not sent by then is lost."""

_PARENT = TraceContextTextMapPropagator()
_OF_PARENT = frozenset((b"traceparent", b"tracestate"))


class Traces:
    """The traces of one service; the processor is given every span that has ended."""

    def __init__(self, processor: SpanProcessor) -> None:
        ours = Resource({"service.name": "shared-ledger", "service.version": __version__})
        # What the environment says of the service goes before that (OTEL_SERVICE_NAME …).
        self._provider = TracerProvider(
            resource=ours.merge(OTELResourceDetector().detect()), shutdown_on_exit=False
        )
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("shared_ledger", __version__)

    def around(self, app: ASGIApp) -> ASGIApp:
        """Return the application with a span around each of its requests."""
        return _TracedRequests(app, self._tracer)

    def batch(self, report: BatchReport) -> None:
        """Note in the requests that are traced when they were written."""
        ended_ns = time.time_ns()
        begun_ns = ended_ns - int(1e9 * report.seconds)
        for job in report.jobs:
            asked = job.origin
            if isinstance(asked, Asked) and asked.written is not None:
                queued_ns = begun_ns - int(1e9 * (report.began - job.queued_at))
                asked.written.append(Written(queued_ns, begun_ns, ended_ns, len(report.commands)))

    async def close(self) -> None:
        """Send what was not sent yet, if that can be done soon."""
        # It cannot be told how long it may take.
        ending = threading.Thread(target=self._provider.shutdown, daemon=True)
        ending.start()
        await asyncio.to_thread(ending.join, SEND_WITHIN_S)


def open_traces(settings: Settings) -> Traces:
    """Send traces where the settings say, over HTTP."""
    endpoint = f"{settings.otel_exporter_otlp_endpoint.rstrip('/')}/v1/traces"
    return Traces(BatchSpanProcessor(OTLPSpanExporter(endpoint)))


class _TracedRequests:
    """ASGI middleware that makes the spans, within that which gives requests their ids."""

    def __init__(self, app: ASGIApp, tracer: Tracer) -> None:
        self._app = app
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        asked = asked_of(scope)
        method = scope["method"]
        attributes = {"http.request.method": method, "request_id": asked.request_id}
        span = self._tracer.start_span(
            method, _parent_of(scope), SpanKind.SERVER, attributes=attributes
        )
        if span.is_recording():
            asked.trace_id = format_trace_id(span.get_span_context().trace_id)
            asked.written = []
        token = attach(set_span_in_context(span))
        try:
            await self._app(scope, receive, send)
        finally:
            detach(token)
            self._end(span, asked, method, route_of(scope))

    def _end(self, span: Span, asked: Asked, method: str, route: str) -> None:
        span.update_name(f"{method} {route}")
        span.set_attributes({"http.route": route, "http.response.status_code": asked.status})
        if asked.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            span.set_status(StatusCode.ERROR)
        for written in asked.written or ():
            self._show(span, written)
        span.end()

    def _show(self, span: Span, written: Written) -> None:
        """Make the spans of what one batch wrote of a request."""
        queued_ns, begun_ns, ended_ns, commands = written
        start = self._tracer.start_span
        post = start("ledger.post", set_span_in_context(span), start_time=queued_ns)
        within = set_span_in_context(post)
        start("ledger.queue", within, start_time=queued_ns).end(begun_ns)
        size = {"ledger.batch.commands": commands}
        start("ledger.commit", within, attributes=size, start_time=begun_ns).end(ended_ns)
        post.end(ended_ns)


def _parent_of(scope: Scope) -> Context:
    """Return the context that the caller's trace continues in, by W3C Trace Context."""
    headers = {
        name.decode(): value.decode("latin-1")
        for name, value in scope["headers"]
        if name in _OF_PARENT
    }
    return _PARENT.extract(headers, Context())
