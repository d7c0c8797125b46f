"""Bech32, in which invoices are written: groups of five bits, and a checksum over them.

Source: https://github.com/bitcoin/bips/blob/master/bip-0173.mediawiki, without its limit of 90
characters, as BOLT 11 has it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

_LETTERS = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_VALUES = {letter: value for value, letter in enumerate(_LETTERS)}
_GENERATOR = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
_CHECKSUM_LENGTH = 6


def join(prefix: str, groups: Sequence[int]) -> str:
    """Write groups of five bits after a prefix in small letters, with the checksum of both."""
    checked = _polymod([*_expanded(prefix), *groups, *[0] * _CHECKSUM_LENGTH]) ^ 1
    checksum = [checked >> 5 * place & 31 for place in reversed(range(_CHECKSUM_LENGTH))]
    return f"{prefix}1{''.join(_LETTERS[group] for group in (*groups, *checksum))}"


def split(text: str) -> tuple[str, list[int]]:
    """Return the prefix, in small letters, and the groups without the checksum.

    Raises
    ------
    ValueError
        If it is no Bech32; with a sentence that says why.
    """
    # Letters outside of ASCII may become some of it when they are made small.
    if not text.isascii() or (text != text.lower() and text != text.upper()):
        raise ValueError("it has letters of another alphabet, or both small and capital ones")
    prefix, separator, data = text.lower().rpartition("1")
    if not separator:
        raise ValueError("nothing separates its prefix from its data")
    if not prefix or len(data) < _CHECKSUM_LENGTH:
        raise ValueError("it is too short")
    try:
        groups = [_VALUES[letter] for letter in data]
    except KeyError:
        raise ValueError("it has a character that does not belong there") from None
    if _polymod([*_expanded(prefix), *groups]) != 1:
        raise ValueError("its checksum is wrong")
    return prefix, groups[:-_CHECKSUM_LENGTH]


def groups_of(value: int, count: int) -> list[int]:
    """Return a number as so many groups, the highest bits first."""
    return [value >> 5 * place & 31 for place in reversed(range(count))]


def number_of(groups: Iterable[int]) -> int:
    """Return the number that groups are, the highest bits first."""
    number = 0
    for group in groups:
        number = number << 5 | group
    return number


def groups_of_bytes(data: bytes) -> list[int]:
    """Return bytes as groups; zeros fill the last one."""
    count = -(-len(data) * 8 // 5)
    return groups_of(int.from_bytes(data, "big") << count * 5 - len(data) * 8, count)


def bytes_of(groups: Sequence[int]) -> bytes:
    """Return the whole bytes that are in groups; what is left of the last group is dropped."""
    length = len(groups) * 5 // 8
    return (number_of(groups) >> len(groups) * 5 - length * 8).to_bytes(length, "big")


def filled_bytes_of(groups: Sequence[int]) -> bytes:
    """Return groups as bytes; zeros fill the last one."""
    length = -(-len(groups) * 5 // 8)
    return (number_of(groups) << length * 8 - len(groups) * 5).to_bytes(length, "big")


def _expanded(prefix: str) -> list[int]:
    codes = prefix.encode("ascii")
    return [*(code >> 5 for code in codes), 0, *(code & 31 for code in codes)]


def _polymod(values: Iterable[int]) -> int:
    checksum = 1
    for value in values:
        top = checksum >> 25
        checksum = (checksum & 0x1FFFFFF) << 5 ^ value
        for place, term in enumerate(_GENERATOR):
            if top >> place & 1:
                checksum ^= term
    return checksum
