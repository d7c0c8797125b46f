"""Invoices as BOLT 11 writes them: the specification's examples, and whatever strangers send."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from coincurve import PrivateKey
from coincurve.utils import GROUP_ORDER_INT
from hypothesis import given
from hypothesis import strategies as st

import builders  # noqa: F401  # Its settings of Hypothesis.
from shared_ledger.apps.crowdfunding.lightning import bech32, bolt11
from shared_ledger.apps.crowdfunding.lightning.bolt11 import decode, encode
from shared_ledger.apps.crowdfunding.lightning.port import DecodedInvoice, InvalidInvoice, Network

EXAMPLES = json.loads((Path(__file__).parent / "data/bolt11.json").read_text())
KEY = bytes.fromhex(EXAMPLES["key"])
SECRET = bytes.fromhex(EXAMPLES["payment_secret"])
PAYEE = bolt11.node_id_of(KEY)
CREATED_ON = datetime(2026, 11, 21, 12, tzinfo=UTC)
HASH = "00" * 31 + "01"

# Kinds of fields, by the letters that begin them.
P, S, D, H, N, X, C, FEATURES = 1, 16, 13, 23, 19, 6, 24, 5


def example(name: str) -> Any:
    return next(each for each in EXAMPLES["valid"] if each["name"] == name)


def encoded(**more: Any) -> str:
    values: dict[str, Any] = {
        "network": "regtest",
        "amount_msat": 1_000,
        "payment_hash": HASH,
        "payment_secret": SECRET,
        "description": "coffee",
        "created_on": CREATED_ON,
        "expires_in_s": 60,
        "key": KEY,
    }
    return encode(**(values | more))


def text(content: str) -> list[int]:
    return bech32.groups_of_bytes(content.encode())


USUAL: list[tuple[int, list[int]]] = [(S, [0] * 52), (P, [0] * 52), (D, text("coffee"))]


def signed(*fields: tuple[int, list[int]], prefix: str = "lnbcrt10u", key: bytes = KEY) -> str:
    """An invoice with just these fields, rightly signed."""
    groups = bech32.groups_of(int(CREATED_ON.timestamp()), 7)
    for kind, content in fields:
        groups += [kind, *bech32.groups_of(len(content), 2), *content]
    return bolt11.signed_with(key, prefix, groups)


def refusal_of(payment_request: str) -> str:
    with pytest.raises(InvalidInvoice) as refused:
        decode(payment_request)
    return str(refused.value)


# --- the examples of the specification ---


def test_all_examples_are_there() -> None:
    assert (len(EXAMPLES["valid"]), len(EXAMPLES["invalid"])) == (16, 10)


@pytest.mark.parametrize("case", EXAMPLES["valid"], ids=lambda case: case["name"])
def test_valid_example_says_what_the_specification_reads_in_it(case: Any) -> None:
    created_on = datetime.fromtimestamp(case["timestamp"], UTC)
    assert decode(case["invoice"]) == DecodedInvoice(
        payment_request=case["invoice"].lower(),
        payment_hash=case["payment_hash"],
        payee_id=case["payee_id"],
        network=case["network"],
        amount_msat=case["amount_msat"],
        description=case["description"],
        created_on=created_on,
        expires_on=created_on + timedelta(seconds=case["expires_in_s"]),
    )


@pytest.mark.parametrize("case", EXAMPLES["invalid"], ids=lambda case: case["name"])
def test_invalid_example_is_refused_for_what_is_wrong_with_it(case: Any) -> None:
    assert case["because"] in refusal_of(case["invoice"])


@pytest.mark.parametrize("name", ["any_amount", "cup_of_coffee", "description_in_japanese"])
def test_example_is_written_letter_by_letter(name: str) -> None:
    case = example(name)
    assert (
        encoded(
            network=case["network"],
            amount_msat=case["amount_msat"],
            payment_hash=case["payment_hash"],
            description=case["description"],
            created_on=datetime.fromtimestamp(case["timestamp"], UTC),
            expires_in_s=case["expires_in_s"],
        )
        == case["invoice"]
    )


# --- amounts and networks ---


@pytest.mark.parametrize(
    ("prefix", "amount_msat"),
    [
        ("lnbcrt", None),
        ("lnbcrt1", 100_000_000_000),
        ("lnbcrt1m", 100_000_000),
        ("lnbcrt1u", 100_000),
        ("lnbcrt1n", 100),
        ("lnbcrt10p", 1),
        # Not the shortest way to write it.
        ("lnbcrt1000000u", 100_000_000_000),
        ("lnbcrt21000000", bolt11.MAX_AMOUNT_MSAT),
        ("lnbcrt21000000000000000000p", 2_100_000_000_000_000_000),
    ],
)
def test_amount_is_read_in_its_unit(prefix: str, amount_msat: int | None) -> None:
    assert decode(signed(*USUAL, prefix=prefix)).amount_msat == amount_msat


@pytest.mark.parametrize(
    "prefix",
    [
        "lnbcrt0",
        "lnbcrt01u",
        "lnbcrt1x",
        "lnbcrtm",
        "lnbcrt1 u",
        "lnbcrt-1u",
        "lnbcrt1mm",
        "lnbcrt1.5m",
    ],
)
def test_amount_that_nobody_writes_is_refused(prefix: str) -> None:
    assert "its amount cannot be read" in refusal_of(signed(*USUAL, prefix=prefix))


@pytest.mark.parametrize("prefix", ["lnbcrt21000001", f"lnbcrt{'9' * 20}"])
def test_more_than_all_bitcoins_is_refused(prefix: str) -> None:
    assert "more than all bitcoins" in refusal_of(signed(*USUAL, prefix=prefix))


def test_amount_of_many_digits_is_refused() -> None:
    assert "its amount cannot be read" in refusal_of(signed(*USUAL, prefix=f"lnbcrt{'9' * 5_000}"))


@pytest.mark.parametrize(
    ("prefix", "network"),
    [("lnbc", "mainnet"), ("lntb", "testnet"), ("lntbs", "signet"), ("lnbcrt", "regtest")],
)
def test_prefix_names_the_network(prefix: str, network: Network) -> None:
    assert decode(signed(*USUAL, prefix=f"{prefix}1m")).network == network


@pytest.mark.parametrize("prefix", ["lnltc1m", "bc1m", "ln", "xlnbc1m", "lnbcr1m"])
def test_another_chain_is_refused(prefix: str) -> None:
    assert "another chain" in refusal_of(signed(*USUAL, prefix=prefix))


# --- fields ---


def test_first_of_several_fields_counts() -> None:
    other = (P, [31] * 51 + [16])
    assert decode(signed(*USUAL, other)).payment_hash == "00" * 32
    assert decode(signed(other, *USUAL)).payment_hash == "ff" * 32


@pytest.mark.parametrize(
    ("fields", "because"),
    [
        (USUAL[1:], "no payment secret"),
        ([USUAL[0], USUAL[2]], "no payment hash"),
        (USUAL[:2], "no description"),
        ([*USUAL, (H, [0] * 52)], "two kinds"),
        ([*USUAL[:2], (D, bech32.groups_of_bytes(b"\xff"))], "not UTF-8"),
        ([*USUAL[:2], (D, text("a\0b"))], "a zero character"),
        ([*USUAL, (X, [0, 1])], "begins with zeros"),
        ([*USUAL, (C, [0, 1])], "begins with zeros"),
        ([*USUAL, (FEATURES, [0, 1])], "begins with zeros"),
        ([*USUAL, (X, [31] * 20)], "after the year 9999"),
        # One field may not hide what another requires.
        ([*USUAL, (FEATURES, [2]), (FEATURES, [1])], "requires feature 0"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_fields_that_must_not_be_so_are_refused(
    fields: list[tuple[int, list[int]]], because: str
) -> None:
    assert because in refusal_of(signed(*fields))


@pytest.mark.parametrize("kind", [P, S, H, N])
@pytest.mark.parametrize("length", [0, 1, 51, 54])
def test_field_of_a_wrong_length_is_none(kind: int, length: int) -> None:
    assert decode(signed((kind, [0] * length), *USUAL)).payment_hash == "00" * 32


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_invoice_that_ends_within_a_field_is_refused(cut: int) -> None:
    groups = [0] * 7 + [D, 0, 1, 1][:cut]
    assert "ends within a field" in refusal_of(bolt11.signed_with(KEY, "lnbcrt", groups))


@pytest.mark.parametrize("bit", [8, 14, 16, 24, 36, 48, 1, 101, 999])
def test_known_or_optional_feature_is_accepted(bit: int) -> None:
    decode(signed(*USUAL, (FEATURES, bech32.groups_of(1 << bit, bit // 5 + 1))))


@pytest.mark.parametrize("bit", [0, 2, 18, 30, 50, 262, 1_000])
def test_unknown_feature_that_is_required_is_refused(bit: int) -> None:
    invoice = signed(*USUAL, (FEATURES, bech32.groups_of(1 << bit, bit // 5 + 1)))
    assert f"requires feature {bit}," in refusal_of(invoice)


# --- signatures ---


def test_payee_that_is_named_must_have_signed() -> None:
    named = (N, bech32.groups_of_bytes(bytes.fromhex(PAYEE)))
    assert decode(signed(*USUAL, named)).payee_id == PAYEE
    assert "not its payee's" in refusal_of(signed(*USUAL, named, key=bolt11.new_key()))


def test_recovery_id_does_not_matter_where_the_payee_is_named() -> None:
    named = (N, bech32.groups_of_bytes(bytes.fromhex(PAYEE)))
    true_ids = set()
    for number in range(16):
        prefix, groups = bech32.split(signed(*USUAL, named, (31, [number])))
        signature = bech32.bytes_of(groups[-104:])
        true_ids.add(signature[64])
        for written_id in range(5):
            changed = bech32.groups_of_bytes(signature[:64] + bytes([written_id]))
            invoice = bech32.join(prefix, [*groups[:-104], *changed])
            assert decode(invoice).payee_id == PAYEE
    assert true_ids == {0, 1}


def test_higher_signature_leads_to_a_payee_only_if_none_is_named() -> None:
    prefix, groups = bech32.split(signed(*USUAL))
    signature = bech32.bytes_of(groups[-104:])
    higher = GROUP_ORDER_INT - int.from_bytes(signature[32:64], "big")
    other = signature[:32] + higher.to_bytes(32, "big") + bytes([signature[64] ^ 1])
    invoice = bech32.join(prefix, [*groups[:-104], *bech32.groups_of_bytes(other)])
    assert decode(invoice).payee_id == PAYEE


def test_key_of_ours_is_one_of_the_curve() -> None:
    key = bolt11.new_key()
    assert decode(encoded(key=key)).payee_id == PrivateKey(key).public_key.format().hex()
    assert key != bolt11.new_key()


# --- whatever strangers send ---


def test_invoice_that_fits_into_no_qr_code_is_refused() -> None:
    short = signed(*USUAL, *[(31, [0] * 1_000)] * 6)
    filled = signed(*USUAL, *[(31, [0] * 1_000)] * 6, (31, [0] * (7_089 - len(short) - 3)))
    assert len(filled) == 7_089
    decode(filled)
    longer = signed(*USUAL, *[(31, [0] * 1_000)] * 6, (31, [0] * (7_090 - len(short) - 3)))
    assert "longer than 7089" in refusal_of(longer)


def test_letter_that_becomes_ascii_when_it_is_made_small_is_refused() -> None:
    invoice = example("cup_of_coffee")["invoice"].upper()
    assert "K" in invoice
    assert "another alphabet" in refusal_of(invoice.replace("K", "\u212a"))


@pytest.mark.parametrize("payment_request", ["lnbc1qqqqq", "1qqqqqq"])
def test_text_without_room_for_a_checksum_is_refused(payment_request: str) -> None:
    assert "it is too short" in refusal_of(payment_request)


@pytest.mark.parametrize(
    "payment_request",
    [
        "",
        "1",
        "lnbc1",
        "lnbc",
        "LNBC1",
        "\u212anbc1",
        "lnbc1\u0660",
        "lnbc1" + "q" * 8_000,
        "é1qqqqqq",
    ],
)
def test_what_is_no_invoice_is_refused(payment_request: str) -> None:
    refusal_of(payment_request)


@given(
    st.text() | st.from_regex(r"\A[lL][nN](bc|BC|tb|bcrt)[0-9]{0,3}[munp]?1[qpzry9x8gf2tvdw0]*\Z")
)
def test_no_text_does_anything_but_being_refused(payment_request: str) -> None:
    refusal_of(payment_request)


@given(st.data())
def test_changed_example_is_refused_or_read(data: st.DataObject) -> None:
    case = data.draw(st.sampled_from(EXAMPLES["valid"]))
    letters = list(case["invoice"])
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(letters) - 1))
        letters[place : place + data.draw(st.integers(0, 2))] = data.draw(
            st.text("qpzry9x8gf2tvdw0s3jn54khce6mua7l1bioB\u017f", max_size=2)
        )
    changed = "".join(letters)
    try:
        invoice = decode(changed)
    except InvalidInvoice:
        return
    # A checksum finds any one to four letters that are changed.
    assert changed.lower() == case["invoice"].lower()
    assert invoice.payee_id == case["payee_id"]


FIELDS = st.lists(
    st.tuples(
        st.sampled_from([P, S, D, H, N, X, C, FEATURES]) | st.integers(0, 31),
        st.lists(st.integers(0, 31), max_size=60) | st.just([0] * 52) | st.just([1] * 53),
    ),
    max_size=6,
)


@given(
    FIELDS,
    st.permutations(USUAL),
    st.lists(st.integers(0, 31), max_size=4),
    st.sampled_from(["lnbc", "lnbcrt1m", "lntb5u", "lnbc1p", "ln"]),
)
def test_signed_nonsense_is_refused_or_read(
    fields: list[tuple[int, list[int]]],
    usual: list[tuple[int, list[int]]],
    rest: list[int],
    prefix: str,
) -> None:
    prefix_, groups = bech32.split(signed(*usual, *fields, prefix=prefix))
    invoice = bolt11.signed_with(KEY, prefix_, [*groups[:-104], *rest])
    try:
        read = decode(invoice)
    except InvalidInvoice:
        return
    assert (read.payee_id, read.payment_hash) == (PAYEE, "00" * 32)


@given(st.binary(max_size=700))
def test_any_signature_is_refused_or_somebodys(junk: bytes) -> None:
    prefix, groups = bech32.split(signed(*USUAL))
    signature = bech32.groups_of_bytes(junk.ljust(65, b"\0"))[:104]
    try:
        read = decode(bech32.join(prefix, [*groups[:-104], *signature]))
    except InvalidInvoice:
        return
    assert read.payee_id != PAYEE


@given(
    network=st.sampled_from(["mainnet", "testnet", "signet", "regtest"]),
    amount_msat=st.none() | st.integers(1, bolt11.MAX_AMOUNT_MSAT),
    payment_hash=st.binary(min_size=32, max_size=32).map(bytes.hex),
    description=st.text(max_size=150).filter(lambda text: "\0" not in text and text.isprintable()),
    created_on=st.integers(0, 2**35 - 1),
    expires_in_s=st.integers(1, 2**35 - 1),
)
def test_what_was_written_is_read(
    *,
    network: Network,
    amount_msat: int | None,
    payment_hash: str,
    description: str,
    created_on: int,
    expires_in_s: int,
) -> None:
    at = datetime.fromtimestamp(created_on, UTC)
    key = bolt11.new_key()
    invoice = encoded(
        network=network,
        amount_msat=amount_msat,
        payment_hash=payment_hash,
        description=description,
        created_on=at,
        expires_in_s=expires_in_s,
        key=key,
    )
    for written in (invoice, invoice.upper()):
        assert decode(written) == DecodedInvoice(
            payment_request=invoice,
            payment_hash=payment_hash,
            payee_id=bolt11.node_id_of(key),
            network=network,
            amount_msat=amount_msat,
            description=description,
            created_on=at,
            expires_on=at + timedelta(seconds=expires_in_s),
        )


@pytest.mark.parametrize(
    "more",
    [
        {"description": "é" * 320},
        {"amount_msat": 0},
        {"amount_msat": bolt11.MAX_AMOUNT_MSAT + 1},
        {"expires_in_s": 0},
        {"expires_in_s": 2**35},
    ],
    ids=str,
)
def test_what_no_invoice_can_say_is_not_written(more: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"amount|bytes|expires"):
        encoded(**more)


def test_longest_description_is_written() -> None:
    longest = "é" * 319 + "e"
    assert decode(encoded(description=longest)).description == longest
