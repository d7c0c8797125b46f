"""What reaches the database is what was meant, and the database keeps its own last line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from psycopg import errors as pg

from builders import SHOP, ShopOperation, add, adjust, assert_sound, fund, query, sign_up, spend
from shared_ledger import (
    SHARED,
    Entry,
    InsufficientCredits,
    Ledger,
    Posted,
    Posting,
    RejectedByDatabase,
    SharedOperation,
    decide,
)
from shared_ledger.book import Account, AccountKey
from shared_ledger.connections import make_engine
from shared_ledger.copying import PLAIN_COLUMNS, copy_text
from shared_ledger.embedded import Cluster
from shared_ledger.hand import Hand
from shared_ledger.migrations import migrate
from shared_ledger.schema import ENTRY_COLUMNS
from shared_ledger.sql import statements, text_array
from shared_ledger.store import local_settings

SharedLedger = Ledger[SharedOperation]

# What means something to COPY, to array literals, to JSON or to SQL, and what looks like it does.
SPECIAL = st.text(
    st.one_of(
        st.sampled_from("\\\t\n\r\b\v\f\0\x1f\x7f'\"{},.:;NntbrvxuU01$%() @-"),
        st.sampled_from("äé\u0301\u200b\u2028\ufeff\ud800\udfff🙂"),
        st.characters(),
    ),
    max_size=30,
)
PRINTABLE = st.text(st.sampled_from("\\'\"{},.:;Nntbrvxu01$%() @-äé🙂"), min_size=1, max_size=12)
TEXTS = st.one_of(
    SPECIAL,
    PRINTABLE,
    PRINTABLE,
    st.lists(
        st.sampled_from(
            [
                "\\.",
                "\\N",
                "\\",
                "\\\\",
                "\\t",
                "\\n",
                "\n\\.\n",
                "\\x41",
                "\\101",
                "NULL",
                '"',
                "{}",
                ",",
            ]
        )
    ).map("".join),
)
JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=False, allow_infinity=False),
        TEXTS,
    ),
    lambda children: st.one_of(st.lists(children), st.dictionaries(TEXTS, children)),
    max_leaves=8,
)
METADATA = st.one_of(st.none(), st.dictionaries(TEXTS, JSON, max_size=4))


def batches_of(metadata: st.SearchStrategy[Any]) -> st.SearchStrategy[list[tuple[str, str, Any]]]:
    """Owners, nonces and metadata."""
    return st.lists(st.tuples(TEXTS, TEXTS, metadata), min_size=1, max_size=5)


_numbers = count(1)


@pytest.fixture(scope="module")
def book(cluster: Cluster) -> Iterator[tuple[SharedLedger, str, str]]:
    """A ledger for many examples, with its URL and schema."""
    with Ledger(SHARED, cluster.url, schema="fuzz", migrate=True) as ledger:
        yield ledger, cluster.url, "fuzz"


# Without metadata they are inserted, with it copied.
@given(batches_of(st.none()) | batches_of(METADATA))
@example(
    [("\\.", "\\N", None), ("a\\", "b\\\\", None), ('{"a', '","', None), ("NULL", "null", None)]
)
@example([("\\.", "\\N", {"\\": "\\"}), ("a\\", "b\\\\", {"\\.": ["\n\\.\n"]})])
@example([('{"a"', '","', {'"': '","'}), ("NULL", "null", {})])
@example([("user1", "\n\\.\nselect", None), ("user1", "a\tb", None)])
@example([("user1", "n", {"a": 1e22, "b": -0.0, "c": 1e23, "d": 5e-324, "e": 10**400})])
@settings(max_examples=150, suppress_health_check=list(HealthCheck))
def test_text_is_refused_or_stored_exactly(
    book: tuple[SharedLedger, str, str], texts: list[tuple[str, str, Any]]
) -> None:
    ledger, url, schema = book
    run = next(_numbers)
    before = query(url, f"select count(*) from {schema}.entries")[0][0]
    postings = [
        Posting(SharedOperation.CREDIT_ADD, owner_id, f"{run}:{nonce}", metadata=metadata)
        for owner_id, nonce, metadata in texts
    ]
    outcomes = ledger.post_batch(postings)
    assert not [outcome for outcome in outcomes if isinstance(outcome, RejectedByDatabase)]
    new = {
        outcome.entry.id: outcome.entry
        for outcome in outcomes
        if isinstance(outcome, Posted) and not outcome.replayed
    }
    for posting, outcome in zip(postings, outcomes, strict=True):
        if isinstance(outcome, Posted):
            assert outcome.entry.owner_id == posting.owner_id
            assert outcome.entry.nonce == posting.nonce
            assert outcome.entry.metadata == posting.metadata or any_float(posting.metadata)
            history = ledger.history(posting.owner_id, limit=1_000).entries
            assert outcome.entry in history
            assert ledger.balance(posting.owner_id).balance == 10 * len(history)
    after, distinct = query(url, f"select count(*), count(distinct id) from {schema}.entries")[0]
    assert after == distinct == before + len(new)
    again = ledger.post_batch(postings)
    for first, second in zip(outcomes, again, strict=True):
        if isinstance(first, Posted):
            assert second == Posted(first.entry, replayed=True)
        else:
            assert second == first


def any_float(value: Any) -> bool:
    """Whether a number is in it that the database gives back as a whole one."""
    if isinstance(value, dict):
        return any(map(any_float, value.values()))
    if isinstance(value, list):
        return any(map(any_float, value))
    return isinstance(value, float)


def test_fuzzed_book_is_sound(book: tuple[SharedLedger, str, str]) -> None:
    _, url, schema = book
    assert_sound(url, schema)


@given(st.lists(TEXTS))
@example(["", "NULL", "null", "\\", '"', ",", "{", "}", " ", "\\N", 'a","b'])
def test_array_of_texts_survives_the_round_trip(cluster: Cluster, texts: list[str]) -> None:
    # What PostgreSQL cannot hold in a text, command_of refuses.
    texts = [text.replace("\0", "").encode(errors="ignore").decode() for text in texts]
    with psycopg.connect(cluster.url) as connection:
        row = connection.execute("select %s::text[]", [text_array(texts)]).fetchone()
    assert row == (texts,)


def test_entry_is_one_line_with_a_field_for_each_column() -> None:
    entry = Entry(
        1,
        "shared",
        "CREDIT_ADD",
        "a\\b",
        "@issued",
        "credits",
        10,
        10,
        "\\.",
        datetime(2026, 11, 21, tzinfo=UTC),
        {"a\nb": "\\.\t"},
    )
    text = copy_text([entry, entry]).decode()
    assert text.count("\n") == 2
    line = text.partition("\n")[0]
    assert len(line.split("\t")) == PLAIN_COLUMNS
    (whole, *_) = copy_text([entry], plain=False).decode().split("\n")
    assert len(whole.split("\t")) == len(ENTRY_COLUMNS)
    assert line.split("\t")[3] == "a\\\\b"


# --- the database's own last line ---


@pytest.mark.parametrize(
    "statement",
    [
        "update {}.entries set amount = 1",
        "update {}.entries set amount = 1 where false",
        "delete from {}.entries",
        "delete from {}.entries where false",
        "truncate {}.entries",
    ],
)
def test_entries_are_append_only(
    ledger: SharedLedger, cluster: Cluster, schema: str, statement: str
) -> None:
    ledger.post(add("user1", "n1"))
    operation = statement.split(maxsplit=1)[0].upper()
    with pytest.raises(
        pg.RestrictViolation, match=f"entries are append-only: {operation} is refused"
    ):
        query(cluster.url, statement.format(schema))
    assert query(cluster.url, f"select amount from {schema}.entries") == [(10,)]


@pytest.mark.parametrize(
    "change", ["posted = -1", "held = 4", "floor = 4", "held = -1", "posted = null"]
)
def test_account_below_its_floor_is_refused_by_the_database(
    ledger: SharedLedger, cluster: Cluster, schema: str, change: str
) -> None:
    ledger.post(sign_up("user1"))
    with pytest.raises((pg.CheckViolation, pg.NotNullViolation)):
        query(cluster.url, f"update {schema}.accounts set {change} where owner_id = 'user1'")


class WithoutFloors(Hand):
    """Accounts that the rules let overspend."""

    def open(self, key: AccountKey) -> Account:
        account = super().open(key)
        account.floor = None
        return account


def test_overspending_that_the_rules_let_through_is_refused_by_the_database(
    ledger: SharedLedger, cluster: Cluster, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.post_batch([sign_up("ann"), sign_up("bob")])
    monkeypatch.setattr(decide, "Hand", WithoutFloors)
    outcomes = ledger.post_batch(
        [spend("ann", "1"), *(spend("bob", str(number)) for number in range(5)), spend("cy", "1")]
    )
    monkeypatch.undo()
    kinds = [type(outcome) for outcome in outcomes]
    assert kinds == [Posted] * 4 + [RejectedByDatabase] * 3
    assert ledger.balance("bob").balance == 0
    assert_sound(cluster.url, schema)


def test_counterparty_that_is_no_system_account_is_refused_by_the_database(
    ledger: SharedLedger, cluster: Cluster, schema: str
) -> None:
    ledger.post(add("user1", "n1"))
    columns = "amount, balance_after, created_on, operation, app, asset, owner_id, nonce"
    with pytest.raises(pg.CheckViolation, match="entries_counterparty_check"):
        query(
            cluster.url,
            f"insert into {schema}.entries (id, counterparty, {columns}) "
            f"select id + 1, 'user2', {columns} from {schema}.entries",
        )


def test_nonce_is_unique_per_owner_and_application(
    ledger: SharedLedger, cluster: Cluster, schema: str
) -> None:
    ledger.post(add("user1", "n1"))
    columns = "amount, balance_after, created_on, operation, app, asset, owner_id, counterparty"
    with pytest.raises(pg.UniqueViolation, match="entries_nonce_key"):
        query(
            cluster.url,
            f"insert into {schema}.entries (id, nonce, {columns}) "
            f"select id + 1, nonce, {columns} from {schema}.entries",
        )


def test_claim_is_unique_per_period(ledger: SharedLedger, cluster: Cluster, schema: str) -> None:
    ledger.post(sign_up("user1"))
    columns = (
        "amount, balance_after, created_on, operation, app, asset, owner_id, counterparty, period"
    )
    with pytest.raises(pg.UniqueViolation, match="entries_claim_key"):
        query(
            cluster.url,
            f"insert into {schema}.entries (id, nonce, {columns}) "
            f"select id + 1, 'another', {columns} from {schema}.entries",
        )


def test_missing_metadata_is_null_and_not_json(
    ledger: SharedLedger, cluster: Cluster, schema: str
) -> None:
    ledger.post_batch([add("user1", "n1"), add("user1", "n2", metadata={})])
    rows = query(cluster.url, f"select metadata is null from {schema}.entries order by nonce")
    assert rows == [(True,), (False,)]


# --- what the book shows ---


def test_ids_follow_the_order_of_events(ledger: SharedLedger) -> None:
    outcomes = ledger.post_batch([add("user1", str(number)) for number in range(20)])
    entries = [outcome.entry for outcome in outcomes if isinstance(outcome, Posted)]
    assert [entry.id for entry in entries] == sorted(entry.id for entry in entries)
    assert ledger.history("user1").entries == entries[::-1]


def test_time_of_an_account_never_runs_backwards(
    ledger: SharedLedger, cluster: Cluster, schema: str
) -> None:
    ledger.post(add("user1", "n1"))
    later = datetime(2100, 1, 1, tzinfo=UTC)
    query(cluster.url, f"update {schema}.accounts set changed_on = %s", later)
    assert ledger.post(add("user1", "n2")).entry.created_on == later
    assert ledger.post(add("user2", "n1")).entry.created_on < later


def test_times_are_shown_in_utc_whatever_the_session(cluster: Cluster, schema: str) -> None:
    with Ledger(
        SHARED, cluster.url + "&options=-c%20timezone%3DAsia/Tokyo", schema=schema, migrate=True
    ) as ledger:
        first = ledger.post(add("user1", "n1"))
        assert first.entry.created_on.utcoffset() == timedelta(0)
        assert ledger.history("user1").entries == [first.entry]


def test_floor_in_the_database_is_the_floor(
    ledger: SharedLedger, cluster: Cluster, schema: str
) -> None:
    ledger.post(add("user1", "n1"))
    query(cluster.url, f"update {schema}.accounts set floor = 9 where owner_id = 'user1'")
    ledger.post(spend("user1", "n2"))
    with pytest.raises(InsufficientCredits) as caught:
        ledger.post(spend("user1", "n3"))
    assert caught.value == InsufficientCredits("user1", asset="credits", available=0, required=1)


def test_held_credits_in_the_database_are_not_spent(
    ledger: SharedLedger, cluster: Cluster, schema: str
) -> None:
    ledger.post(add("user1", "n1"))
    query(cluster.url, f"update {schema}.accounts set held = 10 where owner_id = 'user1'")
    with pytest.raises(InsufficientCredits):
        ledger.post(spend("user1", "n2"))
    assert ledger.balance("user1").available == 0


def test_version_counts_the_changes_of_an_account(
    ledger: SharedLedger, cluster: Cluster, schema: str
) -> None:
    for number in range(3):
        ledger.post(add("user1", str(number)))
    assert query(
        cluster.url, f"select version from {schema}.accounts where owner_id = 'user1'"
    ) == [(2,)]


def test_assets_are_kept_apart(cluster: Cluster, schema: str) -> None:
    with Ledger(SHOP, cluster.url, schema=schema, migrate=True) as shop:
        shop.post_batch(
            [adjust("user1", "1", 5), Posting(ShopOperation.LOYALTY_POINT, "user1", "2")]
        )
        assert shop.balance("user1").balance == 5
        assert shop.balance("user1", asset="points").balance == 1
        assert [entry.nonce for entry in shop.history("user1", asset="points").entries] == ["2"]
    assert_sound(cluster.url, schema)


def test_books_in_one_database_know_nothing_of_each_other(
    ledger: SharedLedger, cluster: Cluster, schema: str
) -> None:
    fund(cluster.url, f"{schema}_other", "user1", 5)
    assert ledger.balance("user1").balance == 0
    ledger.post(add("user1", "n1"))
    with Ledger(SHOP, cluster.url, schema=f"{schema}_other") as other:
        assert other.balance("user1").balance == 5


def test_labels_of_other_applications_can_be_read(
    ledger: SharedLedger, cluster: Cluster, schema: str
) -> None:
    ledger.post(add("user1", "n1"))
    migrate(make_engine(cluster.url), schema, [SHOP])
    with Ledger(SHOP, cluster.url, schema=schema) as shop:
        shop.post(Posting(ShopOperation.PURCHASE, "user1", "n2", -1))
    history = ledger.history("user1").entries
    assert [(entry.app, entry.operation) for entry in history] == [
        ("shop", "PURCHASE"),
        ("shared", "CREDIT_ADD"),
    ]


@pytest.mark.parametrize("name", ["advance", "lock", "save"])
@pytest.mark.parametrize("rows", [0, 3, 1_000])
def test_accounts_are_looked_up_by_key_whatever_the_statistics_say(
    cluster: Cluster, schema: str, name: str, rows: int
) -> None:
    with Ledger(SHARED, cluster.url, schema=schema, migrate=True):
        pass
    with psycopg.connect(cluster.url) as connection:
        connection.execute(
            f"insert into {schema}.accounts (owner_id, asset, changed_on) "
            f"select 'user' || number, 'credits', now() from generate_series(1, {rows}) as number"
        )
        connection.execute(f"analyze {schema}.accounts")
        connection.execute(local_settings(advance=name == "advance"))
        numbers: dict[str, int] = {}
        text = re.sub(
            r":(\w+)::",
            lambda match: f"${numbers.setdefault(match[1], len(numbers) + 1)}::",
            statements(schema)[name],
        )
        plan = [row[0] for row in connection.execute(f"explain (generic_plan) {text}")]
    assert not [line for line in plan if "Join" in line or "Nested" in line]
    assert [line for line in plan if "Index Cond" in line and "owner_id = ANY" in line]
    if name == "advance":
        # A bitmap's order is that in which they are stored.
        assert not [line for line in plan if "Bitmap" in line]
