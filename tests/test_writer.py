"""Group commit: nobody is hurt by his neighbours in a batch, and a repetition is recognised."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from builders import (
    SHOP,
    ShopOperation,
    add,
    adjust,
    assert_sound,
    balances,
    eventually,
    fund,
    locked_account,
    nonces,
    posted,
    query,
    refused,
    sign_up,
    spend,
)
from shared_ledger import (
    SHARED,
    SHARED_OPERATION_VALUES,
    AccountBusy,
    AlreadyClaimed,
    Application,
    BaseLedgerOperation,
    InsufficientCredits,
    InvalidPosting,
    Ledger,
    LedgerUnavailable,
    NonceReused,
    Posted,
    Posting,
    RejectedByDatabase,
    Rule,
    SharedOperation,
    store,
    writer,
)
from shared_ledger.changes import Book
from shared_ledger.commands import Command
from shared_ledger.decide import Decision
from shared_ledger.embedded import Cluster
from shared_ledger.operations import INT64_MAX
from shared_ledger.writer import BatchReport

SharedLedger = Ledger[SharedOperation]


@pytest.fixture
def shop(cluster: Cluster, schema: str) -> Iterator[Ledger[ShopOperation]]:
    with Ledger(SHOP, cluster.url, schema=schema, migrate=True) as ledger:
        yield ledger


# --- repetitions, where they are taken for new, where accounts are read first, and nonces too ---


@pytest.fixture(params=["new", "accounts read", "nonces looked up"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The writer's three ways to write a batch."""
    load = store.Store.load
    if request.param == "accounts read":
        monkeypatch.setattr(
            store.Store,
            "load",
            lambda self, commands, *, careful, **_: load(self, commands, careful=careful),
        )
    elif request.param == "nonces looked up":
        monkeypatch.setattr(
            store.Store, "load", lambda self, commands, **_: load(self, commands, careful=True)
        )
    return str(request.param)


@pytest.mark.usefixtures("path")
def test_repeated_posting_gives_the_first_entry(ledger: SharedLedger) -> None:
    first = ledger.post(add("user1", "n1", metadata={"order": [1, "ä", 1e300]}))
    assert not first.replayed
    assert ledger.post(add("user1", "n1", metadata={"order": [1, "ä", 1e300]})) == Posted(
        first.entry, replayed=True
    )
    assert ledger.balance("user1").balance == 10


@pytest.mark.usefixtures("path")
def test_repeated_spend_of_the_last_credit_gives_the_first_entry(ledger: SharedLedger) -> None:
    ledger.post(sign_up("user1"))
    spends = [spend("user1", str(number)) for number in range(3)]
    entries = [ledger.post(posting).entry for posting in spends]
    assert ledger.balance("user1").balance == 0
    for posting, entry in zip(spends, entries, strict=True):
        assert ledger.post(posting) == Posted(entry, replayed=True)


@pytest.mark.usefixtures("path")
def test_nonce_of_an_entry_with_too_little_for_another_body_is_reused(ledger: SharedLedger) -> None:
    ledger.post(sign_up("user1", "n1"))
    for number in range(3):
        ledger.post(spend("user1", str(number)))
    with pytest.raises(NonceReused) as caught:
        ledger.post(spend("user1", "n1"))
    assert caught.value.field == "operation"


@pytest.mark.usefixtures("path")
def test_repeated_posting_up_to_the_range_gives_the_first_entry(
    shop: Ledger[ShopOperation],
) -> None:
    first = shop.post(adjust("user1", "n1", INT64_MAX))
    assert shop.post(adjust("user1", "n1", INT64_MAX)) == Posted(first.entry, replayed=True)


@pytest.mark.usefixtures("path")
def test_repeated_claim_gives_the_first_entry_and_another_is_refused(ledger: SharedLedger) -> None:
    first = ledger.post(sign_up("user1", "a"))
    assert ledger.post(sign_up("user1", "a")) == Posted(first.entry, replayed=True)
    with pytest.raises(AlreadyClaimed):
        ledger.post(sign_up("user1", "b"))
    assert ledger.post(sign_up("user1", "a")) == Posted(first.entry, replayed=True)


@pytest.mark.usefixtures("path")
def test_nonce_that_a_refusal_left_free_is_used_later_in_the_batch(ledger: SharedLedger) -> None:
    outcomes = ledger.post_batch([spend("user1", "n1"), add("user1", "n1"), spend("user1", "n1")])
    assert isinstance(outcomes[0], InsufficientCredits)
    assert posted(outcomes[1]).entry.balance_after == 10
    assert isinstance(outcomes[2], NonceReused)


@pytest.mark.usefixtures("path")
def test_batch_of_everything_answers_each_in_its_place(ledger: SharedLedger) -> None:
    ledger.post(add("ann", "known"))
    outcomes = ledger.post_batch(
        [
            add("ann", "known"),
            spend("ann", "known"),
            spend("bob", "1"),
            add("bob", "2"),
            add("@bob", "3"),
            spend("bob", "1"),
            add("bob", "2"),
            spend("bob", "2"),
            sign_up("cy", "4"),
            sign_up("cy", "5"),
        ]
    )
    assert [
        (outcome.replayed, outcome.entry.balance_after)
        if isinstance(outcome, Posted)
        else outcome.code
        for outcome in outcomes
    ] == [
        (True, 10),
        "nonce_reused_with_different_operation",
        "insufficient_credits",
        (False, 10),
        "invalid_posting",
        (False, 9),
        (True, 10),
        "nonce_reused_with_different_operation",
        (False, 3),
        "already_claimed",
    ]


@pytest.mark.usefixtures("path")
def test_repeated_batch_replays_all_of_it(
    ledger: SharedLedger, cluster: Cluster, schema: str
) -> None:
    batch = [add(f"user{number % 7}", str(number)) for number in range(50)]
    first = ledger.post_batch(batch)
    again = ledger.post_batch(batch)
    assert [posted(outcome).entry for outcome in again] == [
        posted(outcome).entry for outcome in first
    ]
    assert all(posted(outcome).replayed for outcome in again)
    assert_sound(cluster.url, schema)


def test_another_process_sees_the_repetition(
    ledger: SharedLedger, cluster: Cluster, schema: str
) -> None:
    first = ledger.post(add("user1", "n1"))
    with Ledger(SHARED, cluster.url, schema=schema) as other:
        assert other.post(add("user1", "n1")) == Posted(first.entry, replayed=True)


# --- refusals record nothing ---


@pytest.mark.parametrize("posting", [spend("user1", "n1"), spend("user1", "n1", amount=-2)])
def test_refusal_records_nothing_and_leaves_the_nonce_free(
    ledger: SharedLedger, cluster: Cluster, schema: str, posting: Posting[SharedOperation]
) -> None:
    with pytest.raises((InsufficientCredits, InvalidPosting)):
        ledger.post(posting)
    assert balances(cluster.url, schema) == {}
    assert nonces(cluster.url, schema, "user1") == []
    assert not ledger.post(add("user1", "n1")).replayed


def test_refused_claim_leaves_the_period_free(shop: Ledger[ShopOperation]) -> None:
    shop.post(adjust("user1", "rich", INT64_MAX))
    claim = Posting(ShopOperation.SIGNUP_CREDIT, "user1", "n1")
    assert refused(shop.post_batch([claim])[0]).code == "balance_out_of_range"
    shop.post(adjust("user1", "less rich", -3))
    assert not shop.post(claim).replayed


def test_zero_is_an_entry_too(shop: Ledger[ShopOperation], cluster: Cluster, schema: str) -> None:
    posted_ = shop.post(Posting(ShopOperation.CONTENT_ACCESS, "user1", "n1"))
    assert (posted_.entry.amount, posted_.entry.balance_after) == (0, 0)
    assert balances(cluster.url, schema) == {("@spent", "credits"): 0, ("user1", "credits"): 0}


def test_empty_batch_has_no_outcomes(ledger: SharedLedger) -> None:
    assert ledger.post_batch([]) == []
    assert ledger.post_batch([add("@", "n")])[0] == InvalidPosting(
        "owner_id", "begins with '@', which is kept for system accounts"
    )


@pytest.mark.parametrize("max_batch", [1, 3, 7])
def test_batch_larger_than_a_transaction_is_written_in_pieces(
    cluster: Cluster, schema: str, max_batch: int
) -> None:
    with Ledger(SHARED, cluster.url, schema=schema, migrate=True, max_batch=max_batch) as ledger:
        outcomes = ledger.post_batch([add("user1", str(number)) for number in range(20)])
    assert [posted(outcome).entry.balance_after for outcome in outcomes] == list(range(10, 210, 10))
    assert_sound(cluster.url, schema)


@pytest.mark.parametrize("known", [True, False])
def test_batch_of_several_pieces_is_whole(
    ledger: SharedLedger, cluster: Cluster, schema: str, *, known: bool
) -> None:
    if known:
        ledger.post_batch([add(f"user{number}", "opened") for number in range(9)])
    size = 3 * writer.PIECE + 1
    outcomes = ledger.post_batch([add(f"user{number % 9}", str(number)) for number in range(size)])
    assert not any(posted(outcome).replayed for outcome in outcomes)
    assert query(cluster.url, f"select count(*) from {schema}.entries where nonce <> 'opened'") == [
        (size,)
    ]
    assert_sound(cluster.url, schema)


# --- postings that are taken for possible ---


@pytest.fixture
def ways(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of each transaction that was begun whether its postings were taken for possible."""
    taken: list[bool] = []
    load = store.Store.load

    def noted(
        self: store.Store, commands: Sequence[Command], *, careful: bool, advance: bool
    ) -> Book:
        taken.append(advance and not careful)
        return load(self, commands, careful=careful, advance=advance)

    monkeypatch.setattr(store.Store, "load", noted)
    return taken


@pytest.fixture
def alone(cluster: Cluster, schema: str) -> Iterator[Ledger[ShopOperation]]:
    """A ledger with one lane, so that its transactions come one after the other."""
    with Ledger(SHOP, cluster.url, schema=schema, migrate=True, lanes=1) as ledger:
        yield ledger


def test_after_a_refusal_accounts_are_read_first_for_a_while(
    alone: Ledger[ShopOperation], ways: list[bool], cluster: Cluster, schema: str
) -> None:
    alone.post(adjust("ann", "opened", 10))
    assert isinstance(alone.post_batch([adjust("ann", "too much", -11)])[0], InsufficientCredits)
    assert ways == [True, True, False]
    for number in range(writer.CAREFUL_BATCHES + 1):
        alone.post(adjust("ann", f"read {number}", 1))
    assert ways[3:] == [False] * writer.CAREFUL_BATCHES + [True]
    assert_sound(cluster.url, schema)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize(
    ("amounts", "allowed"),
    [
        # Together they are possible, and the constraint has nothing to say.
        pytest.param([-15, 10], [False, True], id="a spend before what would have paid for it"),
        pytest.param([10, -15, -5], [True, True, True], id="all of it, in this order"),
        pytest.param([-10, -1], [True, False], id="one more than there is"),
        pytest.param([INT64_MAX, -5], [False, True], id="more than there are numbers"),
        pytest.param([INT64_MAX] * 2, [False] * 2, id="a gain that is no bigint"),
        pytest.param([INT64_MAX] * 3, [False] * 3, id="a gain of more than 64 bits"),
        pytest.param([-INT64_MAX] * 3, [False] * 3, id="a loss of more than 64 bits"),
        pytest.param([0], [True], id="nothing"),
    ],
)
def test_each_posting_of_a_batch_is_decided_after_those_before_it(
    alone: Ledger[ShopOperation],
    cluster: Cluster,
    schema: str,
    amounts: list[int],
    allowed: list[bool],
) -> None:
    alone.post(adjust("ann", "opened", 10))
    outcomes = alone.post_batch(
        [adjust("ann", f"{number}", amount) for number, amount in enumerate(amounts)]
    )
    assert [isinstance(outcome, Posted) for outcome in outcomes] == allowed
    expected = 10 + sum(amount for amount, yes in zip(amounts, allowed, strict=True) if yes)
    assert alone.balance("ann").balance == expected
    assert_sound(cluster.url, schema)


def test_refusal_in_a_later_piece_takes_the_earlier_ones_back(
    alone: Ledger[ShopOperation], ways: list[bool], cluster: Cluster, schema: str
) -> None:
    owners = [f"user{number}" for number in range(2 * writer.PIECE)]
    alone.post_batch([adjust(owner_id, "opened", 10) for owner_id in owners])
    ways.clear()
    # Together the last two are possible, so that no constraint notices.
    outcomes = alone.post_batch(
        [
            *(adjust(owner_id, "second", 1) for owner_id in owners),
            adjust("user0", "too much", -12),
            adjust("user0", "and back", 12),
        ]
    )
    assert ways == [True, False]
    assert [isinstance(outcome, Posted) for outcome in outcomes[-3:]] == [True, False, True]
    assert alone.balance("user0").balance == 23
    assert alone.balance("user1").balance == 11
    assert_sound(cluster.url, schema)


def test_account_that_is_only_refused_is_left_as_it_was(
    alone: Ledger[ShopOperation], cluster: Cluster, schema: str
) -> None:
    alone.post_batch([adjust("ann", "opened", 10), adjust("bob", "opened", 10)])
    text = f"select * from {schema}.accounts where owner_id = 'ann'"
    before = query(cluster.url, text)
    outcomes = alone.post_batch([adjust("ann", "much", -11), adjust("bob", "some", -1)])
    assert [isinstance(outcome, Posted) for outcome in outcomes] == [False, True]
    assert query(cluster.url, text) == before
    assert_sound(cluster.url, schema)


# --- a poisoned command does not hurt its batch ---


@pytest.fixture
def poisoned(
    ledger: SharedLedger, cluster: Cluster, schema: str
) -> Iterator[tuple[Ledger[Any], Any]]:
    """A ledger and an operation that is registered, but that the database's enum lacks."""
    operations: Any = BaseLedgerOperation(
        "Poisoned", {**SHARED_OPERATION_VALUES, "POISON": "POISON"}
    )
    application: Any = Application("poisoned", operations, rules={operations.POISON: Rule.fixed(1)})
    query(
        cluster.url,
        f"insert into {schema}.operations select 'poisoned', unnest(%s::text[])",
        [operation.value for operation in operations],
    )
    with Ledger(application, cluster.url, schema=schema) as other:
        yield other, operations


@pytest.mark.parametrize("place", [0, 4, 8])
def test_label_that_the_database_lacks_hurts_only_itself(
    poisoned: tuple[Ledger[Any], Any], cluster: Cluster, schema: str, place: int
) -> None:
    ledger, operation = poisoned
    batch = [Posting(operation.CREDIT_ADD, f"user{number % 3}", str(number)) for number in range(8)]
    batch.insert(place, Posting(operation.POISON, "user1", "poison"))
    outcomes = ledger.post_batch(batch)
    refusal = outcomes.pop(place)
    assert isinstance(refusal, RejectedByDatabase)
    assert (refusal.owner_id, refusal.nonce) == ("user1", "poison")
    assert "invalid input value for enum" in refusal.reason
    assert all(not posted(outcome).replayed for outcome in outcomes)
    assert query(cluster.url, f"select count(*) from {schema}.entries") == [(8,)]
    assert_sound(cluster.url, schema)


def test_only_poison_is_refused_and_the_writer_lives(
    poisoned: tuple[Ledger[Any], Any], cluster: Cluster, schema: str
) -> None:
    ledger, operation = poisoned
    with pytest.raises(RejectedByDatabase):
        ledger.post(Posting(operation.POISON, "user1", "n1"))
    assert balances(cluster.url, schema) == {}
    assert ledger.post(Posting(operation.CREDIT_ADD, "user1", "n1")).entry.balance_after == 10


def test_overflow_of_a_system_account_hurts_only_what_causes_it(
    shop: Ledger[ShopOperation], cluster: Cluster, schema: str
) -> None:
    shop.post(adjust("rich", "n1", INT64_MAX - 100))
    outcomes = shop.post_batch(
        [
            Posting(ShopOperation.CREDIT_ADD, "ann", "1"),
            adjust("bob", "2", INT64_MAX),
            Posting(ShopOperation.CREDIT_ADD, "cy", "3"),
            Posting(ShopOperation.LOYALTY_POINT, "dee", "4"),
        ]
    )
    assert [isinstance(outcome, Posted) for outcome in outcomes] == [True, False, True, True]
    assert isinstance(outcomes[1], RejectedByDatabase)
    assert balances(cluster.url, schema)["@issued", "credits"] == -(INT64_MAX - 80)
    assert_sound(cluster.url, schema)


# --- an account that stays locked ---


@pytest.fixture
def impatient(
    monkeypatch: pytest.MonkeyPatch, cluster: Cluster, schema: str
) -> Iterator[SharedLedger]:
    """A ledger that waits for a lock for a twentieth of a second."""
    monkeypatch.setattr(store, "LOCK_TIMEOUT_MS", 50)
    with Ledger(SHARED, cluster.url, schema=schema, migrate=True) as ledger:
        ledger.post_batch([add(owner_id, "opened") for owner_id in ("ann", "bob", "cy")])
        yield ledger


def test_locked_account_is_busy_and_its_neighbours_are_written(
    impatient: SharedLedger, cluster: Cluster, schema: str
) -> None:
    batch = [
        spend("ann", "1"),
        spend("bob", "2"),
        spend("cy", "3"),
        spend("bob", "4"),
        add("dee", "5"),
    ]
    with locked_account(cluster.url, schema, "bob"):
        outcomes = impatient.post_batch(batch)
    assert [isinstance(outcome, Posted) for outcome in outcomes] == [True, False, True, False, True]
    assert outcomes[1] == AccountBusy("bob")
    assert_sound(cluster.url, schema)


def test_busy_account_can_be_posted_to_when_it_is_free(
    impatient: SharedLedger, cluster: Cluster, schema: str
) -> None:
    with locked_account(cluster.url, schema, "bob"), pytest.raises(AccountBusy):
        impatient.post(spend("bob", "n1"))
    assert impatient.post(spend("bob", "n1")).entry.balance_after == 9


@pytest.fixture
def tries(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the transactions that were begun."""
    sizes: list[int] = []
    load = store.Store.load

    def counted(
        self: store.Store, commands: Sequence[Command], *, careful: bool, advance: bool
    ) -> Book:
        sizes.append(len(commands))
        return load(self, commands, careful=careful, advance=advance)

    monkeypatch.setattr(store.Store, "load", counted)
    return sizes


def test_one_locked_account_costs_a_large_batch_two_waits(
    impatient: SharedLedger, cluster: Cluster, schema: str, tries: list[int]
) -> None:
    owners = [f"user{number}" for number in range(100)]
    impatient.post_batch([add(owner_id, "opened") for owner_id in owners])
    tries.clear()
    with locked_account(cluster.url, schema, "user77"):
        outcomes = impatient.post_batch([spend(owner_id, "n1") for owner_id in owners])
    assert [outcome for outcome in outcomes if not isinstance(outcome, Posted)] == [
        AccountBusy("user77")
    ]
    assert outcomes[77] == AccountBusy("user77")
    # In each lane; the one that has the account tries all, then those that are free, then the rest.
    assert len(tries) <= 3 + writer.LANES
    assert_sound(cluster.url, schema)


def test_all_postings_to_a_locked_account_are_busy_at_once(
    impatient: SharedLedger, cluster: Cluster, schema: str, tries: list[int]
) -> None:
    tries.clear()
    with locked_account(cluster.url, schema, "bob"):
        outcomes = impatient.post_batch([spend("bob", str(number)) for number in range(9)])
    assert outcomes == [AccountBusy("bob")] * 9
    assert tries == [9]


def test_locked_system_account_is_busy_for_who_needs_it(
    impatient: SharedLedger, cluster: Cluster, schema: str, tries: list[int]
) -> None:
    impatient.post(spend("ann", "so that @spent exists"))
    tries.clear()
    with locked_account(cluster.url, schema, "@issued"):
        outcomes = impatient.post_batch(
            [
                posting
                for number in range(20)
                for posting in (add("ann", f"a{number}"), spend("ann", f"b{number}"))
            ]
        )
    assert outcomes[::2] == [AccountBusy("ann")] * 20
    assert [posted(outcome).entry.amount for outcome in outcomes[1::2][:9]] == [-1] * 9
    # One more for the spending alone, of which not all is possible.
    assert len(tries) <= 4
    assert_sound(cluster.url, schema)


def test_account_that_another_transaction_is_opening_is_busy(
    impatient: SharedLedger, engine: Engine, cluster: Cluster, schema: str
) -> None:
    with engine.connect() as connection:
        # Its row cannot be seen before it is committed.
        tables = impatient.tables.accounts
        connection.execute(
            sa.insert(tables).values(
                owner_id="new", asset="credits", floor=0, changed_on=sa.func.now()
            )
        )
        outcomes = impatient.post_batch(
            [add("ann", "1"), add("new", "2"), add("newer", "3"), spend("bob", "4")]
        )
        connection.rollback()
    assert outcomes[1] == AccountBusy("new")
    assert [isinstance(outcome, Posted) for outcome in outcomes] == [True, False, True, True]
    assert_sound(cluster.url, schema)


def test_lock_that_ends_in_time_is_waited_for(
    ledger: SharedLedger, cluster: Cluster, schema: str
) -> None:
    ledger.post(add("bob", "opened"))
    with ThreadPoolExecutor(1) as pool:
        with locked_account(cluster.url, schema, "bob"):
            waiting = pool.submit(ledger.post, spend("bob", "n1"))
            waits = "select 1 from pg_locks where not granted"
            eventually(lambda: query(cluster.url, waits))
        assert waiting.result().entry.balance_after == 9


# --- the observer ---


def test_observer_is_told_of_each_batch(cluster: Cluster, schema: str) -> None:
    reports: list[BatchReport] = []
    with Ledger(SHARED, cluster.url, schema=schema, migrate=True, observe=reports.append) as ledger:
        outcomes = ledger.post_batch([add("user1", "a"), spend("user1", "b")])
    (report,) = reports
    assert list(report.outcomes) == outcomes
    assert [command.nonce for command in report.commands] == ["a", "b"]
    assert report.seconds > 0
    assert report.queued == 0


def test_observer_that_fails_leaves_nobody_waiting(
    cluster: Cluster, schema: str, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: BatchReport) -> None:
        raise ZeroDivisionError

    with Ledger(SHARED, cluster.url, schema=schema, migrate=True, observe=fail) as ledger:
        with caplog.at_level(logging.ERROR, "shared_ledger.writer"):
            ledger.post(add("user1", "a"))
        ledger.post(add("user1", "b"))
    assert "the observer of the writer failed" in caplog.text


def test_writer_that_fails_says_so_and_goes_on(
    ledger: SharedLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails = threading.Event()
    take = Decision.take

    def fail_once(self: Any, commands: Any) -> Any:
        if not fails.is_set():
            fails.set()
            raise ZeroDivisionError("by zero")
        return take(self, commands)

    monkeypatch.setattr(Decision, "take", fail_once)
    with pytest.raises(LedgerUnavailable, match="the writer failed: ZeroDivisionError: by zero"):
        ledger.post(add("user1", "n1"))
    assert not ledger.post(add("user1", "n1")).replayed


def test_two_applications_share_the_balance_and_not_the_nonces(
    ledger: SharedLedger, shop: Ledger[ShopOperation], cluster: Cluster, schema: str
) -> None:
    ledger.post(add("user1", "n1"))
    shop.post(Posting(ShopOperation.PURCHASE, "user1", "n1", -10))
    assert ledger.balance("user1") == shop.balance("user1")
    assert ledger.balance("user1").balance == 0
    rows = query(cluster.url, f"select app, operation::text from {schema}.entries order by id")
    assert rows == [("shared", "CREDIT_ADD"), ("shop", "PURCHASE")]


def test_fund_gives_any_amount(ledger: SharedLedger, cluster: Cluster, schema: str) -> None:
    fund(cluster.url, schema, "user1", 7)
    assert ledger.balance("user1").balance == 7
