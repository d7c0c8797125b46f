"""Nodes over HTTP: what is not their own answer is never taken for one, and no secret is told."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
import trustme
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from loopback import answered, refused, served
from shared_ledger.apps.crowdfunding.lightning import bolt11, cln, lnbits, lnd
from shared_ledger.apps.crowdfunding.lightning.port import (
    LightningNode,
    NodeRefused,
    NodeUnavailable,
)
from shared_ledger.apps.crowdfunding.lightning.rest import Rest, lines_of

SECRET = "5ec2e7" * 8
INVOICE = bolt11.encode(
    network="regtest",
    amount_msat=10_000,
    payment_hash="ab" * 32,
    payment_secret=bytes(32),
    description="",
    created_on=datetime.now(UTC),
    expires_in_s=3_600,
    key=bolt11.new_key(),
)

Call = Callable[[LightningNode], Awaitable[object]]

NODES = {
    lnd.HEADER: lnd.LndNode,
    cln.HEADER: cln.ClnNode,
    lnbits.HEADER: lnbits.LnbitsNode,
}


async def first_settlement(node: LightningNode) -> object:
    cursor = "2026-11-21T12:00:00+00:00" if isinstance(node, lnbits.LnbitsNode) else "7"
    return await anext(aiter(node.settlements(cursor)))


CALLS: dict[str, Call] = {
    "info": lambda node: node.info(),
    "create_invoice": lambda node: node.create_invoice(
        amount_msat=1_000, description="", expires_in_s=60
    ),
    "lookup_invoice": lambda node: node.lookup_invoice("ab" * 32),
    "settlements": first_settlement,
    "pay": lambda node: node.pay(INVOICE, max_fee_msat=5_000, timeout_s=1),
    "track": lambda node: node.track("ab" * 32),
}


@pytest.fixture(params=list(NODES), ids=["lnd", "cln", "lnbits"])
def header(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(params=list(CALLS))
def call(request: pytest.FixtureRequest) -> Call:
    return CALLS[request.param]


@asynccontextmanager
async def node_at(
    place: str, header: str, *, scheme: str = "http", certificate: str | None = None
) -> AsyncIterator[LightningNode]:
    rest = Rest(f"{scheme}://{place}", header=header, secret=SECRET, certificate=certificate)
    node: LightningNode = NODES[header](rest)
    yield node
    await node.close()


HTTP_200 = b"HTTP/1.1 200 OK\r\nContent-Length: "
PAGE = b"<html>Welcome</html>"
ANSWERS = {
    "hangs up": b"",
    "breaks off": HTTP_200 + b"100\r\n\r\n{",
    "no HTTP": b"SSH-2.0\r\n\r\n",
    "a page": HTTP_200 + str(len(PAGE)).encode() + b"\r\n\r\n" + PAGE,
    "a proxy without a node": b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n",
    "a proxy's JSON": b'HTTP/1.1 503 No\r\nContent-Length: 15\r\n\r\n{"error": null}',
    "somewhere else": b"HTTP/1.1 302 Found\r\nLocation: /other\r\nContent-Length: 0\r\n\r\n",
    "not UTF-8": HTTP_200 + b'12\r\n\r\n{"a":"\xff\xfe"}\n',
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
async def test_what_is_not_the_nodes_own_answer_says_nothing(
    header: str, call: Call, answer: bytes
) -> None:
    with answered(answer) as place:
        async with node_at(place, header) as node:
            with pytest.raises(NodeUnavailable):
                await call(node)


async def test_node_that_is_not_there_is_unavailable(header: str, call: Call) -> None:
    with refused() as place:
        async with node_at(place, header) as node:
            with pytest.raises(NodeUnavailable, match="cannot be reached"):
                await call(node)


# --- a payment, of which nothing may be believed that was not said ---


class Scene:
    """A node that has not heard of a payment at first, and does as it is told when it shall pay."""

    def __init__(self, header: str, on_pay: Callable[[Request], Awaitable[Response]]) -> None:
        self.paid = 0
        self._on_pay = on_pay
        unknown = {
            lnd.HEADER: JSONResponse(
                {"error": {"code": 5, "message": "payment isn't initiated"}}, status_code=404
            ),
            cln.HEADER: JSONResponse({"pays": []}, status_code=201),
            lnbits.HEADER: JSONResponse({"data": [], "total": 0}),
        }[header]

        async def track(_: Request) -> Response:
            return unknown

        async def info(_: Request) -> Response:
            return JSONResponse({"id": "02", "network": "regtest", "version": "v26.06"})

        async def reserve(_: Request) -> Response:
            return JSONResponse({"fee_reserve": 0})

        self.app = Starlette(
            routes=[
                Route("/v2/router/track/{_}", track),
                Route("/v1/listpays", track, methods=["POST"]),
                Route("/api/v1/payments/paginated", track),
                Route("/v1/getinfo", info, methods=["POST"]),
                Route("/api/v1/payments/fee-reserve", reserve),
                *(
                    Route(path, self._pay, methods=["POST"])
                    for path in ("/v2/router/send", "/v1/xpay", "/api/v1/payments")
                ),
            ]
        )

    async def _pay(self, request: Request) -> Response:
        self.paid += 1
        return await self._on_pay(request)


async def nobody_pays(_: Request) -> Response:
    raise AssertionError("nobody was to pay")


@contextmanager
def scene(header: str, on_pay: Callable[[Request], Awaitable[Response]]) -> Iterator[str]:
    made = Scene(header, on_pay)
    with served(made.app) as place:
        yield place
    assert made.paid == 1


async def test_payment_whose_answer_does_not_come_is_not_known(header: str) -> None:
    async def wait(_: Request) -> Response:
        await asyncio.sleep(1)
        return Response()

    with scene(header, wait) as place:
        async with node_at(place, header) as node:
            with pytest.raises(NodeUnavailable):
                await node.pay(INVOICE, max_fee_msat=0, timeout_s=0.2)


@pytest.mark.parametrize(
    "answer",
    [
        HTMLResponse("Bad Gateway", status_code=502),
        JSONResponse({}, status_code=504),
        Response(status_code=200),
        JSONResponse({"unheard": "of"}),
    ],
    ids=["a proxy", "a proxy with JSON", "nothing", "something else"],
)
async def test_payment_whose_answer_is_lost_is_not_known(header: str, answer: Response) -> None:
    async def lose(_: Request) -> Response:
        return answer

    with scene(header, lose) as place:
        async with node_at(place, header) as node:
            with pytest.raises(NodeUnavailable):
                await node.pay(INVOICE, max_fee_msat=0, timeout_s=5)


async def test_payment_that_the_node_refuses_and_does_not_know_was_not_begun(header: str) -> None:
    async def refuse(_: Request) -> Response:
        said = {"code": 9, "message": "not in the mood", "detail": "not in the mood"}
        return JSONResponse({**said, "status": "failed"}, status_code=400)

    with scene(header, refuse) as place:
        async with node_at(place, header) as node:
            with pytest.raises(NodeRefused, match="not in the mood"):
                await node.pay(INVOICE, max_fee_msat=0, timeout_s=5)


# --- secrets ---


def shown(error: BaseException) -> str:
    """All that a traceback prints of it, and of what it came from."""
    return "".join(traceback.format_exception(error)) + repr(error)


async def test_secret_is_in_no_error_and_no_log(
    header: str, call: Call, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    async def repeat(request: Request) -> Response:
        sent = request.headers[header]
        assert sent == SECRET
        said = f"who are you,\n{sent}?"
        return JSONResponse({"code": 7, "message": said, "detail": said}, status_code=401)

    everything = Route("/{path:path}", repeat, methods=["GET", "POST"])
    with served(Starlette(routes=[everything])) as place:
        async with node_at(place, header) as node:
            with pytest.raises((NodeUnavailable, NodeRefused), match="who are you, …") as raised:
                await call(node)
            assert SECRET not in repr(node)
    assert SECRET not in shown(raised.value)
    assert SECRET not in caplog.text
    assert "HTTP Request" in caplog.text


async def test_environment_leads_nowhere_else(monkeypatch: pytest.MonkeyPatch, header: str) -> None:
    with refused() as proxy:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://{proxy}")
        with served(Scene(header, nobody_pays).app) as place:
            async with node_at(place, header) as node:
                assert await node.track("ab" * 32) is None


# --- TLS ---


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def files(folder: Path, authority: trustme.CA, name: str) -> Path:
    """A file with a private key and a certificate for a name."""
    file = folder / "server.pem"
    authority.issue_cert(name).private_key_and_cert_chain_pem.write_to_path(file)
    return file


async def track(place: str, certificate: str | None) -> object:
    async with node_at(place, lnd.HEADER, scheme="https", certificate=certificate) as node:
        return await node.track("ab" * 32)


async def test_node_with_the_certificate_that_was_given_is_spoken_to(
    authority: trustme.CA, tmp_path: Path
) -> None:
    app = Scene(lnd.HEADER, nobody_pays).app
    pem = authority.cert_pem.bytes().decode()
    with served(app, certificate=files(tmp_path, authority, "127.0.0.1")) as place:
        assert await track(place, pem) is None


@pytest.mark.parametrize("trusted", ["nobody", "another", "another name"])
async def test_node_with_another_certificate_is_not_spoken_to(
    authority: trustme.CA, tmp_path: Path, trusted: str
) -> None:
    asked: list[str] = []

    async def answer(request: Request) -> Response:
        asked.append(request.url.path)
        return Response()

    app = Starlette(routes=[Route("/{path:path}", answer)])
    given = {"nobody": None, "another": trustme.CA(), "another name": authority}[trusted]
    name = "node.example" if trusted == "another name" else "127.0.0.1"
    pem = None if given is None else given.cert_pem.bytes().decode()
    with (
        served(app, certificate=files(tmp_path, authority, name)) as place,
        pytest.raises(NodeUnavailable, match="certificate verify failed"),
    ):
        await track(place, pem)
    assert asked == []


# --- lines ---


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
async def test_only_a_line_feed_ends_a_line(size: int) -> None:
    text = '{"a": "\u2028\x85\x0c"}\n\n  \n{"b": 1}\r\n{"c":'.encode()

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(text), size):
            yield text[start : start + size]

    lines = [line.strip() async for line in lines_of(httpx.Response(200, content=pieces()))]
    assert lines == ['{"a": "\u2028\x85\x0c"}'.encode(), b'{"b": 1}', b'{"c":']
