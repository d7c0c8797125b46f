"""Numbers that metrics show and the database knows: an application's own, and the book's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from prometheus_client.core import GaugeMetricFamily
from sqlalchemy.ext.asyncio import AsyncConnection

from shared_ledger.schema import book_tables
from shared_ledger.service.measured import Question


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Figure:
    """A gauge that is read from the database every few seconds while metrics are asked for.

    Attributes
    ----------
    name
        Of the metric, with its unit at its end; ``shared_ledger_`` is put before it.
    about
        What it is, as a sentence.
    labels
        What its series differ by.
    select
        One row for each series: the labels as text, in order, and the number. Few, and found by an
        index: it is asked again and again. Tables without a schema are those beside the book's.
    """

    name: str
    about: str
    labels: Sequence[str] = ()
    select: sa.Executable


def shown(figure: Figure) -> Question:
    """Return the question that a figure answers."""

    async def measure(connection: AsyncConnection) -> list[GaugeMetricFamily]:
        gauge = GaugeMetricFamily(
            f"shared_ledger_{figure.name}", figure.about, labels=figure.labels
        )
        for *labels, value in await connection.execute(figure.select):
            gauge.add_metric(labels, value)
        return [gauge]

    return measure


def system_accounts(schema: str) -> Figure:
    """Return what the system accounts of a book have: as many as its operations name."""
    accounts = book_tables(schema).accounts
    # Their names begin with '@', which comes right before 'A'.
    is_system = sa.and_(accounts.c.owner_id >= "@", accounts.c.owner_id < "A")
    return Figure(
        name="system_account_balance",
        about="What a system account has, in units of the asset; all together owe it to owners.",
        labels=("account", "asset"),
        select=sa.select(accounts.c.owner_id, accounts.c.asset, accounts.c.posted).where(is_system),
    )
