"""Invoices as BOLT 11 writes them: read strictly, because strangers wrote them; and written.

Source: https://github.com/lightning/bolts/blob/master/11-payment-encoding.md. Whatever it says that
a reader must refuse is refused. No library of the Python package index refuses all of the invalid
examples there (`bolt11` and `pyln-proto` accept unknown features that are required, and amounts
below a millisatoshi), so only the elliptic curve is left to one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from coincurve import PrivateKey, PublicKey
from coincurve.utils import GROUP_ORDER_INT

from shared_ledger.apps.crowdfunding.lightning import bech32
from shared_ledger.apps.crowdfunding.lightning.port import DecodedInvoice, InvalidInvoice, Network

DEFAULT_EXPIRES_IN_S = 3_600

MAX_LENGTH = 7_089
"""Characters. As lnd has it: what fits into the largest QR code (its zpay32/invoice.go)."""

MAX_AMOUNT_MSAT = 21_000_000 * 10**11
"""All the bitcoins there will ever be."""

MAX_DESCRIPTION_BYTES = 1023 * 5 // 8

_CURRENCIES: Mapping[str, Network] = {
    "bc": "mainnet",
    "tb": "testnet",
    "tbs": "signet",
    "bcrt": "regtest",
}
_PREFIXES = {network: f"ln{currency}" for currency, network in _CURRENCIES.items()}
# No leading zero: a writer writes none. More digits than this are more than all bitcoins.
_PREFIX = re.compile(r"ln(bcrt|bc|tbs|tb)(?:([1-9][0-9]{0,19})([munp]?))?")

# Tenths of a millisatoshi are the smallest unit, one of 10^12 in a bitcoin.
_UNITS = {"": 10**12, "m": 10**9, "u": 10**6, "n": 10**3, "p": 1}

_TIMESTAMP_GROUPS = 7
_SIGNATURE_GROUPS = 104
_HASH_GROUPS = 52
_KEY_GROUPS = 53

_PAYMENT_HASH = 1
_FEATURES = 5
_EXPIRY = 6
_DESCRIPTION = 13
_SECRET = 16
_PAYEE = 19
_DESCRIPTION_HASH = 23
_FINAL_DELTA = 24

_LENGTHS = {
    _PAYMENT_HASH: _HASH_GROUPS,
    _SECRET: _HASH_GROUPS,
    _DESCRIPTION_HASH: _HASH_GROUPS,
    _PAYEE: _KEY_GROUPS,
}

# Of those that https://github.com/lightning/bolts/blob/master/09-features.md has for invoices, the
# ones by which a payee may ask something of the payer: var_onion_optin, payment_secret, basic_mpp,
# option_route_blinding, option_attribution_data, option_payment_metadata.
_KNOWN_REQUIRED = frozenset({8, 14, 16, 24, 36, 48})

# What an invoice of ours asks for: var_onion_optin and payment_secret.
_OUR_FEATURES = 1 << 8 | 1 << 14

Fields = Mapping[int, Sequence[int]]


def decode(payment_request: str) -> DecodedInvoice:
    """Read a payment request, whose payee must have signed it.

    Raises
    ------
    InvalidInvoice
        If it is none, or one that BOLT 11 forbids to pay; with a sentence that says why.
    """
    if len(payment_request) > MAX_LENGTH:
        raise InvalidInvoice(f"the invoice is longer than {MAX_LENGTH} characters")
    try:
        prefix, groups = bech32.split(payment_request)
    except ValueError as error:
        raise InvalidInvoice(f"the invoice is not Bech32: {error}") from None
    network, amount_msat = _network_and_amount(prefix)
    if len(groups) < _TIMESTAMP_GROUPS + _SIGNATURE_GROUPS:
        raise InvalidInvoice("the invoice is too short for a time and a signature")
    signed, signature = groups[:-_SIGNATURE_GROUPS], groups[-_SIGNATURE_GROUPS:]
    fields = _fields(signed[_TIMESTAMP_GROUPS:])
    _required(fields, _SECRET, "payment secret")
    payee_id = _payee_of(prefix, signed, bech32.bytes_of(signature), fields.get(_PAYEE))
    created_on = datetime.fromtimestamp(bech32.number_of(signed[:_TIMESTAMP_GROUPS]), UTC)
    return DecodedInvoice(
        payment_request=payment_request.lower(),
        payment_hash=bech32.bytes_of(_required(fields, _PAYMENT_HASH, "payment hash")).hex(),
        payee_id=payee_id.hex(),
        network=network,
        amount_msat=amount_msat,
        description=_description(fields),
        created_on=created_on,
        expires_on=_expires_on(created_on, fields.get(_EXPIRY)),
    )


def encode(
    *,
    network: Network,
    amount_msat: int | None,
    payment_hash: str,
    payment_secret: bytes,
    description: str,
    created_on: datetime,
    expires_in_s: int,
    key: bytes,
) -> str:
    """Write an invoice, and sign it with the payee's private key. ``created_on`` to the second.

    Raises
    ------
    ValueError
        If an invoice cannot say this.
    """
    text = description.encode()
    if len(text) > MAX_DESCRIPTION_BYTES:
        raise ValueError(f"a description has at most {MAX_DESCRIPTION_BYTES} bytes")
    if amount_msat is not None and not 0 < amount_msat <= MAX_AMOUNT_MSAT:
        raise ValueError(f"an amount is from 1 to {MAX_AMOUNT_MSAT} msat")
    if not 0 < expires_in_s < 1 << 35:
        raise ValueError("an invoice expires in a positive number of seconds")
    prefix = _PREFIXES[network] + ("" if amount_msat is None else _shortest(amount_msat))
    groups = [
        *bech32.groups_of(int(created_on.timestamp()), _TIMESTAMP_GROUPS),
        *_field(_SECRET, bech32.groups_of_bytes(payment_secret)),
        *_field(_PAYMENT_HASH, bech32.groups_of_bytes(bytes.fromhex(payment_hash))),
        *_field(_DESCRIPTION, bech32.groups_of_bytes(text)),
    ]
    if expires_in_s != DEFAULT_EXPIRES_IN_S:
        groups += _field(_EXPIRY, _minimal(expires_in_s))
    groups += _field(_FEATURES, _minimal(_OUR_FEATURES))
    return signed_with(key, prefix, groups)


def signed_with(key: bytes, prefix: str, groups: Sequence[int]) -> str:
    """Sign what an invoice says, and write it."""
    signature = PrivateKey(key).sign_recoverable(_digest(prefix, groups), hasher=None)
    return bech32.join(prefix, [*groups, *bech32.groups_of_bytes(signature)])


def new_key() -> bytes:
    """Make a private key at random."""
    return PrivateKey().secret


def node_id_of(key: bytes) -> str:
    """Return the public key, 66 hexadecimal digits, of a private one."""
    return PrivateKey(key).public_key.format().hex()


def _network_and_amount(prefix: str) -> tuple[Network, int | None]:
    match = _PREFIX.fullmatch(prefix)
    if match is None:
        raise InvalidInvoice("the invoice is of another chain, or its amount cannot be read")
    network = _CURRENCIES[match[1]]
    if match[2] is None:
        return network, None
    msat, below = divmod(int(match[2]) * _UNITS[match[3]], 10)
    if below:
        raise InvalidInvoice("the invoice's amount is no whole number of millisatoshis")
    if msat > MAX_AMOUNT_MSAT:
        raise InvalidInvoice("the invoice's amount is more than all bitcoins there are")
    return network, msat


def _shortest(amount_msat: int) -> str:
    tenths = amount_msat * 10
    letter, unit = next(each for each in _UNITS.items() if tenths % each[1] == 0)
    return f"{tenths // unit}{letter}"


def _fields(groups: Sequence[int]) -> dict[int, Sequence[int]]:
    """Return the first field of each kind; those of a wrong length are none."""
    fields: dict[int, Sequence[int]] = {}
    for kind, content in _each_field(groups):
        if len(content) == _LENGTHS.get(kind, len(content)):
            fields.setdefault(kind, content)
        if kind in (_EXPIRY, _FINAL_DELTA, _FEATURES) and content and content[0] == 0:
            raise InvalidInvoice("the invoice has a number that begins with zeros")
        if kind == _FEATURES:
            _check_features(bech32.number_of(content))
    return fields


def _each_field(groups: Sequence[int]) -> Iterator[tuple[int, Sequence[int]]]:
    place = 0
    while place < len(groups):
        head = groups[place : place + 3]
        end = place + 3 + bech32.number_of(head[1:])
        if len(head) < 3 or end > len(groups):  # noqa: PLR2004  # Kind, and two of the length.
            raise InvalidInvoice("the invoice ends within a field")
        yield head[0], groups[place + 3 : end]
        place = end


def _check_features(features: int) -> None:
    for bit in range(0, features.bit_length(), 2):
        if features >> bit & 1 and bit not in _KNOWN_REQUIRED:
            raise InvalidInvoice(f"the invoice requires feature {bit}, which is not known here")


def _required(fields: Fields, kind: int, name: str) -> Sequence[int]:
    content = fields.get(kind)
    if content is None:
        raise InvalidInvoice(f"the invoice has no {name}")
    return content


def _description(fields: Fields) -> str | None:
    text = fields.get(_DESCRIPTION)
    if (text is None) == (_DESCRIPTION_HASH not in fields):
        raise InvalidInvoice("the invoice has no description, or two kinds of it")
    if text is None:
        return None
    try:
        description = bech32.bytes_of(text).decode()
    except UnicodeDecodeError:
        raise InvalidInvoice("the invoice's description is not UTF-8") from None
    if "\0" in description:
        # It may be, but no database keeps it.
        raise InvalidInvoice("the invoice's description has a zero character")
    return description


def _expires_on(created_on: datetime, expiry: Sequence[int] | None) -> datetime:
    seconds = DEFAULT_EXPIRES_IN_S if expiry is None else bech32.number_of(expiry)
    try:
        return created_on + timedelta(seconds=seconds)
    except OverflowError:
        raise InvalidInvoice("the invoice expires after the year 9999") from None


def _payee_of(
    prefix: str, signed: Sequence[int], signature: bytes, payee: Sequence[int] | None
) -> bytes:
    digest = _digest(prefix, signed)
    if payee is None:
        return _recovered(signature, digest)
    if int.from_bytes(signature[32:64], "big") > GROUP_ORDER_INT // 2:
        raise InvalidInvoice("the invoice's signature is not the lower one of two")
    # Whatever recovery id was written, it is the payee's if any of them leads to his key.
    for recovery_id in range(4):
        try:
            signer = _recovered(signature[:64] + bytes([recovery_id]), digest)
        except InvalidInvoice:
            continue
        if signer == bech32.bytes_of(payee):
            return signer
    raise InvalidInvoice("the invoice's signature is not its payee's")


def _recovered(signature: bytes, digest: bytes) -> bytes:
    try:
        return PublicKey.from_signature_and_message(signature, digest, hasher=None).format()
    except ValueError:
        raise InvalidInvoice("the invoice's signature is nobody's") from None


def _digest(prefix: str, groups: Sequence[int]) -> bytes:
    return hashlib.sha256(prefix.encode() + bech32.filled_bytes_of(groups)).digest()


def _field(kind: int, content: Sequence[int]) -> list[int]:
    return [kind, *bech32.groups_of(len(content), 2), *content]


def _minimal(value: int) -> list[int]:
    return bech32.groups_of(value, -(-value.bit_length() // 5))
