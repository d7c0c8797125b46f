"""Messages are written down, and read again by programs of other versions."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import msgspec
import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared_ledger.embedded import Cluster
from shared_ledger.errors import ConfigurationError
from shared_ledger.messages import (
    Catalogue,
    Command,
    Envelope,
    Event,
    InvalidMessage,
    Message,
    UnknownMessage,
    UnreadableMessage,
)
from shared_ledger.messages.message import MAX_KEY_LENGTH, MAX_PAYLOAD_BYTES, new_id


class Item(msgspec.Struct, frozen=True):
    name: str
    price: int


class OrderPlaced(Event, key="order_id"):
    order_id: str
    amount: int
    placed_on: datetime
    customer: uuid.UUID | None = None
    items: tuple[Item, ...] = ()
    labels: Mapping[str, str] = {}


ORDERS = Catalogue([OrderPlaced])

# What jsonb can hold: no NUL, no half of a surrogate pair.
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
PLACED = st.builds(
    OrderPlaced,
    order_id=TEXT.filter(lambda text: 0 < len(text) <= MAX_KEY_LENGTH),
    amount=st.integers(),
    placed_on=st.datetimes(timezones=st.just(UTC)),
    customer=st.none() | st.uuids(),
    items=st.lists(st.builds(Item, name=TEXT, price=st.integers())).map(tuple),
    labels=st.dictionaries(TEXT, TEXT),
)


def placed(order_id: str = "o1", **more: Any) -> OrderPlaced:
    fields: dict[str, Any] = {"amount": 3, "placed_on": datetime(2026, 11, 21, tzinfo=UTC)}
    return OrderPlaced(order_id=order_id, **(fields | more))


def envelope(
    payload: dict[str, Any], *, version: int = 1, type_name: str = "OrderPlaced"
) -> Envelope:
    raw = msgspec.Raw(msgspec.json.encode(payload))
    return Envelope(id=new_id(), key="o1", type=type_name, version=version, payload=raw)


@given(PLACED)
def test_what_was_written_down_is_read_again(message: OrderPlaced) -> None:
    written = Envelope.of(message)
    assert (written.key, written.type, written.version) == (message.order_id, "OrderPlaced", 1)
    assert ORDERS.decode(written) == message


@given(PLACED)
def test_envelope_itself_travels_as_json(message: OrderPlaced) -> None:
    written = Envelope.of(message)
    travelled = msgspec.json.decode(msgspec.json.encode(written), type=Envelope)
    assert travelled == written
    assert ORDERS.decode(travelled) == message


@pytest.fixture(scope="module")
def connection(cluster: Cluster) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(cluster.url, autocommit=True) as connection:
        yield connection


@given(message=PLACED)
def test_database_changes_nothing_of_a_message(
    connection: psycopg.Connection[Any], message: OrderPlaced
) -> None:
    written = Envelope.of(message)
    row = connection.execute("select %s::text::jsonb::text", (written.text,)).fetchone()
    assert row is not None
    stored = msgspec.structs.replace(written, payload=msgspec.Raw(row[0].encode()))
    assert ORDERS.decode(stored) == message


# --- other versions ---


@given(PLACED, TEXT)
def test_message_of_before_is_read_after_a_field_is_added(
    message: OrderPlaced, default: str
) -> None:
    class Later(Event, key="order_id"):
        order_id: str
        amount: int
        placed_on: datetime
        note: str = default

    Later.__name__ = "OrderPlaced"
    read = Catalogue([Later]).decode(Envelope.of(message))
    assert isinstance(read, Later)
    assert (read.order_id, read.amount, read.note) == (message.order_id, message.amount, default)


@given(PLACED, st.dictionaries(TEXT, st.none() | st.integers() | TEXT))
def test_fields_that_are_not_known_are_ignored(message: OrderPlaced, extra: dict[str, Any]) -> None:
    known = msgspec.to_builtins(message)
    assert ORDERS.decode(envelope(extra | known)) == message


@given(PLACED)
def test_older_version_is_converted(message: OrderPlaced) -> None:
    class Renamed(Event, key="order"):
        version: ClassVar[int] = 3
        order: str
        price_msat: int

        @classmethod
        def upcast(cls, version: int, payload: dict[str, Any]) -> dict[str, Any]:
            if version < 2:
                payload["order"] = payload.pop("order_id")
            if version < 3:
                payload["price_msat"] = payload.pop("amount") * 1_000
            return payload

    Renamed.__name__ = "OrderPlaced"
    catalogue = Catalogue([Renamed])
    expected = Renamed(order=message.order_id, price_msat=message.amount * 1_000)
    of_second = {"order": message.order_id, "amount": message.amount}
    assert catalogue.decode(Envelope.of(message)) == expected
    assert catalogue.decode(envelope(of_second, version=2)) == expected
    assert catalogue.decode(Envelope.of(expected)) == expected


def test_newer_version_is_unknown() -> None:
    with pytest.raises(UnknownMessage, match=r"knows OrderPlaced up to version 1: upgrade it"):
        ORDERS.decode(envelope({"order_id": "o1"}, version=2))


def test_type_that_is_not_in_the_catalogue_is_unknown() -> None:
    with pytest.raises(UnknownMessage, match=r"knows no message OrderShipped: upgrade it"):
        ORDERS.decode(envelope({}, type_name="OrderShipped"))


@pytest.mark.parametrize(
    ("payload", "problem"),
    [
        ({"order_id": "o1", "amount": 3}, "placed_on"),
        ({"order_id": "o1", "amount": "3", "placed_on": "2026-11-21T00:00:00Z"}, r"\$.amount"),
        ({"order_id": "o1", "amount": 3.5, "placed_on": "2026-11-21T00:00:00Z"}, r"\$.amount"),
    ],
)
def test_payload_that_does_not_fit_says_where(payload: dict[str, Any], problem: str) -> None:
    with pytest.raises(UnreadableMessage, match=f"version 1 cannot be read: .*{problem}"):
        ORDERS.decode(envelope(payload))


def test_two_messages_of_one_name_are_refused() -> None:
    class Another(Event, key="order_id"):
        order_id: str

    Another.__name__ = "OrderPlaced"
    with pytest.raises(ConfigurationError, match="two messages named OrderPlaced"):
        Catalogue([OrderPlaced, OrderPlaced, Another])


# --- what cannot be sent is refused where it is sent ---


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        (placed(amount="3"), r"Expected `int`, got `str`"),
        (placed(amount=None), r"Expected `int`, got `null`"),
        (placed(customer="somebody"), "UUID"),
        (placed(labels={"a": "\0"}), "NUL"),
        (placed(labels={"a": "\\\0"}), "NUL"),
        (placed(labels={"a": "\ud800"}), "surrogates"),
        (placed(labels={"a": object()}), "object"),
        (placed(""), "key has 0 characters, not 1 to 255"),
        (placed("x" * 256), "key has 256 characters, not 1 to 255"),
        (placed(labels={"a": "x" * MAX_PAYLOAD_BYTES}), "bytes are over"),
    ],
)
def test_message_that_could_not_be_read_again_is_refused(message: Message, problem: str) -> None:
    with pytest.raises(InvalidMessage, match=f"OrderPlaced cannot be sent: .*{problem}"):
        Envelope.of(message)


def test_backslashes_that_only_look_like_a_nul_are_sent() -> None:
    message = placed(labels={"a": "\\u0000", "b": "\\\\u0000"})
    assert ORDERS.decode(Envelope.of(message)) == message


# --- how a message is declared ---


def test_messages_are_frozen_and_made_by_keyword() -> None:
    message = placed()
    with pytest.raises(AttributeError):
        message.amount = 4  # type: ignore[misc]  # what is tested
    with pytest.raises(TypeError):
        OrderPlaced("o1", 3)  # type: ignore[call-arg]  # what is tested


def test_message_without_a_key_is_refused_when_the_class_is_defined() -> None:
    with pytest.raises(TypeError, match=r'Nameless names none of its fields as its key: .*key="…"'):

        class Nameless(Command):
            amount: int


def test_key_that_is_no_field_is_refused_when_the_class_is_defined() -> None:
    with pytest.raises(TypeError, match="Mistaken names none of its fields"):

        class Mistaken(Command, key="order"):
            order_id: str


def test_field_that_hides_what_the_class_has_is_refused() -> None:
    with pytest.raises(TypeError, match="has a field version: choose another name"):

        class Hiding(Command, key="order_id"):
            order_id: str
            version: int  # type: ignore[misc]  # what is tested


@pytest.mark.parametrize("value", ["ada", 7, uuid.UUID(int=7)])
def test_key_is_the_fields_value_as_text(value: object) -> None:
    class Thing(Event, key="thing"):
        thing: object

    assert Thing(thing=value).key == str(value)


def test_ids_are_of_version_7_and_grow() -> None:
    before = datetime.now(UTC)
    ids = [new_id() for _ in range(1_000)]
    assert len(set(ids)) == 1_000
    assert {one.version for one in ids} == {7}
    assert {one.variant for one in ids} == {uuid.RFC_4122}
    made_on = datetime.fromtimestamp((ids[0].int >> 80) / 1_000, UTC)
    assert abs(made_on - before) < timedelta(seconds=5)
    milliseconds = [one.int >> 80 for one in ids]
    assert milliseconds == sorted(milliseconds)
