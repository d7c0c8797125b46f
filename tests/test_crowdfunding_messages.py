"""Satoshi Spark's messages are stored for years: what was written once is always read.

``data/crowdfunding-messages-v1.json`` has some of every type, as they were first written. They are
never changed; a new message, or a new version of one, gets samples of its own beside them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import msgspec
import pytest

from contexts import HERE
from shared_ledger.apps.crowdfunding import messages
from shared_ledger.messages import Catalogue, Envelope, Event, Message, UnknownMessage
from shared_ledger.messages.message import new_id

SAMPLES = json.loads((HERE / "data" / "crowdfunding-messages-v1.json").read_text())
KINDS = [
    kind
    for kind in vars(messages).values()
    if isinstance(kind, type) and issubclass(kind, Message) and kind.__module__ == messages.__name__
]


def envelope_of(sample: dict[str, Any]) -> Envelope:
    return Envelope(
        id=new_id(),
        key=sample["key"],
        type=sample["type"],
        version=sample["version"],
        payload=msgspec.Raw(json.dumps(sample["payload"]).encode()),
    )


def lost(kinds: Sequence[type[Message]], samples: Sequence[dict[str, Any]]) -> list[str]:
    """What of the samples these classes do not read, or do not say again."""
    catalogue = Catalogue(kinds)
    problems: list[str] = []
    for sample in samples:
        try:
            message = catalogue.decode(envelope_of(sample))
        except Exception as error:  # noqa: BLE001  # Whatever it is, it is what is asked for.
            problems.append(str(error))
            continue
        said = json.loads(Envelope.of(message).text)
        problems += differences(sample["payload"], said, sample["type"])
        if message.key != sample["key"]:
            problems.append(f"{sample['type']} has another key")
    return problems


def differences(before: Any, now: Any, place: str) -> Iterator[str]:
    """What was there before and is not now, or is another; more fields are no difference."""
    if isinstance(before, dict) and isinstance(now, dict):
        for name, value in before.items():
            if name in now:
                yield from differences(value, now[name], f"{place}.{name}")
            else:
                yield f"{place}.{name} is gone"
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for number, (one, other) in enumerate(zip(before, now, strict=True)):
            yield from differences(one, other, f"{place}[{number}]")
    elif type(before) is not type(now) or before != now:
        yield f"{place} is another"


def samples_of(type_: str) -> list[dict[str, Any]]:
    return [sample for sample in SAMPLES if sample["type"] == type_]


def test_all_that_was_ever_written_is_read_and_says_the_same() -> None:
    assert lost(KINDS, SAMPLES) == []


def test_every_message_has_a_sample() -> None:
    newest = {(sample["type"], sample["version"]) for sample in SAMPLES}
    assert {(kind.__name__, kind.version) for kind in KINDS} <= newest
    assert {type_ for type_, _ in newest} == {kind.__name__ for kind in KINDS}


# --- what the samples notice ---


class Removed:
    class DepositReceived(Event, key="payment_hash"):
        payment_hash: str
        amount: int


class Renamed:
    class DepositReceived(Event, key="payment_hash"):
        payment_hash: str
        account: str = ""
        amount: int


class Retyped:
    class DepositReceived(Event, key="payment_hash"):
        payment_hash: str
        account_id: str
        amount: float


class WithoutDefault:
    class DepositReceived(Event, key="payment_hash"):
        payment_hash: str
        account_id: str
        amount: int
        received_on: datetime


class OfAnotherKey:
    class DepositReceived(Event, key="account_id"):
        payment_hash: str
        account_id: str
        amount: int


class Narrowed:
    class RefundsMade(Event, key="batch_id"):
        batch_id: str
        campaign_id: str
        donation_ids: list[int]


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        (Removed.DepositReceived, "DepositReceived.account_id is gone"),
        (Renamed.DepositReceived, "DepositReceived.account_id is gone"),
        (Retyped.DepositReceived, "DepositReceived.amount is another"),
        (WithoutDefault.DepositReceived, "missing required field `received_on`"),
        (OfAnotherKey.DepositReceived, "DepositReceived has another key"),
        (Narrowed.RefundsMade, "Expected `int`, got `str`"),
    ],
    ids=["removed", "renamed", "retyped", "without default", "of another key", "narrowed"],
)
def test_change_that_older_messages_do_not_bear_is_noticed(
    kind: type[Message], problem: str
) -> None:
    found = lost([kind], samples_of(kind.__name__))
    assert len(found) == 1
    assert problem in found[0]


# --- how a message may change ---


class Later:
    class DepositReceived(Event, key="payment_hash"):
        payment_hash: str
        account_id: str
        amount: int
        memo: str = ""


class Second:
    class DepositReceived(Event, key="payment_hash"):
        version = 2

        payment_hash: str
        account_id: str
        amount_msat: int

        @classmethod
        def upcast(cls, version: int, payload: dict[str, Any]) -> dict[str, Any]:
            assert version == 1
            return {**payload, "amount_msat": payload["amount"]}


def test_field_that_is_added_with_a_default_is_read_by_both() -> None:
    (old,) = samples_of("DepositReceived")
    assert lost([Later.DepositReceived], [old]) == []
    read = Catalogue([Later.DepositReceived]).decode(envelope_of(old))
    assert read == Later.DepositReceived(**old["payload"], memo="")
    new = Later.DepositReceived(**old["payload"], memo="for the toads")
    assert Catalogue([Later.DepositReceived]).decode(Envelope.of(new)) == new
    # A program that does not know the field yet reads what it knows.
    earlier = Catalogue(KINDS).decode(Envelope.of(new))
    assert earlier == messages.DepositReceived(**old["payload"])


def test_new_version_reads_the_older_and_is_read_by_itself_alone() -> None:
    (old,) = samples_of("DepositReceived")
    second = Catalogue([Second.DepositReceived])
    new = Second.DepositReceived(
        payment_hash=old["payload"]["payment_hash"],
        account_id=old["payload"]["account_id"],
        amount_msat=old["payload"]["amount"],
    )
    assert second.decode(envelope_of(old)) == second.decode(Envelope.of(new)) == new
    with pytest.raises(UnknownMessage):
        Catalogue(KINDS).decode(Envelope.of(new))
