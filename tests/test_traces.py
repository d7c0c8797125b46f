"""Traces: one request is one trace, from HTTP through the queue to the commit."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode, format_span_id, format_trace_id
from sqlalchemy.engine import Engine
from starlette.requests import Request
from starlette.responses import Response

from loopback import served as served_at
from serving import OPERATOR, Served, serving
from shared_ledger import SHARED, Ledger
from shared_ledger.embedded import Cluster
from shared_ledger.errors import ConfigurationError, LedgerUnavailable
from shared_ledger.service import traces
from shared_ledger.service.observers import Observers, observers_of
from shared_ledger.service.traces import Traces, open_traces
from shared_ledger.settings import Settings
from test_logs import Log, log, observed

__all__ = ["log"]  # the fixture

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CONTINUED = {"traceparent": f"00-{TRACE}-{SPAN}-01"}


class Spans:
    """The spans that ended."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.traces = Traces(SimpleSpanProcessor(self._exporter))

    def all(self) -> list[ReadableSpan]:
        return sorted(self._exporter.get_finished_spans(), key=lambda span: span.name)

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.all() if span.name == name]


@pytest.fixture
def spans() -> Spans:
    return Spans()


@pytest.fixture
async def served(
    spans: Spans, log: Log, cluster: Cluster, schema: str, engine: Engine
) -> AsyncIterator[Served]:
    observers = Observers(observed(log, log_level="debug").requests, spans.traces)
    async with serving(cluster.url, schema, engine, observers=observers) as served:
        yield served


def trace_of(span: ReadableSpan) -> str:
    assert span.context is not None
    return format_trace_id(span.context.trace_id)


def parent_of(span: ReadableSpan) -> str | None:
    return None if span.parent is None else format_span_id(span.parent.span_id)


def id_of(span: ReadableSpan) -> str:
    assert span.context is not None
    return format_span_id(span.context.span_id)


def times(span: ReadableSpan) -> tuple[int, int]:
    assert span.start_time is not None
    assert span.end_time is not None
    return span.start_time, span.end_time


async def test_a_posting_is_one_trace_from_http_to_the_commit(served: Served, spans: Spans) -> None:
    began = time.time_ns()
    answer = await served.post(OPERATOR | {"x-request-id": "one"}, "CREDIT_ADD", "ada")
    ended = time.time_ns()
    assert answer.status_code == 201
    request, commit, post, queue = spans.all()
    assert [span.name for span in (request, post, queue, commit)] == [
        "POST /ledger",
        "ledger.post",
        "ledger.queue",
        "ledger.commit",
    ]
    assert len({trace_of(span) for span in spans.all()}) == 1
    assert parent_of(request) is None
    assert parent_of(post) == id_of(request)
    assert parent_of(queue) == parent_of(commit) == id_of(post)
    # Not all are told by one clock, and a busy machine lets a moment pass between two readings.
    slack = 50_000_000
    assert began - slack <= times(request)[0] <= times(post)[0] + slack
    assert times(post) == (times(queue)[0], times(commit)[1])
    assert times(queue)[0] <= times(queue)[1] == times(commit)[0] < times(commit)[1]
    assert times(commit)[1] <= times(request)[1] + slack <= ended + 2 * slack
    assert request.kind is SpanKind.SERVER
    assert request.attributes == {
        "http.request.method": "POST",
        "http.route": "/ledger",
        "http.response.status_code": 201,
        "request_id": "one",
    }
    assert commit.attributes == {"ledger.batch.commands": 1}
    assert request.resource.attributes["service.name"] == "shared-ledger"


async def test_a_trace_that_has_begun_elsewhere_goes_on(served: Served, spans: Spans) -> None:
    await served.post(OPERATOR | CONTINUED, "CREDIT_ADD", "ada")
    assert [trace_of(span) for span in spans.all()] == [TRACE] * 4
    (request,) = spans.named("POST /ledger")
    assert parent_of(request) == SPAN


async def test_a_trace_that_nobody_records_is_not_recorded_here(
    served: Served, spans: Spans, log: Log
) -> None:
    await served.post(OPERATOR | {"traceparent": f"00-{TRACE}-{SPAN}-00"}, "CREDIT_ADD", "ada")
    assert spans.all() == []
    assert "trace_id" not in log.of_request()


@pytest.mark.parametrize("given", ["", "00-xyz", "ff" * 30, f"00-{'0' * 32}-{SPAN}-01"])
async def test_what_is_no_trace_begins_a_new_one(served: Served, spans: Spans, given: str) -> None:
    assert (await served.client.get("/health", headers={"traceparent": given})).status_code == 200
    (request,) = spans.all()
    assert parent_of(request) is None


async def test_each_line_that_is_logged_names_the_trace(served: Served, log: Log) -> None:
    await served.client.get("/auth/me", headers=CONTINUED | {"x-token": "wrong"})
    assert [(line["level"], line["trace_id"]) for line in log.lines()] == [
        ("warning", TRACE),
        ("info", TRACE),
    ]


async def test_requests_that_are_written_together_have_each_a_trace(
    served: Served, spans: Spans
) -> None:
    await served.post(OPERATOR, "CREDIT_ADD", "ada")
    posts = [served.post(OPERATOR, "CREDIT_ADD", "ada") for _ in range(40)]
    assert {answer.status_code for answer in await asyncio.gather(*posts)} == {201}
    commits = spans.named("ledger.commit")
    assert len({trace_of(span) for span in commits}) == 41
    batches = {times(span): span.attributes for span in commits}
    assert len(batches) < 41
    sizes = [(attributes or {})["ledger.batch.commands"] for attributes in batches.values()]
    assert sum(int(str(size)) for size in sizes) == 41


async def test_a_batch_that_two_lanes_write_is_seen_in_both(served: Served, spans: Spans) -> None:
    body = {"operation": "CREDIT_ADD"}
    entries = [body | {"owner_id": f"owner{n}", "nonce": "n"} for n in range(50)]
    await served.client.post("/ledger/batch", json={"entries": entries}, headers=OPERATOR)
    commits = spans.named("ledger.commit")
    assert len(commits) == 2
    assert sum(int(str((span.attributes or {})["ledger.batch.commands"])) for span in commits) == 50


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [("/balance/ada", 503, StatusCode.ERROR), ("/ledger/x/y/z", 404, StatusCode.UNSET)],
)
async def test_only_what_failed_here_is_an_error(
    served: Served,
    spans: Spans,
    path: str,
    status: int,
    code: StatusCode,
    *,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def away(*_: object, **__: object) -> None:
        raise LedgerUnavailable("away")

    monkeypatch.setattr(Ledger, "abalance", away)
    assert (await served.client.get(path, headers=OPERATOR)).status_code == status
    (span,) = spans.all()
    assert span.status.status_code is code


async def test_nothing_of_a_path_or_its_parameters_is_in_a_trace(
    served: Served, spans: Spans
) -> None:
    await served.client.get("/ledger/hunter2/entries?cursor=hunter2", headers=OPERATOR)
    await served.client.get("/hunter2", headers=OPERATOR)
    assert "hunter2" not in "".join(span.to_json() for span in spans.all())
    assert len(spans.all()) == 2


# --- where they go ---


class Collector:
    """What takes traces, as the OpenTelemetry collector and Jaeger do."""

    def __init__(self, pause_s: float = 0) -> None:
        self.received: list[ExportTraceServiceRequest] = []
        self._pause_s = pause_s

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        assert (scope["method"], scope["path"]) == ("POST", "/v1/traces")
        body = await Request(scope, receive).body()
        self.received.append(ExportTraceServiceRequest.FromString(body))
        await asyncio.sleep(self._pause_s)
        await Response(media_type="application/x-protobuf")(scope, receive, send)


def test_serve_sends_them_where_the_environment_says(
    cluster: Cluster, schema: str, engine: Engine, tmp_path: Path
) -> None:
    Ledger(SHARED, cluster.url, schema=schema, migrate=True).close()
    collector = Collector()
    with served_at(collector) as place:
        environment = {
            "DATABASE_URL": cluster.url,
            "SHARED_LEDGER_SCHEMA": schema,
            "SHARED_LEDGER_SERVICES": "",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{place}/",
            "OTEL_SERVICE_NAME": "ledger-1",
        }
        with subprocess.Popen(
            [sys.executable, "-m", "shared_ledger.cli", "serve", "--port", "0", "--json"],
            env=os.environ | environment,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            url = json.loads(process.stdout.readline())["url"]
            body = {"operation": "CREDIT_ADD", "owner_id": "ada", "nonce": "n"}
            headers = {"x-token": "secret-token"} | CONTINUED
            assert httpx.post(f"{url}/ledger", json=body, headers=headers).status_code == 201
            process.terminate()
            process.communicate(timeout=30)
        assert process.returncode == 0
    spans = [
        (
            span.name,
            span.trace_id.hex(),
            {each.key: each.value for each in part.resource.attributes},
        )
        for request in collector.received
        for part in request.resource_spans
        for scope in part.scope_spans
        for span in scope.spans
    ]
    assert {name for name, _, _ in spans} == {
        "POST /ledger",
        "ledger.post",
        "ledger.queue",
        "ledger.commit",
    }
    assert {trace for _, trace, _ in spans} == {TRACE}
    assert all(about["service.name"].string_value == "ledger-1" for *_, about in spans)


async def test_an_end_does_not_wait_long_for_whoever_takes_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(traces, "SEND_WITHIN_S", 0.2)
    with served_at(Collector(pause_s=5)) as place:
        opened = open_traces(Settings(otel_exporter_otlp_endpoint=f"http://{place}"))
        opened._tracer.start_span("one").end()
        began = time.monotonic()
        await opened.close()
        assert time.monotonic() - began < 2


async def test_requests_are_served_while_nobody_takes_them(
    cluster: Cluster, schema: str, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    settings = Settings(otel_exporter_otlp_endpoint=f"http://127.0.0.1:{port}")
    observers = Observers(None, open_traces(settings))
    async with serving(cluster.url, schema, engine, observers=observers) as served:
        assert (await served.post(OPERATOR, "CREDIT_ADD", "ada")).status_code == 201


# --- when there are none ---


def test_nothing_is_done_for_them_unless_they_go_somewhere() -> None:
    async def app(*_: object) -> None:
        return

    assert Observers().around(app) is app


def test_nothing_is_loaded_for_them_unless_they_go_somewhere(cluster: Cluster, schema: str) -> None:
    program = (
        "import sys\n"
        "from shared_ledger import SHARED\n"
        "from shared_ledger.service.observers import observers_of\n"
        "from shared_ledger.service.server import create_app\n"
        "from shared_ledger.settings import Settings\n"
        "create_app(SHARED, Settings(), observers=observers_of(Settings()))\n"
        "ours = ('opentelemetry.sdk', 'opentelemetry.exporter', 'shared_ledger.service.traces')\n"
        "print([name for name in sys.modules if name.startswith(ours)])\n"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_without_what_sends_them_the_start_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, log: Log
) -> None:
    monkeypatch.delitem(sys.modules, "shared_ledger.service.traces")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    sentence = r"opentelemetry\S* is not installed: pip install 'shared-ledger\[traces\]'"
    with pytest.raises(ConfigurationError, match=sentence):
        observers_of(Settings(otel_exporter_otlp_endpoint="http://localhost:4318"))
