"""Verify: a book that was posted to agrees, and every kind of damage done by hand is found."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from builders import SHOP, ShopOperation
from shared_ledger import ConfigurationError, Ledger, Posting, SharedOperation
from shared_ledger.embedded import Cluster
from shared_ledger.schema import BookTables, book_tables
from shared_ledger.verify import Disagreement, Report, verify
from shared_ledger.verify import proof as module

ADD, SPEND = SharedOperation.CREDIT_ADD, SharedOperation.CREDIT_SPEND
OWNERS = ("alice", "bob", "carol")


@pytest.fixture
def tables(ledger: Ledger[SharedOperation], schema: str) -> BookTables:
    """A book in which each of three owners has three entries: 10, 9, 19."""
    for number in range(3):
        ledger.post_batch(
            [Posting(SPEND if number == 1 else ADD, owner, f"nonce-{number}") for owner in OWNERS]
        )
    return book_tables(schema)


@pytest.fixture
def damage(engine: Engine, tables: BookTables) -> Callable[..., None]:
    """Run SQL on the book as somebody who goes round its guards."""

    def run(*statements: str) -> None:
        with engine.begin() as connection:
            connection.execute(sa.text(f"set local search_path = {tables.schema}"))
            connection.execute(sa.text("alter table entries disable trigger entries_append_only"))
            for statement in statements:
                connection.execute(sa.text(statement))

    return run


@pytest.fixture(params=[250_000, 4], ids=["one-range", "many-ranges"], autouse=True)
def ranges(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test is done with all owners in one range, and with about one in each."""
    monkeypatch.setattr(module, "RANGE_ENTRIES", request.param)
    monkeypatch.setattr(module, "RANGE_IDS", request.param)
    return iter(())


def kinds(report: Report) -> set[str]:
    return {disagreement.kind for disagreement in report.disagreements}


def only(report: Report) -> Disagreement:
    assert report.count == 1, report.disagreements
    return report.disagreements[0]


def entry_id(engine: Engine, tables: BookTables, owner_id: str, nonce: str) -> int:
    entries = tables.entries
    with engine.connect() as connection:
        found: int = connection.execute(
            sa.select(entries.c.id).where(entries.c.owner_id == owner_id, entries.c.nonce == nonce)
        ).scalar_one()
    return found


def test_a_book_that_was_posted_to_agrees(engine: Engine, tables: BookTables) -> None:
    report = verify(engine, tables)
    assert report == Report(entries=9, accounts=5)
    assert report.agrees


def test_an_empty_book_agrees(engine: Engine, ledger: Ledger[SharedOperation], schema: str) -> None:
    assert verify(engine, book_tables(schema)) == Report()


def test_refusals_replays_and_postings_in_a_transaction_agree(
    engine: Engine, tables: BookTables, ledger: Ledger[SharedOperation]
) -> None:
    ledger.post_batch([Posting(SPEND, "poor", f"n{number}") for number in range(3)])
    ledger.post_batch([Posting(ADD, "alice", f"nonce-{number}") for number in (0, 2)])
    with engine.begin() as connection:
        ledger.post_in(connection, Posting(ADD, "alice", "in"))
        ledger.post_in(connection, Posting(ADD, "new", "in"))
    assert verify(engine, tables) == Report(entries=11, accounts=6)


def test_progress_reaches_the_number_of_entries(engine: Engine, tables: BookTables) -> None:
    last: dict[str, tuple[int, int]] = {}
    verify(engine, tables, progress=lambda part, done, total: last.update({part: (done, total)}))
    assert last == {"ids": (9, 9), "accounts": (9, 9)}


def test_a_changed_balance_of_an_account_is_found(
    engine: Engine, tables: BookTables, damage: Callable[..., None]
) -> None:
    damage("update accounts set posted = 20 where owner_id = 'bob'")
    report = verify(engine, tables)
    assert report.disagreements == [
        Disagreement(None, "credits", "sum_over_accounts_is_not_zero", 0, 1),
        Disagreement("bob", "credits", "posted_differs_from_entries", 19, 20),
    ]


def test_a_changed_amount_of_an_entry_is_found(
    engine: Engine, tables: BookTables, damage: Callable[..., None]
) -> None:
    damage("update entries set amount = 11 where owner_id = 'bob' and nonce = 'nonce-2'")
    report = verify(engine, tables)
    assert report.disagreements == [
        Disagreement("bob", "credits", "posted_differs_from_entries", 20, 19),
        Disagreement(
            "bob",
            "credits",
            "balance_after_is_not_the_running_sum",
            20,
            19,
            entry_id(engine, tables, "bob", "nonce-2"),
        ),
        Disagreement("@issued", "credits", "posted_differs_from_entries", -61, -60),
    ]


def test_a_changed_balance_after_is_found(
    engine: Engine, tables: BookTables, damage: Callable[..., None]
) -> None:
    damage("update entries set balance_after = 8 where owner_id = 'carol' and nonce = 'nonce-1'")
    assert only(verify(engine, tables)) == Disagreement(
        "carol",
        "credits",
        "balance_after_is_not_the_running_sum",
        9,
        8,
        entry_id(engine, tables, "carol", "nonce-1"),
    )


def test_a_deleted_entry_is_found(
    engine: Engine, tables: BookTables, damage: Callable[..., None]
) -> None:
    damage("delete from entries where owner_id = 'alice' and nonce = 'nonce-2'")
    assert kinds(verify(engine, tables)) == {
        "posted_differs_from_entries",
        "changed_on_is_not_that_of_the_last_entry",
    }


def test_a_deleted_first_entry_is_found(
    engine: Engine, tables: BookTables, damage: Callable[..., None]
) -> None:
    damage("delete from entries where owner_id = 'alice' and nonce = 'nonce-0'")
    report = verify(engine, tables)
    assert report.count == 4
    assert [d.kind for d in report.disagreements].count("balance_after_is_not_the_running_sum") == 2


def test_an_entry_that_was_written_past_the_ledger_is_found(
    engine: Engine, tables: BookTables, damage: Callable[..., None]
) -> None:
    damage(
        "insert into entries select nextval('entries_id_seq'), amount, balance_after + amount, "
        "created_on, operation, app, asset, owner_id, counterparty, 'forged', period, metadata "
        "from entries where owner_id = 'bob' and nonce = 'nonce-2'"
    )
    report = verify(engine, tables)
    assert kinds(report) == {"posted_differs_from_entries"}
    assert [d.owner_id for d in report.disagreements] == ["bob", "@issued"]


def test_time_that_runs_backwards_is_found(
    engine: Engine, tables: BookTables, damage: Callable[..., None]
) -> None:
    damage(
        "update entries set created_on = created_on - interval '1 hour' "
        "where owner_id = 'alice' and nonce = 'nonce-1'"
    )
    found = only(verify(engine, tables))
    assert found.kind == "created_on_runs_backwards"
    assert found.entry_id == entry_id(engine, tables, "alice", "nonce-1")
    assert found.expected is not None
    assert str(found.expected).endswith("+00:00")


def test_a_changed_time_of_an_account_is_found(
    engine: Engine, tables: BookTables, damage: Callable[..., None]
) -> None:
    damage("update accounts set changed_on = 'epoch' where owner_id = 'alice'")
    found = only(verify(engine, tables))
    assert found.kind == "changed_on_is_not_that_of_the_last_entry"
    assert str(found.found) == "1970-01-01 00:00:00+00:00"


def test_a_deleted_account_is_found(
    engine: Engine, tables: BookTables, damage: Callable[..., None]
) -> None:
    damage("delete from accounts where owner_id = 'bob'")
    assert verify(engine, tables).disagreements == [
        Disagreement(None, "credits", "sum_over_accounts_is_not_zero", 0, -19),
        Disagreement("bob", "credits", "entries_without_account", 19, None),
    ]


def test_entries_are_found_when_every_account_is_gone(
    engine: Engine, tables: BookTables, damage: Callable[..., None]
) -> None:
    damage("truncate accounts")
    report = verify(engine, tables)
    assert report.entries == 9
    assert {d.owner_id for d in report.disagreements} == {*OWNERS, "@issued", "@spent"}
    assert kinds(report) == {"entries_without_account"}


def test_an_account_without_entries_is_found(
    engine: Engine, tables: BookTables, damage: Callable[..., None]
) -> None:
    damage(
        "insert into accounts (owner_id, asset, posted, floor, changed_on) "
        "values ('zed', 'credits', 5, 0, now()), ('@gift', 'credits', -5, null, now())"
    )
    assert verify(engine, tables).disagreements == [
        Disagreement("zed", "credits", "posted_without_entries", 0, 5),
        Disagreement("@gift", "credits", "posted_without_entries", 0, -5),
    ]


def test_an_account_with_nothing_is_no_disagreement(
    engine: Engine, tables: BookTables, damage: Callable[..., None]
) -> None:
    damage(
        "insert into accounts (owner_id, asset, floor, changed_on) "
        "values ('zed', 'credits', 0, now()), ('@gift', 'credits', null, now())"
    )
    assert verify(engine, tables).agrees


def test_a_negative_hold_is_found(
    engine: Engine, tables: BookTables, damage: Callable[..., None]
) -> None:
    damage(
        "alter table accounts drop constraint accounts_held_check",
        "update accounts set held = -1 where owner_id in ('alice', '@issued')",
    )
    found = verify(engine, tables).disagreements
    assert [disagreement for disagreement in found if disagreement.kind == "held_is_negative"] == [
        Disagreement("alice", "credits", "held_is_negative", 0, -1),
        Disagreement("@issued", "credits", "held_is_negative", 0, -1),
    ]


def test_an_account_below_its_floor_is_found(
    engine: Engine, tables: BookTables, damage: Callable[..., None]
) -> None:
    damage(
        "alter table accounts drop constraint accounts_floor_check",
        "update accounts set floor = 25 where owner_id = 'alice'",
    )
    assert only(verify(engine, tables)) == Disagreement(
        "alice", "credits", "available_is_below_the_floor", 25, 19
    )


def test_an_overdrawn_owner_is_found_though_all_sums_agree(
    engine: Engine, tables: BookTables, damage: Callable[..., None]
) -> None:
    damage(
        "alter table accounts drop constraint accounts_floor_check",
        "update entries set amount = -10, balance_after = -10 "
        "where owner_id = 'bob' and nonce = 'nonce-0'",
        "update entries set balance_after = -11 where owner_id = 'bob' and nonce = 'nonce-1'",
        "update entries set balance_after = -1 where owner_id = 'bob' and nonce = 'nonce-2'",
        "update accounts set posted = -1 where owner_id = 'bob'",
        "update accounts set posted = posted + 20 where owner_id = '@issued'",
    )
    assert only(verify(engine, tables)) == Disagreement(
        "bob", "credits", "available_is_below_the_floor", 0, -1
    )


def test_a_changed_system_account_is_found(
    engine: Engine, tables: BookTables, damage: Callable[..., None]
) -> None:
    damage("update accounts set posted = posted + 1 where owner_id = '@spent'")
    assert verify(engine, tables).disagreements == [
        Disagreement(None, "credits", "sum_over_accounts_is_not_zero", 0, 1),
        Disagreement("@spent", "credits", "posted_differs_from_entries", 3, 4),
    ]


def test_an_entry_moved_to_another_counterparty_is_found(
    engine: Engine, tables: BookTables, damage: Callable[..., None]
) -> None:
    damage("update entries set counterparty = '@issued' where nonce = 'nonce-1'")
    report = verify(engine, tables)
    assert sorted(report.disagreements, key=lambda d: d.kind) == [
        Disagreement("@issued", "credits", "posted_differs_from_entries", -57, -60),
        Disagreement("@spent", "credits", "posted_without_entries", 0, 3),
    ]


def test_a_counterparty_without_account_is_found(
    engine: Engine, tables: BookTables, damage: Callable[..., None]
) -> None:
    damage("update entries set counterparty = '@lost' where owner_id = 'bob' and nonce = 'nonce-0'")
    report = verify(engine, tables)
    assert Disagreement("@lost", "credits", "entries_without_account", -10, None) in (
        report.disagreements
    )


def test_a_counterparty_that_is_an_owner_is_found(
    engine: Engine, tables: BookTables, damage: Callable[..., None]
) -> None:
    damage(
        "alter table entries drop constraint entries_counterparty_check",
        "update entries set counterparty = 'carol' where owner_id = 'bob' and nonce = 'nonce-0'",
    )
    assert "counterparty_is_not_a_system_account" in kinds(verify(engine, tables))


def test_an_entry_of_a_system_account_is_found(
    engine: Engine, tables: BookTables, damage: Callable[..., None]
) -> None:
    damage("update entries set owner_id = '@bob' where owner_id = 'bob'")
    assert "system_account_owns_entries" in kinds(verify(engine, tables))


def test_an_id_that_is_used_twice_is_found(
    engine: Engine, tables: BookTables, damage: Callable[..., None]
) -> None:
    twice = entry_id(engine, tables, "alice", "nonce-2")
    damage(f"update entries set id = {twice} where owner_id = 'bob' and nonce = 'nonce-2'")
    assert only(verify(engine, tables)) == Disagreement(
        "alice", "credits", "id_used_twice", 1, 2, twice
    )


def test_an_id_that_is_far_away_is_no_disagreement(
    engine: Engine, tables: BookTables, damage: Callable[..., None]
) -> None:
    far = 2**63 - 2
    damage(
        f"update entries set id = {far} where owner_id = 'bob' and nonce = 'nonce-2'",
        f"select setval('entries_id_seq', {far})",
    )
    assert verify(engine, tables).agrees


def test_a_sequence_that_was_set_back_is_found(
    engine: Engine, tables: BookTables, damage: Callable[..., None]
) -> None:
    damage("select setval('entries_id_seq', 3)")
    last = max(entry_id(engine, tables, owner, "nonce-2") for owner in OWNERS)
    assert only(verify(engine, tables)) == Disagreement(
        None, None, "next_id_is_not_after_the_last_entry", last + 1, 4, last
    )


def test_a_nonce_that_is_used_twice_is_found(
    engine: Engine, tables: BookTables, damage: Callable[..., None]
) -> None:
    damage(
        "alter table entries drop constraint entries_nonce_key",
        "update entries set nonce = 'nonce-0' where owner_id = 'bob' and nonce = 'nonce-2'",
    )
    found = only(verify(engine, tables))
    assert (found.kind, found.owner_id, found.found) == ("nonce_used_twice", "bob", 2)


def test_what_was_claimed_twice_is_found(
    engine: Engine,
    tables: BookTables,
    ledger: Ledger[SharedOperation],
    damage: Callable[..., None],
) -> None:
    ledger.post(Posting(SharedOperation.SIGNUP_CREDIT, "alice", "signup"))
    damage(
        "drop index entries_claim_key",
        "update entries set operation = 'SIGNUP_CREDIT', period = 'ever' "
        "where owner_id = 'alice' and nonce = 'nonce-0'",
    )
    found = only(verify(engine, tables))
    assert (found.kind, found.owner_id, found.found) == ("claimed_twice", "alice", 2)


def test_all_disagreements_are_counted_and_some_are_kept(
    engine: Engine, tables: BookTables, damage: Callable[..., None]
) -> None:
    damage("update entries set balance_after = balance_after + 1")
    report = verify(engine, tables, keep=4)
    assert report.count == 9
    assert len(report.disagreements) == 4


def test_all_accounts_that_disagree_are_counted_and_some_are_kept(
    engine: Engine, tables: BookTables, damage: Callable[..., None]
) -> None:
    damage("update accounts set changed_on = 'epoch'")
    report = verify(engine, tables, keep=2)
    assert report.count == 3
    assert len(report.disagreements) == 2


def test_a_sum_beyond_64_bits_does_not_stop_it(
    engine: Engine, tables: BookTables, damage: Callable[..., None]
) -> None:
    damage(f"update entries set amount = {2**63 - 1} where owner_id = 'bob'")
    report = verify(engine, tables)
    found = {(d.owner_id, d.kind): d.expected for d in report.disagreements}
    assert found["bob", "posted_differs_from_entries"] == 3 * (2**63 - 1)


def test_an_available_amount_beyond_64_bits_does_not_stop_it(
    engine: Engine, tables: BookTables, damage: Callable[..., None]
) -> None:
    low = -(2**63)
    damage(
        "alter table accounts drop constraint accounts_floor_check",
        f"update entries set amount = 0, balance_after = {low} where owner_id = 'bob'",
        f"update entries set amount = {low} where owner_id = 'bob' and nonce = 'nonce-0'",
        f"update accounts set posted = {low}, held = 1 where owner_id = 'bob'",
    )
    assert Disagreement("bob", "credits", "available_is_below_the_floor", 0, low - 1) in (
        verify(engine, tables).disagreements
    )


def test_several_assets_are_compared_each_on_its_own(
    cluster: Cluster, engine: Engine, tables: BookTables, damage: Callable[..., None]
) -> None:
    with Ledger(SHOP, cluster.url, schema=tables.schema, migrate=True) as shop:
        for owner in OWNERS:
            shop.post(Posting(ShopOperation.LOYALTY_POINT, owner, "earned"))
    assert verify(engine, tables) == Report(entries=12, accounts=9)
    damage("update accounts set posted = 8 where owner_id = '@issued' and asset = 'points'")
    assert {d.asset for d in verify(engine, tables).disagreements} == {"points"}


def test_it_agrees_while_others_post(
    engine: Engine, tables: BookTables, ledger: Ledger[SharedOperation]
) -> None:
    stop = threading.Event()

    def post() -> None:
        number = 0
        # Not as fast as can be: with a range for each owner the book would outgrow the proof.
        while not stop.wait(0.02):
            number += 1
            ledger.post_batch([Posting(ADD, f"o{i % 7}", f"{number}-{i}") for i in range(5)])

    poster = threading.Thread(target=post)
    poster.start()
    try:
        reports = [verify(engine, tables)]
        while len(reports) < 3 or reports[-1].entries == reports[0].entries:
            reports.append(verify(engine, tables))
    finally:
        stop.set()
        poster.join()
    assert all(report.agrees for report in reports)


def test_a_connection_can_be_given_and_is_left_as_it_was(
    engine: Engine, tables: BookTables
) -> None:
    with engine.connect() as connection:
        assert verify(connection, tables).agrees
        assert not connection.in_transaction()
        connection.execute(sa.text("create temporary table writable (n int)"))


def test_a_transaction_without_a_snapshot_is_refused(engine: Engine, tables: BookTables) -> None:
    with engine.begin() as connection, pytest.raises(ConfigurationError, match="REPEATABLE READ"):
        verify(connection, tables)


def test_a_transaction_with_a_snapshot_is_used(engine: Engine, tables: BookTables) -> None:
    with engine.connect() as connection, connection.begin():
        connection.execute(sa.text("set transaction isolation level repeatable read"))
        assert verify(connection, tables).entries == 9


def test_verify_writes_nothing(engine: Engine, tables: BookTables) -> None:
    with engine.connect() as connection, connection.begin():
        connection.execute(sa.text("set transaction isolation level repeatable read, read only"))
        assert verify(connection, tables).agrees
