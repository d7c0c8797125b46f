"""Amounts: the ledger's and the messages' are in msat, the API's in whole sat."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

MSAT_PER_SAT = 1_000
MAX_SAT = 21_000_000 * 100_000_000
"""All the bitcoin that there will ever be."""
MAX_MSAT = MAX_SAT * MSAT_PER_SAT

Sat = Annotated[int, Field(ge=1, le=MAX_SAT, description="In whole sat.", examples=[1_000])]
ShownSat = Annotated[
    int, Field(ge=0, description="In whole sat; what is less is not shown.", examples=[1_000])
]
ShownMsat = Annotated[int, Field(ge=0, description="In msat.", examples=[1_000_000])]


def msat(sat: int) -> int:
    """Return an amount of sat in msat."""
    return sat * MSAT_PER_SAT


def whole_sat(amount_msat: int) -> int:
    """Return the whole sat of an amount that is not negative."""
    return amount_msat // MSAT_PER_SAT
