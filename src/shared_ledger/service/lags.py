"""How far behind messages are, as metrics show it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from prometheus_client.core import GaugeMetricFamily
from sqlalchemy.ext.asyncio import AsyncConnection

from shared_ledger.messages import Lag, MessageTables, lag_of
from shared_ledger.service.measured import Question


def lags_of(tables: Iterable[MessageTables]) -> Question:
    """Return the question how far behind the messages of some contexts are."""
    by_context = {each.prefix: each for each in tables}

    async def measure(connection: AsyncConnection) -> list[GaugeMetricFamily]:
        lags = {context: await lag_of(connection, tables) for context, tables in by_context.items()}
        return [_gauge(name, about, value, lags) for name, about, value in _SHOWN]

    return measure


def _gauge(
    name: str, about: str, value: Callable[[Lag], float], lags: dict[str, Lag]
) -> GaugeMetricFamily:
    gauge = GaugeMetricFamily(f"shared_ledger_messages_{name}", about, labels=["context"])
    for context, lag in lags.items():
        gauge.add_metric([context], value(lag))
    return gauge


_SHOWN: Sequence[tuple[str, str, Callable[[Lag], float]]] = (
    (
        "unpublished",
        "Messages in the outbox that were not published yet.",
        lambda lag: lag.unpublished,
    ),
    (
        "oldest_unpublished_seconds",
        "How long the oldest of them has waited.",
        lambda lag: lag.oldest_unpublished_s,
    ),
    ("waiting", "Messages in the inbox that are to be handled.", lambda lag: lag.new),
    ("dead", "Messages in the inbox that wait for an operator.", lambda lag: lag.dead),
    (
        "oldest_unhandled_seconds",
        "How long the oldest of both has been there.",
        lambda lag: lag.oldest_unhandled_s,
    ),
)
