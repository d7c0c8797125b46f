"""The client, against a real service over a socket and against a network that loses things."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import logging
import re
import socket
import socketserver
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any, NamedTuple, cast

import httpx
import msgspec
import pytest
import uvicorn
from pydantic import SecretStr

import shared_ledger.client
from builders import (
    CLUB,
    ClubOperation,
    ShopOperation,
    assert_sound,
    bonus,
    buy,
    eventually,
    gift,
    locked_account,
    posted,
    reserve,
)
from shared_ledger import (
    AccountBusy,
    AlreadyClaimed,
    BatchRefused,
    BudgetSpent,
    CaptureHold,
    ConfigurationError,
    EntryNotFound,
    Group,
    HoldClosed,
    HoldExceeded,
    HoldExpired,
    HoldNotFound,
    InsufficientCredits,
    InvalidPosting,
    Ledger,
    LedgerClosed,
    LedgerError,
    LedgerOverloaded,
    LedgerUnavailable,
    NonceReused,
    NotReversible,
    Part,
    PlaceHold,
    Posted,
    Posting,
    Refusal,
    ReleaseHold,
    Request,
    Reversal,
    ReversalExceedsEntry,
    Transfer,
)
from shared_ledger.client import AsyncLedgerClient, LedgerClient, new_nonce
from shared_ledger.client.attempts import (
    MAX_RETRY_AFTER_S,
    Answer,
    Attempts,
    Lost,
    Patience,
)
from shared_ledger.client.batches import MAX_BYTES, MAX_POSTINGS
from shared_ledger.client.problems import error_of, problem_of
from shared_ledger.embedded import Cluster
from shared_ledger.service import bodies, create_app
from shared_ledger.service.problems import described
from shared_ledger.service.server import listen
from shared_ledger.settings import Settings
from test_public_surface import REFUSALS

TOKEN = "a-secret-of-the-service"
SCHEMA = "book_of_the_client"
HOUR = timedelta(hours=1)
NEW_YEAR = datetime(2027, 1, 1, tzinfo=UTC)
PLUS_TWO = timezone(timedelta(hours=2))

Client = LedgerClient[ClubOperation]
Library = Ledger[ClubOperation]


@pytest.fixture(scope="module")
def service(cluster: Cluster) -> Iterator[int]:
    """The port of a service of the club."""
    with Ledger(CLUB, cluster.url, schema=SCHEMA, migrate=True):
        pass
    settings = Settings(
        database_url=SecretStr(cluster.url),
        shared_ledger_schema=SCHEMA,
        api_token=SecretStr(TOKEN),
        sweep_interval_s=0,
    )
    config = uvicorn.Config(create_app(CLUB, settings), http="httptools", log_level="warning")
    server = uvicorn.Server(config)
    with listen("127.0.0.1", 0) as port:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [port]})
        thread.start()
        eventually(lambda: server.started or not thread.is_alive())
        yield port.getsockname()[1]
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def library(cluster: Cluster, service: int) -> Iterator[Library]:
    """The same book, without a service in between."""
    with Ledger(CLUB, cluster.url, schema=SCHEMA) as ledger:
        yield ledger


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The developer's own proxy is not for this machine."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def owner(request: pytest.FixtureRequest) -> str:
    """An owner of this test alone."""
    return cast("str", request.node.name)


class Awaited:
    """The asynchronous client, each of whose calls is awaited."""

    def __init__(self, client: AsyncLedgerClient[Any]) -> None:
        self._client = client
        self._runner = asyncio.Runner()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def call(*arguments: Any, **options: Any) -> Any:
            called = method(*arguments, **options)
            return self._runner.run(_all(called) if inspect.isasyncgen(called) else called)

        return call

    def close(self) -> None:
        self._runner.run(self._client.aclose())
        self._runner.close()


async def _all(entries: Any) -> list[Any]:
    return [entry async for entry in entries]


class Options(NamedTuple):
    """How the clients of a test are made."""

    kind: str
    opened: contextlib.ExitStack

    def open(self, port: int, application: Any = CLUB, **options: Any) -> Client:
        url = f"http://127.0.0.1:{port}"
        options = {"token": TOKEN} | options
        client: Any
        if self.kind == "sync":
            client = LedgerClient(url, application, **options)
        else:
            client = Awaited(AsyncLedgerClient(url, application, **options))
        self.opened.callback(client.close)
        return cast("Client", client)


@pytest.fixture(params=["sync", "async"])
def options(request: pytest.FixtureRequest) -> Iterator[Options]:
    with contextlib.ExitStack() as opened:
        yield Options(request.param, opened)


@pytest.fixture
def client(options: Options, service: int) -> Client:
    """A client of each kind, one after the other."""
    return options.open(service)


def refusal_by(call: Callable[[], object]) -> Refusal:
    """What the call refuses with."""
    with pytest.raises(Refusal) as caught:
        call()
    return caught.value


# --- posting ---


def test_a_posting_gives_the_entry_that_the_library_gives(
    client: Client, library: Library, owner: str
) -> None:
    request = bonus(owner, "n1", 10, expires_in=HOUR, priority=3)
    posted = client.post(request)
    assert posted == Posted(library.history(owner).entries[0])
    assert posted.entry.expires_on == posted.entry.created_on + HOUR
    assert client.post(request) == library.post(request) == Posted(posted.entry, replayed=True)


def test_metadata_come_back_as_they_were(client: Client, owner: str) -> None:
    metadata = {"ü": [1, 2.5, None, True], "deep": {"large": 2**70 + 1, "float": 1e22}}
    request = Posting(ClubOperation.GIFT, owner, "n1", 1, metadata)
    assert client.post(request).entry.metadata == metadata


def test_a_group_gives_all_its_entries(client: Client, library: Library, owner: str) -> None:
    request = Group(
        "n1",
        [
            Part(ClubOperation.GIFT, owner, 7),
            Part(ClubOperation.BONUS, f"{owner} 2", 3, {"a": 1}, HOUR, 4),
        ],
    )
    posted = client.post(request)
    assert [entry.amount for entry in (posted.entry, *posted.group)] == [7, 3]
    assert library.post(request) == Posted(posted.entry, True, posted.group)


def test_a_transfer_gives_both_its_entries(client: Client, library: Library, owner: str) -> None:
    client.post(gift(owner, "funds", 9))
    request = Transfer(source=owner, destination=f"{owner} 2", amount=4, nonce="n1")
    posted = client.post(request)
    assert [entry.amount for entry in (posted.entry, *posted.group)] == [-4, 4]
    assert library.post(request) == Posted(posted.entry, True, posted.group)


def test_a_hold_is_placed_captured_and_released(
    client: Client, library: Library, owner: str
) -> None:
    client.post(gift(owner, "funds", 9))
    place = PlaceHold(
        ClubOperation.PURCHASE, owner, "n1", 5, expires_at=NEW_YEAR.astimezone(PLUS_TWO)
    )
    held = client.post(place)
    assert held.hold == library.hold(held.hold.id) == client.hold(held.hold.id)
    assert (held.replayed, held.hold.expires_on, held.hold.remaining) == (False, NEW_YEAR, 5)
    assert client.holds(owner) == library.holds(owner) == [held.hold]
    capture = CaptureHold(held.hold.id, "n2", 2, final=False)
    captured = client.post(capture)
    assert captured.entry.amount == -2
    assert library.post(capture) == Posted(captured.entry, replayed=True)
    release = ReleaseHold(held.hold.id, "n3")
    released = client.post(release)
    assert (released.hold.state, released.hold.captured) == ("released", 2)
    assert client.post(release) == msgspec.structs.replace(released, replayed=True)
    assert client.holds(owner) == []


def test_a_capture_with_nothing_said_takes_all(client: Client, owner: str) -> None:
    client.post(gift(owner, "funds", 9))
    held = client.post(reserve(owner, "n1", 5, expires_in=HOUR))
    assert client.post(CaptureHold(held.hold.id, "n2")).entry.amount == -5
    assert client.hold(held.hold.id).state == "captured"


def test_a_reversal_takes_an_entry_back_into_debt(
    client: Client, library: Library, owner: str
) -> None:
    given = client.post(gift(owner, "funds", 9))
    client.post(buy(owner, "n1", 5))
    request = Reversal(given.entry.id, "n2", 7, allow_debt=True, metadata={"a": 1})
    posted = client.post(request)
    assert (posted.entry.amount, client.balance(owner).debt) == (-7, 3)
    assert library.post(request) == Posted(posted.entry, True, posted.group)


def test_a_quote_is_that_of_the_library_and_writes_nothing(
    client: Client, library: Library, owner: str
) -> None:
    client.post(bonus(owner, "n1", 10))
    quote, own = client.quote(buy(owner, "n2", 4)), library.quote(buy(owner, "n2", 4))
    assert (quote.balance, quote.burns, quote.replayed) == (own.balance, own.burns, False)
    assert [entry.amount for entry in quote.entries] == [-4]
    assert client.balance(owner).balance == 10


def test_new_nonces_differ_and_can_be_posted(client: Client, owner: str) -> None:
    for nonce in {new_nonce() for _ in range(3)}:
        client.post(gift(owner, nonce, 1))
    assert client.balance(owner).balance == 3


# --- refusals ---


def wrong_requests(owner: str, hold: int, entry: int, reversal: int) -> Iterator[Request[Any]]:
    """Requests that an owner with 9 credits, 5 of them held, cannot have."""
    yield buy(owner, "x", 5)
    yield gift(owner, "funds", 8)
    yield Posting(ClubOperation.GIFT, owner, "funds", 9, {"a": [1]})
    yield Transfer(source=owner, destination="another", amount=1, nonce="funds")
    yield reserve(owner, "held", 5, expires_in=2 * HOUR)
    yield PlaceHold(ClubOperation.PURCHASE, owner, "held", 5, expires_at=NEW_YEAR)
    yield Posting(ClubOperation.GIFT, owner, "", 1)
    yield Posting(ClubOperation.GIFT, owner, "x", 0)
    yield Posting(ClubOperation.GIFT, "@issued", "x", 1)
    yield Posting(cast("Any", ShopOperation.CONTENT_ACCESS), owner, "x")
    yield Posting(cast("Any", 5), owner, "x")
    yield Posting(ClubOperation.GIFT, owner, "x", 1, {"a": "x" * 9_000})
    yield Posting(ClubOperation.GIFT, owner, "x", 1, cast("Any", [1]))
    yield Posting(ClubOperation.GIFT, owner, "x", 1, {"a": (1, 2)})
    yield Posting(ClubOperation.GIFT, owner, "x", 1, {"a": float("nan")})
    yield Posting(ClubOperation.GIFT, owner, "x", 1, {"a": {1}})
    yield Posting(ClubOperation.GIFT, owner, "x", 1, expires_in=cast("Any", 5))
    yield Posting(ClubOperation.GIFT, owner, "x", 1, expires_in=-HOUR)
    yield Posting(ClubOperation.SIGNUP_CREDIT, owner, "x")
    yield Posting(ClubOperation.PROMOTION, owner, "x", 101)
    yield PlaceHold(ClubOperation.PURCHASE, owner, "x", 1, expires_at=datetime(2027, 1, 1))  # noqa: DTZ001
    yield PlaceHold(ClubOperation.PURCHASE, owner, "x", 1, HOUR, NEW_YEAR)
    yield Group("x", [])
    yield Group("x", [Part(ClubOperation.GIFT, owner, 1), Part(ClubOperation.GIFT, owner, -1)])
    yield Group("x", [Part(ClubOperation.GIFT, owner, 1, {"a": {1}})])
    yield Group("together", [Part(ClubOperation.GIFT, owner, 1)] * 2)
    yield Group("together", [Part(ClubOperation.BONUS, owner, 1)])
    yield CaptureHold(hold, "x", 6)
    yield CaptureHold(10**9, "x")
    yield ReleaseHold(10**9, "x")
    yield Reversal(entry, "x", 8)
    yield Reversal(10**9, "x")
    yield Reversal(reversal, "x")
    yield cast("Any", "no request")


def test_refusals_are_equal_to_the_librarys(client: Client, library: Library, owner: str) -> None:
    entry = client.post(gift(owner, "funds", 9)).entry
    hold = client.post(reserve(owner, "held", 5, expires_in=HOUR)).hold
    client.post(Posting(ClubOperation.SIGNUP_CREDIT, owner, "welcome"))
    spent = client.post(buy(owner, "spent", 3))
    reversal = client.post(Reversal(spent.entry.id, "back", 3))
    client.post(Group("together", [Part(ClubOperation.GIFT, owner, 1)]))
    client.post(buy(owner, "rest", 4))
    client.post(Reversal(entry.id, "some", 2, allow_debt=True))
    kinds = set()
    for request in wrong_requests(owner, hold.id, entry.id, reversal.entry.id):
        refusal = refusal_by(lambda request=request: client.post(request))  # type: ignore[misc]
        own = refusal_by(lambda request=request: library.post(request))  # type: ignore[misc]
        assert refusal == own, request
        assert str(refusal) == str(own)
        kinds.add(type(refusal))
    assert kinds >= {
        AlreadyClaimed, EntryNotFound, HoldExceeded, HoldNotFound, InsufficientCredits,
        InvalidPosting, NonceReused, NotReversible, ReversalExceedsEntry,
    }  # fmt: skip


def test_a_hold_that_ended_is_refused_as_by_the_library(
    client: Client, library: Library, owner: str
) -> None:
    client.post(gift(owner, "funds", 9))
    expiring = client.post(reserve(owner, "n1", 1, expires_in=timedelta(seconds=1))).hold
    closed = client.post(reserve(owner, "n2", 1)).hold
    client.post(ReleaseHold(closed.id, "n3"))
    eventually(lambda: library.hold(expiring.id).state == "expired")
    for hold, kind in ((expiring, HoldExpired), (closed, HoldClosed)):
        refusal = refusal_by(lambda hold=hold: client.post(CaptureHold(hold.id, "n4")))  # type: ignore[misc]
        assert type(refusal) is kind
        assert refusal == refusal_by(lambda hold=hold: library.post(CaptureHold(hold.id, "n4")))  # type: ignore[misc]


def test_a_spent_budget_is_refused_as_by_the_library(client: Client, library: Library) -> None:
    owner = new_nonce()
    request = Posting(ClubOperation.DAILY_PROMOTION, owner, "n1", 51)
    refusal = refusal_by(lambda: client.post(request))
    assert type(refusal) is BudgetSpent
    assert refusal == refusal_by(lambda: library.post(request))


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: type(refusal).__name__)
def test_every_refusal_survives_the_way_through_http(refusal: Refusal) -> None:
    problem = problem_of(msgspec.json.encode(described(refusal)))
    assert problem is not None
    assert error_of(problem) == refusal


@pytest.mark.parametrize("left_out", ["available", "required"])
def test_a_refusal_with_a_field_missing_is_none_of_the_librarys(left_out: str) -> None:
    content = described(InsufficientCredits("user1", asset="credits", available=1, required=2))
    del content[left_out]
    problem = problem_of(msgspec.json.encode(content))
    assert problem is not None
    assert error_of(problem) is None


# --- what cannot be sent ---


@pytest.mark.parametrize("lasting", [timedelta(seconds=1.5), timedelta(microseconds=1)])
def test_a_fraction_of_a_second_is_refused_before_sending(
    options: Options, owner: str, lasting: timedelta
) -> None:
    client = options.open(1)
    for request in (
        bonus(owner, "n1", 1, expires_in=lasting),
        reserve(owner, "n1", 1, expires_in=lasting),
    ):
        refusal = refusal_by(lambda request=request: client.post(request))  # type: ignore[misc]
        assert isinstance(refusal, InvalidPosting)
        assert refusal.field == "expires_in"


@pytest.mark.parametrize(
    ("owner_id", "problem"),
    [("", "is empty"), ("\ud800", "Unicode"), (5, "string")],
)
def test_an_owner_that_no_path_can_carry_is_refused_before_sending(
    options: Options, owner_id: Any, problem: str
) -> None:
    refusal = refusal_by(lambda: options.open(1).balance(owner_id))
    assert isinstance(refusal, InvalidPosting)
    assert (refusal.field, problem in refusal.problem) == ("owner_id", True)


@pytest.mark.parametrize("hold_id", ["1", "1/capture", True, 0, -1, 2**63, 1.0])
def test_an_id_that_is_no_number_is_refused_before_sending(options: Options, hold_id: Any) -> None:
    client = options.open(1)
    for call in (
        lambda: client.hold(hold_id),
        lambda: client.post(CaptureHold(hold_id, "n1")),
        lambda: client.post(ReleaseHold(hold_id, "n1")),
    ):
        refusal = refusal_by(call)
        assert isinstance(refusal, InvalidPosting)
        assert refusal.field == "hold_id"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("owner_id", "\ud800"),
        ("nonce", {1}),
        pytest.param("amount", 10**5_000, id="digits"),
        ("amount", 2**80),
        ("priority", 1j),
    ],
)
def test_what_json_cannot_hold_is_refused_by_its_field(
    client: Client, owner: str, field: str, value: Any
) -> None:
    posting = msgspec.structs.replace(bonus(owner, "n1", 1), **{field: value})
    refusal = refusal_by(lambda: client.post(posting))
    assert isinstance(refusal, InvalidPosting)
    assert refusal.field == field


def test_a_reversal_under_another_name_is_refused_before_sending(options: Options) -> None:
    named: Any = Reversal(1, "n1", operation=ClubOperation.GIFT)
    refusal = refusal_by(lambda: options.open(1).post(named))
    assert isinstance(refusal, InvalidPosting)
    assert refusal.field == "operation"


# --- batches ---


def test_refusals_in_a_batch_are_values(client: Client, library: Library, owner: str) -> None:
    client.post(gift(owner, "n0", 1))
    requests = [
        gift(owner, "n1", 9),
        buy(owner, "n2", 99),
        Posting(ClubOperation.GIFT, owner, "n3", 1, {"a": {1}}),
        Posting(ClubOperation.GIFT, owner, "n4", 0),
        gift(owner, "n0", 1),
        gift(owner, "n0", 2),
        bonus(owner, "n5", 1, expires_in=timedelta(seconds=0.5)),
        buy(owner, "n6", 10),
    ]
    outcomes = client.post_batch(requests)
    assert [outcome.replayed for outcome in outcomes if isinstance(outcome, Posted)] == [
        False,
        True,
        False,
    ]
    again = library.post_batch(requests)
    # Not the second's: by now the owner has less.
    assert [outcomes[number] for number in (2, 3, 5)] == [again[number] for number in (2, 3, 5)]
    assert all(isinstance(outcomes[number], Refusal) for number in (2, 3, 5))
    assert outcomes[1] == InsufficientCredits(owner, asset="credits", available=10, required=99)
    assert isinstance(outcomes[6], InvalidPosting)
    assert posted(outcomes[7]).entry == posted(again[7]).entry
    assert library.balance(owner).balance == 1


def test_an_empty_batch_is_an_empty_answer(options: Options) -> None:
    assert options.open(1).post_batch([]) == []
    assert options.open(1).post_batch([], atomic=True) == []


def test_a_long_batch_is_split_and_applied_in_its_order(client: Client, owner: str) -> None:
    requests = [gift(owner, f"n{number}", 1) for number in range(2 * MAX_POSTINGS + 1)]
    outcomes = client.post_batch(requests)
    assert [posted(outcome).entry.balance_after for outcome in outcomes] == [
        *range(1, len(requests) + 1)
    ]


def test_a_heavy_batch_is_split_too(client: Client, owner: str) -> None:
    requests = [
        Posting(ClubOperation.GIFT, owner, f"n{number}", 1, {"a": "x" * 8_000})
        for number in range(300)
    ]
    assert all(isinstance(outcome, Posted) for outcome in client.post_batch(requests))
    heavy = Posting(ClubOperation.GIFT, owner, "heavy", 1, {"a": "x" * MAX_BYTES})
    before, outcome, after = client.post_batch([gift(owner, "a", 1), heavy, gift(owner, "b", 1)])
    assert isinstance(outcome, InvalidPosting)
    assert posted(after).entry.balance_after == posted(before).entry.balance_after + 1 == 302


def test_the_client_splits_where_the_service_must() -> None:
    assert (MAX_POSTINGS, MAX_BYTES) == (bodies.MAX_BATCH, bodies.MAX_BATCH_BYTES)


def test_an_atomic_batch_happens_whole(client: Client, owner: str) -> None:
    outcomes = client.post_batch([gift(owner, "n1", 5), buy(owner, "n2", 5)], atomic=True)
    assert [posted(outcome).entry.balance_after for outcome in outcomes] == [5, 0]


@pytest.mark.parametrize("wrong", [3, -9])
def test_an_atomic_batch_is_refused_whole_as_by_the_library(
    client: Client, library: Library, owner: str, wrong: int
) -> None:
    third = (
        Posting(ClubOperation.GIFT, owner, "n3", 1, {"a": {1}})
        if wrong > 0
        else buy(owner, "n3", 99)
    )
    requests = [gift(owner, "n1", 5), buy(owner, "n2", 5), third, gift(owner, "n4", 5)]
    outcomes = client.post_batch(requests, atomic=True)
    assert outcomes == library.post_batch(requests, atomic=True)
    assert [type(outcome) is BatchRefused for outcome in outcomes] == [True, True, False, True]
    assert library.balance(owner).balance == 0


def test_an_atomic_batch_cannot_be_split(options: Options, owner: str) -> None:
    many = [gift(owner, f"n{number}", 1) for number in range(MAX_POSTINGS + 1)]
    heavy = [
        Posting(ClubOperation.GIFT, owner, f"n{number}", 1, {"a": "x" * 8_000})
        for number in range(140)
    ]
    for requests in (many, heavy):
        with pytest.raises(InvalidPosting, match="atomic batch"):
            options.open(1).post_batch(requests, atomic=True)


# --- reading ---


def test_what_is_read_is_what_the_library_reads(
    client: Client, library: Library, owner: str
) -> None:
    start = client.post(bonus(owner, "n1", 10, expires_in=HOUR)).entry.created_on
    client.post(gift(owner, "n2", 5))
    client.post(reserve(owner, "n3", 2))
    later = start + timedelta(days=1)
    assert client.balance(owner) == library.balance(owner)
    assert client.balance(owner, at=later) == library.balance(owner, at=later)
    # What is held does not expire.
    assert client.balance(owner, at=later).balance == 5 + 2
    assert client.balance(owner, asset="points") == library.balance(owner, asset="points")
    assert client.history(owner) == library.history(owner)
    assert client.history(owner, at=start) == library.history(owner, at=start)
    assert client.grants(owner) == library.grants(owner)
    assert client.statement(owner, start, later) == library.statement(owner, start, later)
    assert len(client.statement(owner, start, later).lines) == 3
    for asset in ("points", "credits"):
        assert client.grants(owner, asset=asset) == library.grants(owner, asset=asset)
        assert client.holds(owner, asset=asset) == [
            msgspec.structs.replace(hold, grants=()) for hold in library.holds(owner, asset=asset)
        ]
        assert client.statement(owner, start, later, asset=asset) == library.statement(
            owner, start, later, asset=asset
        )


def test_a_time_in_any_zone_is_the_same_moment(client: Client, owner: str) -> None:
    at = client.post(gift(owner, "n1", 5)).entry.created_on
    for zone in (PLUS_TWO, timezone(-timedelta(hours=5, minutes=30))):
        assert client.balance(owner, at=at.astimezone(zone)).balance == 5
        assert (
            client.balance(owner, at=(at - timedelta(microseconds=1)).astimezone(zone)).balance == 0
        )


def test_a_time_without_a_zone_is_refused_as_by_the_library(
    client: Client, library: Library, owner: str
) -> None:
    naive = datetime(2027, 1, 1)  # noqa: DTZ001
    for read in (
        lambda ledger: ledger.balance(owner, at=naive),
        lambda ledger: ledger.history(owner, at=naive),
        lambda ledger: ledger.statement(owner, naive, NEW_YEAR),
        lambda ledger: ledger.statement(owner, NEW_YEAR, naive),
        lambda ledger: ledger.balance(owner, at="2027-01-01"),
    ):
        refusal = refusal_by(lambda read=read: read(client))  # type: ignore[misc]
        assert refusal == refusal_by(lambda read=read: read(library))  # type: ignore[misc]


def test_entries_of_all_pages_come_one_after_the_other(
    client: Client, library: Library, owner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("sync", "asynchronous"):
        monkeypatch.setattr(f"shared_ledger.client.{module}.PAGE", 2)
    library.post_batch([gift(owner, f"n{number}", 1) for number in range(5)])
    at = library.history(owner).entries[1].created_on
    assert list(client.entries(owner)) == library.history(owner).entries
    assert list(client.entries(owner, at=at)) == library.history(owner, at=at).entries
    assert list(client.entries(f"{owner} nobody")) == []


def test_pages_are_turned_by_their_cursor(client: Client, library: Library, owner: str) -> None:
    library.post_batch([gift(owner, f"n{number}", 1) for number in range(3)])
    first = client.history(owner, limit=2)
    second = client.history(owner, limit=2, cursor=first.cursor)
    assert [*first.entries, *second.entries] == library.history(owner).entries
    assert second.cursor is None


@pytest.mark.parametrize(
    "name",
    [
        *["ä ö%ü+?#&=;", "..", ".", "%2e%2e", "%2F", "holds", "batch", "日本\\"],
        *["a/holds", "/", "//", "../admin/keys", "holds/1"],
    ],
)
def test_an_owner_may_have_any_name(
    client: Client, library: Library, owner: str, name: str
) -> None:
    before = library.balance(name).balance
    client.post(gift(name, owner, 3))
    client.post(bonus(name, f"{owner} grant", 1))
    assert client.balance(name) == library.balance(name)
    assert client.balance(name).balance == before + 4
    assert client.history(name) == library.history(name)
    assert client.grants(name) == library.grants(name)
    assert client.holds(name) == []


def test_a_hold_of_nobody_is_not_found(client: Client) -> None:
    assert refusal_by(lambda: client.hold(10**9)) == HoldNotFound(10**9)


# --- a network that loses things ---

Reply = Callable[["Hostile", "socket.socket", bytes], None]


class Hostile:
    """A server in front of the service that answers as its script says, then is honest.

    ``heard`` are the requests it was sent, each whole.
    """

    def __init__(self, service: int) -> None:
        self.service = service
        self.script: list[Reply] = []
        self.heard: list[bytes] = []
        self.at: list[float] = []
        hostile = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                request = _message(self.request)
                if not request:
                    return
                hostile.heard.append(request)
                hostile.at.append(time.monotonic())
                reply = hostile.script.pop(0) if hostile.script else honest
                # Whoever is told nothing goes away.
                with contextlib.suppress(OSError):
                    reply(hostile, self.request, request)

        self.server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = int(self.server.server_address[1])

    def forward(self, request: bytes) -> bytes:
        """The service's answer."""
        with socket.create_connection(("127.0.0.1", self.service)) as connection:
            connection.sendall(request)
            return _message(connection)

    def nonces(self) -> list[str]:
        """The nonces it heard."""
        return [json.loads(request.partition(b"\r\n\r\n")[2])["nonce"] for request in self.heard]


def _message(connection: socket.socket) -> bytes:
    """A message of HTTP, whole."""
    message = b""
    while True:
        head, end, body = message.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: *(\d+)", head)
        if end and len(body) >= (int(length[1]) if length else 0):
            return message
        part = connection.recv(65_536)
        if not part:
            return b""
        message += part


def honest(hostile: Hostile, connection: socket.socket, request: bytes) -> None:
    connection.sendall(hostile.forward(request))


def lose(hostile: Hostile, connection: socket.socket, request: bytes) -> None:
    """The service does it, and nobody hears of it."""
    hostile.forward(request)


def cut(hostile: Hostile, connection: socket.socket, request: bytes) -> None:
    """The connection drops in the middle of the answer."""
    answer = hostile.forward(request)
    connection.sendall(answer[: len(answer) - 40])


def hang_up(hostile: Hostile, connection: socket.socket, request: bytes) -> None:
    """The service never hears of it."""


def slow(hostile: Hostile, connection: socket.socket, request: bytes) -> None:
    """The answer comes when nobody waits for it any more."""
    answer = hostile.forward(request)
    time.sleep(1)
    connection.sendall(answer)


def trickle(hostile: Hostile, connection: socket.socket, request: bytes) -> None:
    """The answer comes, but byte by byte."""
    head, end, body = hostile.forward(request).partition(b"\r\n\r\n")
    connection.sendall(head + end)
    for number in range(len(body)):
        connection.sendall(body[number : number + 1])
        time.sleep(0.05)


def babble(hostile: Hostile, connection: socket.socket, request: bytes) -> None:
    """What is answered is no HTTP."""
    connection.sendall(b"220 mail.example ESMTP\r\n")


def answering(status: int, body: Any = b"", **headers: str) -> Reply:
    """An answer that the service never gave."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(raw)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]

    def reply(hostile: Hostile, connection: socket.socket, request: bytes) -> None:
        connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + raw)

    return reply


def problem(code: str, status: int, **more: Any) -> dict[str, Any]:
    return {
        "type": f"urn:shared-ledger:problem:{code}",
        "title": code,
        "status": status,
        "detail": f"about {code}",
        **more,
    }


OVERLOADED = answering(503, problem("overloaded", 503), retry_after="0")
BUSY = answering(503, problem("account_busy", 503, owner_id="user1"), retry_after="0")


@pytest.fixture
def hostile(service: int) -> Iterator[Hostile]:
    hostile = Hostile(service)
    thread = threading.Thread(target=hostile.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield hostile
    hostile.server.shutdown()
    hostile.server.server_close()
    thread.join()


@pytest.mark.parametrize("fault", [lose, cut, slow, trickle], ids=lambda fault: fault.__name__)
def test_a_posting_whose_answer_was_lost_happens_once(
    options: Options, hostile: Hostile, library: Library, owner: str, fault: Reply
) -> None:
    hostile.script = [fault, fault]
    posted = options.open(hostile.port, timeout_s=0.4).post(gift(owner, "n1", 7))
    assert posted.replayed
    assert library.history(owner).entries == [posted.entry]
    assert len(hostile.heard) >= 3
    assert set(hostile.nonces()) == {"n1"}


@pytest.mark.parametrize(
    "fault",
    [
        hang_up,
        babble,
        *(answering(status, b"<p>Bad gateway</p>") for status in (429, 502, 503, 504)),
        OVERLOADED,
        BUSY,
    ],
)
def test_what_the_service_could_not_do_is_tried_again(
    options: Options, hostile: Hostile, owner: str, fault: Reply
) -> None:
    hostile.script = [fault]
    posted = options.open(hostile.port).post(gift(owner, "n1", 7))
    assert not posted.replayed
    assert len(hostile.heard) == 2


@pytest.mark.parametrize("fault", [lose, cut], ids=lambda fault: fault.__name__)
def test_every_kind_of_request_happens_once_though_its_answer_is_lost(  # noqa: PLR0917  # fixtures
    options: Options,
    hostile: Hostile,
    library: Library,
    cluster: Cluster,
    owner: str,
    fault: Reply,
) -> None:
    client = options.open(hostile.port)

    def post(request: Any) -> Any:
        hostile.script = [fault]
        result = client.post(request)
        assert result.replayed
        return result

    first = post(gift(owner, "n1", 20))
    post(Group("n2", [Part(ClubOperation.GIFT, owner, 1)] * 2))
    post(Transfer(source=owner, destination=f"{owner} 2", amount=3, nonce="n3"))
    hold = post(reserve(owner, "n4", 5)).hold
    post(CaptureHold(hold.id, "n5", 2, final=False))
    post(ReleaseHold(hold.id, "n6"))
    post(Reversal(first.entry.id, "n7", 4))
    assert library.balance(owner).balance == 20 + 2 - 3 - 2 - 4
    assert len(library.history(owner).entries) == 8
    assert_sound(cluster.url, SCHEMA)


def test_a_batch_whose_answer_was_lost_happens_once(
    options: Options, hostile: Hostile, library: Library, owner: str
) -> None:
    requests = [gift(owner, f"n{number}", 1) for number in range(MAX_POSTINGS + 5)]
    hostile.script = [honest, lose]
    outcomes = options.open(hostile.port).post_batch(requests)
    replayed = [posted(outcome).replayed for outcome in outcomes]
    assert replayed == [False] * MAX_POSTINGS + [True] * 5
    assert library.balance(owner).balance == len(requests)


def test_reading_is_tried_again_too(options: Options, hostile: Hostile, owner: str) -> None:
    hostile.script = [hang_up, cut]
    assert options.open(hostile.port).balance(owner).balance == 0
    assert len(hostile.heard) == 3


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 422, 500, 501])
def test_other_answers_are_not_tried_again(
    options: Options, hostile: Hostile, owner: str, status: int
) -> None:
    hostile.script = [answering(status, problem("new_to_this_client", status))]
    with pytest.raises(LedgerError) as caught:
        options.open(hostile.port).post(gift(owner, "n1", 7))
    assert len(hostile.heard) == 1
    assert not isinstance(caught.value, Refusal | LedgerUnavailable)
    assert status == 401 or "about new_to_this_client" in str(caught.value)


def test_the_service_is_asked_when_it_said(options: Options, hostile: Hostile, owner: str) -> None:
    hostile.script = [answering(429, retry_after="1"), answering(503, retry_after="1")]
    options.open(hostile.port).post(gift(owner, "n1", 7))
    pauses = [after - before for before, after in zip(hostile.at, hostile.at[1:], strict=False)]
    assert len(pauses) == 2
    assert min(pauses) >= 1


def test_after_so_many_attempts_it_is_unavailable(
    options: Options, hostile: Hostile, owner: str
) -> None:
    hostile.script = [hang_up] * 9
    with pytest.raises(LedgerUnavailable, match=r"in 3 attempts.*same nonce is safe"):
        options.open(hostile.port, retries=2).post(gift(owner, "n1", 7))
    assert len(hostile.heard) == 3


def test_without_retries_there_is_one_attempt(
    options: Options, hostile: Hostile, owner: str
) -> None:
    hostile.script = [answering(502, b"<p>Bad gateway</p>")]
    with pytest.raises(LedgerUnavailable, match="in one attempt: 502"):
        options.open(hostile.port, retries=0).post(gift(owner, "n1", 7))
    assert len(hostile.heard) == 1


def test_a_service_that_is_not_there_is_unavailable(options: Options, owner: str) -> None:
    with listen("127.0.0.1", 0) as port:
        nobody = port.getsockname()[1]
    with pytest.raises(LedgerUnavailable, match=f"127.0.0.1:{nobody} did not answer"):
        options.open(nobody, retries=1).balance(owner)


def test_the_deadline_ends_all_attempts(options: Options, hostile: Hostile, owner: str) -> None:
    hostile.script = [slow] * 100
    client = options.open(hostile.port, timeout_s=0.2, deadline_s=0.7, retries=100)
    began = time.monotonic()
    with pytest.raises(LedgerUnavailable):
        client.post(gift(owner, "n1", 7))
    assert time.monotonic() - began < 2
    assert len(hostile.heard) > 1


def test_a_full_queue_is_overloaded_in_the_end(
    options: Options, hostile: Hostile, owner: str
) -> None:
    hostile.script = [OVERLOADED] * 2
    with pytest.raises(LedgerOverloaded, match="about overloaded"):
        options.open(hostile.port, retries=1).post(gift(owner, "n1", 7))


@pytest.mark.parametrize("last", [OVERLOADED, BUSY])
def test_what_may_have_been_recorded_is_never_said_not_to_be(
    options: Options, hostile: Hostile, library: Library, owner: str, last: Reply
) -> None:
    hostile.script = [lose, last]
    with pytest.raises(LedgerUnavailable, match="same nonce is safe"):
        options.open(hostile.port, retries=1).post(gift(owner, "n1", 7))
    assert library.balance(owner).balance == 7


def test_a_locked_account_is_busy_in_the_end(
    options: Options, hostile: Hostile, owner: str
) -> None:
    hostile.script = [BUSY] * 2
    with pytest.raises(AccountBusy):
        options.open(hostile.port, retries=1).post(gift(owner, "n1", 7))


def test_a_posting_that_waits_for_a_lock_is_written_once(
    options: Options, service: int, cluster: Cluster, library: Library, owner: str
) -> None:
    library.post(gift(owner, "funds", 1))
    client = options.open(service, timeout_s=0.3, retries=20)
    with contextlib.ExitStack() as opened:
        opened.enter_context(locked_account(cluster.url, SCHEMA, owner))
        timer = threading.Timer(1, opened.close)
        timer.start()
        client.post(gift(owner, "n1", 7))
        timer.join()
    assert library.balance(owner).balance == 8


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (answering(200, b"<html>Sign in</html>"), "is the url right"),
        (answering(200, {"hello": 1}), "is the url right"),
        (answering(204), "answered 204"),
        (answering(307, location="http://127.0.0.1:9/"), "change the url"),
        (answering(404, b"<p>Not here</p>"), "is the url right"),
        (answering(200, {"results": []}), "is the url right"),
    ],
)
def test_what_is_no_ledgers_service_is_said_to_be_none(
    options: Options, hostile: Hostile, owner: str, answer: Reply, sentence: str
) -> None:
    client = options.open(hostile.port)
    for call in (
        lambda: client.post(gift(owner, "n1", 1)),
        lambda: client.post_batch([gift(owner, "n1", 1)]),
        lambda: client.post(Group("n1", [Part(ClubOperation.GIFT, owner, 1)])),
        lambda: client.balance(owner),
        lambda: client.holds(owner),
    ):
        hostile.script = [answer]
        with pytest.raises(LedgerError, match=sentence) as caught:
            call()
        assert type(caught.value) is LedgerError


def test_a_new_refusal_in_a_batch_is_a_value(
    options: Options, hostile: Hostile, owner: str
) -> None:
    hostile.script = [answering(200, {"results": [problem("new_to_this_client", 409)]})]
    (outcome,) = options.open(hostile.port).post_batch([gift(owner, "n1", 1)])
    assert isinstance(outcome, Refusal)
    assert str(outcome) == "about new_to_this_client"


# --- pauses, without waiting ---


def attempts(**more: Any) -> Attempts:
    patience = {"timeout_s": 10.0, "retries": 100, "deadline_s": 1_000.0} | more
    return Attempts("http://ledger", Patience(**patience))


def test_pauses_double_and_are_random_from_zero_up(monkeypatch: pytest.MonkeyPatch) -> None:
    ranges: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        ranges.append((low, high))
        return high

    monkeypatch.setattr("random.uniform", uniform)
    tried = attempts()
    pauses = [tried.pause_s(Lost("gone", sent=True)) for _ in range(30)]
    assert ranges[:6] == [(0, 0.2), (0, 0.4), (0, 0.8), (0, 1.6), (0, 3.2), (0, 5)]
    assert pauses == [high for _, high in ranges]
    assert max(ranges) == (0, 5)


@pytest.mark.parametrize(
    ("text", "least"),
    [
        ("7", 7),
        ("0", 0),
        ("999999999999", MAX_RETRY_AFTER_S),
        ("-5", 0),
        ("soon", 0),
        ("\u0663", 0),
        ("Wed, 21 Oct 2026 07:28:00 GMT", 0),
        ("", 0),
        ("1.5", 0),
    ],
)
def test_retry_after_is_honoured_within_reason(text: str, least: int) -> None:
    pause = attempts().pause_s(Answer(503, text, b""))
    assert pause is not None
    assert least <= pause <= least + 0.2


def test_a_pause_beyond_the_deadline_is_not_waited_for() -> None:
    assert attempts(deadline_s=5.0).pause_s(Answer(429, "6", b"")) is None


def test_the_last_attempt_may_take_what_is_left() -> None:
    assert attempts(timeout_s=10.0, deadline_s=3.0).timeout_s <= 3
    assert attempts(timeout_s=2.0, deadline_s=3.0).timeout_s == 2


# --- making and closing ---


def test_a_wrong_token_is_named_and_not_shown(options: Options, service: int, owner: str) -> None:
    with pytest.raises(ConfigurationError, match=r"does not accept the token.*API_TOKEN") as caught:
        options.open(service, token="hunter2-and-more").balance(owner)
    assert "hunter2" not in str(caught.value)


def test_the_token_is_in_no_log_no_text_and_no_error(
    options: Options, hostile: Hostile, owner: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.NOTSET)
    for name in ("httpx", "httpcore", "httpcore.http11", "httpcore.connection", "asyncio"):
        caplog.set_level(logging.DEBUG, name)
    client = options.open(hostile.port, retries=1, timeout_s=0.8)
    client.post(gift(owner, "n1", 1))
    assert caplog.records
    texts = [repr(client), str(client)]
    for replies in ([hang_up] * 2, [slow] * 2, [babble] * 2, [answering(401)], [answering(500)]):
        hostile.script = list(replies)
        with pytest.raises(LedgerError) as caught:
            client.balance(owner)
        texts += traceback.format_exception(caught.value)
        error: BaseException | None = caught.value
        while error is not None:
            # What an error tracker would show of it.
            texts.append(repr(vars(error)))
            assert not isinstance(error, httpx.HTTPError)
            error = error.__cause__ or error.__context__
    assert any(TOKEN.encode() in request for request in hostile.heard)
    assert TOKEN not in "".join(texts)
    assert TOKEN not in caplog.text


def test_a_client_shows_where_it_goes() -> None:
    with LedgerClient("https://ledger.example/api/v1/club/", CLUB, token=TOKEN) as client:
        assert repr(client) == (
            "LedgerClient('https://ledger.example/api/v1/club', Application('club', ClubOperation))"
        )


@pytest.mark.parametrize("kind", [LedgerClient, AsyncLedgerClient])
@pytest.mark.parametrize(
    ("url", "more"),
    [
        ("ledger.example", {}),
        ("ftp://ledger.example", {}),
        ("http://", {}),
        ("http://user:hunter2@ledger.example", {}),
        ("http://ledger.example?token=hunter2", {}),
        ("http://ledger.example:port-hunter2", {}),
        (None, {}),
        ("http://ledger.example", {"token": ""}),
        ("http://ledger.example", {"token": "hunter2\r\nx-other: 1"}),
        ("http://ledger.example", {"token": "hunter2 "}),
        ("http://ledger.example", {"token": "hunter2\ud800"}),
        ("http://ledger.example", {"token": None}),
        ("http://ledger.example", {"timeout_s": 0}),
        ("http://ledger.example", {"timeout_s": float("nan")}),
        ("http://ledger.example", {"deadline_s": -1}),
        ("http://ledger.example", {"retries": -1}),
        ("http://ledger.example", {"retries": 1.5}),
    ],
)
def test_what_cannot_work_is_refused_when_it_is_made(
    kind: Any, url: Any, more: dict[str, Any]
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        kind(url, CLUB, **({"token": TOKEN} | more))
    assert "hunter2" not in str(caught.value)


def test_a_closed_client_says_so(options: Options, service: int, owner: str) -> None:
    client = options.open(service)
    client.close() if options.kind == "sync" else cast("Any", client).aclose()
    with pytest.raises(LedgerClosed):
        client.balance(owner)


def test_a_client_is_closed_at_the_end_of_its_block(service: int) -> None:
    with LedgerClient(f"http://127.0.0.1:{service}", CLUB, token=TOKEN) as client:
        client.balance("user1")
    with pytest.raises(LedgerClosed):
        client.balance("user1")


async def test_an_asynchronous_client_is_closed_at_the_end_of_its_block(service: int) -> None:
    async with AsyncLedgerClient(f"http://127.0.0.1:{service}", CLUB, token=TOKEN) as client:
        await client.balance("user1")
    with pytest.raises(LedgerClosed):
        await client.balance("user1")


async def test_many_coroutines_share_a_client(service: int, library: Library, owner: str) -> None:
    async with AsyncLedgerClient(f"http://127.0.0.1:{service}", CLUB, token=TOKEN) as client:
        await asyncio.gather(*(client.post(gift(owner, f"n{n}", 1)) for n in range(300)))
    assert library.balance(owner).balance == 300


async def test_a_cancelled_call_is_cancelled(hostile: Hostile, owner: str) -> None:
    hostile.script = [slow]
    url = f"http://127.0.0.1:{hostile.port}"
    async with AsyncLedgerClient(url, CLUB, token=TOKEN) as client:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.balance(owner), 0.2)
    assert len(hostile.heard) == 1


# --- what it is beside the library ---


def methods(of: type) -> dict[str, inspect.Signature]:
    return {
        name: inspect.signature(method)
        for name, method in vars(of).items()
        if not name.startswith("_") and inspect.isfunction(method)
    }


def test_methods_take_what_the_librarys_take() -> None:
    own = methods(LedgerClient)
    library = methods(Ledger)
    differing = {
        name
        for name in own
        if name not in library or list(own[name].parameters) != list(library[name].parameters)
    }
    # Only postings can be quoted here, and a library's caller turns the pages himself.
    assert differing == {"quote", "entries"}
    assert {name for name in library if name not in own and f"a{name}" in library} == {
        "post_in",
        "sweep",
    }


def test_both_clients_have_the_same_methods() -> None:
    def parameters(of: type) -> dict[str, list[inspect.Parameter]]:
        return {
            name: list(signature.parameters.values())
            for name, signature in methods(of).items()
            if name not in {"close", "aclose"}
        }

    assert parameters(LedgerClient) == parameters(AsyncLedgerClient)


def test_public_names_are_the_documented_ones() -> None:
    assert sorted(shared_ledger.client.__all__) == [
        "AsyncLedgerClient",
        "LedgerClient",
        "new_nonce",
    ]


TYPED = """
from typing import assert_type
from shared_ledger import SHARED, Application, BaseLedgerOperation, Held, Outcome, PlaceHold
from shared_ledger import Posted, Posting, ReleaseHold, Rule, SharedOperation, Transfer
from shared_ledger.client import AsyncLedgerClient, LedgerClient

class ClubOperation(BaseLedgerOperation):
    DAILY_REWARD = "DAILY_REWARD"
    SIGNUP_CREDIT = "SIGNUP_CREDIT"
    CREDIT_SPEND = "CREDIT_SPEND"
    CREDIT_ADD = "CREDIT_ADD"
    PURCHASE = "PURCHASE"

CLUB = Application("club", ClubOperation, rules={ClubOperation.PURCHASE: Rule.fixed(-1)})
GIFT = Posting(ClubOperation.CREDIT_ADD, "user1", "n1")
SPEND = Posting(SharedOperation.CREDIT_SPEND, "user1", "n1")
PLACE = PlaceHold(ClubOperation.PURCHASE, "user1", "n1", 1)

def use(client: LedgerClient[ClubOperation]) -> None:
    assert_type(client.post(GIFT), Posted)
    assert_type(client.post(Transfer(source="a", destination="b", amount=1, nonce="n")), Posted)
    assert_type(client.post(PLACE), Held)
    assert_type(client.post(ReleaseHold(1, "n1")), Held)
    assert_type(client.post_batch([GIFT]), list[Outcome])
    assert_type(LedgerClient("http://a", CLUB, token="t"), LedgerClient[ClubOperation])
    client.post(SPEND)  # expect-error
    client.post_batch([SPEND])  # expect-error
    client.quote(SPEND)  # expect-error
    LedgerClient("http://a", SHARED, token="t").post(PLACE)  # expect-error

async def use_in_a_coroutine(client: AsyncLedgerClient[ClubOperation]) -> None:
    assert_type(await client.post(GIFT), Posted)
    assert_type(await client.post(PLACE), Held)
    assert_type(await client.post_batch([GIFT]), list[Outcome])
    await client.post(SPEND)  # expect-error
    async for entry in client.entries("user1"):
        assert_type(entry.amount, int)
"""


@pytest.mark.slow
def test_another_applications_operation_is_a_type_error(tmp_path: Path) -> None:
    file = tmp_path / "typed.py"
    file.write_text(TYPED)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--no-pretty", file],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    found = {int(number) for number in re.findall(r"typed\.py:(\d+): error: ", done.stdout)}
    marked = {
        number
        for number, line in enumerate(TYPED.splitlines(), 1)
        if line.endswith("# expect-error")
    }
    assert found == marked, done.stdout + done.stderr
