"""Thousands of random steps on the real database, against a ledger of a few lines in memory."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from builders import SHOP, ShopOperation, assert_sound, balances, query
from shared_ledger import SHARED, Ledger, Outcome, Posted, Posting, SharedOperation
from shared_ledger.connections import make_engine
from shared_ledger.embedded import Cluster

_books = count(1)
_url = ""

OWNERS = st.sampled_from(["ann", "bob", "cy", "dee"])
NONCES = st.integers(1, 12).map(str)
METADATA = st.sampled_from([None, {}, {"a": 1}, {"a": [1, "x\\"]}])

Body = tuple[str, int | None, Any]
Wanted = tuple[Any, str, str, int | None, Any]


@st.composite
def postings(draw: st.DrawFn, kinds: st.SearchStrategy[Any]) -> Wanted:
    operation, amount = draw(kinds)
    return operation, draw(OWNERS), draw(NONCES), amount, draw(METADATA)


SHARED_POSTINGS = postings(
    st.one_of(
        st.tuples(st.sampled_from(SharedOperation), st.none()),
        st.tuples(st.just(SharedOperation.CREDIT_SPEND), st.sampled_from([-1, -2])),
    )
)
SHOP_POSTINGS = postings(
    st.one_of(
        st.tuples(st.just(ShopOperation.PURCHASE), st.integers(-20, 1)),
        st.tuples(st.just(ShopOperation.REFUND_ITEM), st.integers(0, 20)),
        st.tuples(st.just(ShopOperation.CONTENT_ACCESS), st.none()),
        st.tuples(st.just(ShopOperation.SIGNUP_CREDIT), st.none()),
    )
)


class Model:
    """What a ledger is: answers a refusal's name, or the balance after and whether replayed."""

    def __init__(self) -> None:
        self.balances: dict[str, int] = {}
        self.entries: dict[tuple[str, str, str], tuple[str, int, Any, int]] = {}
        self.claims: set[tuple[str, str, str]] = set()

    def post(self, app: Any, wanted: Wanted) -> object:
        operation, owner, nonce, given, metadata = wanted
        rule = app.rules[operation]
        amount = rule.minimum if given is None else given
        if not rule.minimum <= amount <= rule.maximum:
            return "invalid_posting"
        if (known := self.entries.get((owner, app.name, nonce))) is not None:
            for field, before, now in zip(
                ("operation", "amount", "metadata"),
                known,
                (operation, amount, metadata),
                strict=False,
            ):
                if before != now and (field != "amount" or given is not None):
                    return f"nonce_reused_with_different_{field}"
            return known[3], True
        if rule.once is not None and (owner, app.name, operation) in self.claims:
            return "already_claimed"
        after = self.balances.get(owner, 0) + amount
        if amount < 0 and after < 0:
            return "insufficient_credits"
        if rule.once is not None:
            self.claims.add((owner, app.name, operation))
        self.balances[owner] = after
        self.entries[owner, app.name, nonce] = (operation, amount, metadata, after)
        return after, False

    def copy(self) -> Model:
        other = Model()
        other.balances, other.entries = dict(self.balances), dict(self.entries)
        other.claims = set(self.claims)
        return other


def answer(outcome: Outcome) -> object:
    if isinstance(outcome, Posted):
        return outcome.entry.balance_after, outcome.replayed
    return outcome.code


class Steps(RuleBasedStateMachine):
    @initialize(lanes=st.integers(1, 2), max_batch=st.sampled_from([1, 3, 5_000]))
    def open(self, lanes: int, max_batch: int) -> None:
        self.schema = f"model_{next(_books)}"
        self.model = Model()
        self.engine = make_engine(_url)
        limits: Any = {"lanes": lanes, "max_batch": max_batch}
        self.shared = Ledger(SHARED, _url, schema=self.schema, migrate=True, **limits)
        self.shop = Ledger(SHOP, _url, schema=self.schema, migrate=True, **limits)

    def of(self, wanted: Wanted) -> Any:
        return self.shop if isinstance(wanted[0], ShopOperation) else self.shared

    def one(self, wanted: Wanted) -> Outcome:
        (outcome,) = self.of(wanted).post_batch([Posting(*wanted)])
        return outcome  # type: ignore[no-any-return]  # of whichever application

    @rule(wanted=st.one_of(SHARED_POSTINGS, SHOP_POSTINGS))
    def post(self, wanted: Wanted) -> None:
        expected = self.model.post(self.of(wanted).application, wanted)
        assert answer(self.one(wanted)) == expected

    @rule(wanted=st.one_of(SHARED_POSTINGS, SHOP_POSTINGS))
    def post_twice(self, wanted: Wanted) -> None:
        first, second = self.one(wanted), self.one(wanted)
        self.model.post(self.of(wanted).application, wanted)
        if isinstance(first, Posted):
            assert second == Posted(first.entry, replayed=True)
        else:
            assert second == first

    @rule(
        batch=st.one_of(
            st.lists(SHARED_POSTINGS, max_size=12), st.lists(SHOP_POSTINGS, max_size=12)
        )
    )
    def post_batch(self, batch: Sequence[Wanted]) -> None:
        if batch:
            ledger = self.of(batch[0])
            outcomes = ledger.post_batch([Posting(*wanted) for wanted in batch])
            expected = [self.model.post(ledger.application, wanted) for wanted in batch]
            assert [answer(outcome) for outcome in outcomes] == expected

    @rule(
        batch=st.lists(st.one_of(SHARED_POSTINGS, SHOP_POSTINGS), min_size=1, max_size=4),
        commit=st.booleans(),
    )
    def post_in_a_transaction(self, batch: Sequence[Wanted], *, commit: bool) -> None:
        model = self.model.copy()
        with self.engine.connect() as connection:
            for wanted in batch:
                ledger = self.of(wanted)
                expected = model.post(ledger.application, wanted)
                try:
                    outcome: Outcome = ledger.post_in(connection, Posting(*wanted))
                except Exception as refusal:  # noqa: BLE001  # compared below
                    outcome = refusal  # type: ignore[assignment]  # fails to compare if it is another
                assert answer(outcome) == expected
            if commit:
                connection.commit()
                self.model = model
            else:
                connection.rollback()

    @invariant()
    def balances_agree(self) -> None:
        for owner in ("ann", "bob", "cy", "dee"):
            balance = self.shared.balance(owner)
            assert balance.balance == balance.available == self.model.balances.get(owner, 0)

    def teardown(self) -> None:
        if not hasattr(self, "schema"):
            return
        self.shared.close()
        self.shop.close()
        self.engine.dispose()
        assert_sound(_url, self.schema)
        accounts = balances(_url, self.schema)
        owners = {owner: amount for (owner, _), amount in accounts.items() if owner[0] != "@"}
        assert owners == self.model.balances
        entries = query(
            _url,
            f"select owner_id, app, nonce, operation::text, amount, metadata, balance_after "
            f"from {self.schema}.entries",
        )
        assert len(entries) == len(self.model.entries)
        assert {(owner, app, nonce): tuple(rest) for owner, app, nonce, *rest in entries} == (
            self.model.entries
        )
        with make_engine(_url).begin() as connection:
            connection.execute(sa.schema.DropSchema(self.schema, cascade=True))


@pytest.mark.slow
def test_any_history_agrees_with_the_model(cluster: Cluster) -> None:
    global _url  # noqa: PLW0603  # Hypothesis makes the machine, and hands nothing to it.
    _url = cluster.url
    run_state_machine_as_test(
        Steps,
        settings=settings(
            max_examples=60,
            stateful_step_count=40,
            suppress_health_check=list(HealthCheck),
            report_multiple_bugs=False,
        ),
    )
