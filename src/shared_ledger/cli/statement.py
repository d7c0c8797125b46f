"""The command that shows an owner's statement."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from shared_ledger.cli.entries import print_entries, signed
from shared_ledger.cli.options import (
    ApplicationOption,
    AssetOption,
    JsonOption,
    OwnerArgument,
    open_ledger,
)
from shared_ledger.cli.output import print_json, print_line, print_table, second
from shared_ledger.cli.values import moment
from shared_ledger.operations import CREDITS

if TYPE_CHECKING:
    from shared_ledger.book import Statement

_LAST = datetime.max.replace(tzinfo=UTC)
_INSTANT = timedelta(microseconds=1)


def statement(
    owner_id: OwnerArgument,
    *,
    start: Annotated[
        datetime | None,
        typer.Option(
            "--from",
            metavar="TIME",
            parser=moment,
            show_default=False,
            help="The first moment: 2026-11-01 (its midnight in UTC) or 2026-11-01T12:00:00Z. "
            "Without it, the month's beginning.",
        ),
    ] = None,
    end: Annotated[
        datetime | None,
        typer.Option(
            "--to",
            metavar="TIME",
            parser=moment,
            show_default=False,
            help="Up to but not including this moment: --to 2026-11-30 ends at its midnight, "
            "before that day. Without it, the month's end.",
        ),
    ] = None,
    asset: AssetOption = CREDITS,
    csv: Annotated[bool, typer.Option("--csv", help="CSV, for spreadsheets.")] = False,
    application: ApplicationOption = None,
    json: JsonOption = False,
) -> None:
    """Show an owner's entries of a period, and their sums.

    By default the present month, in UTC.
    """
    if csv and json:
        raise typer.BadParameter("stands beside --json", param_hint="'--csv'")
    start, end = _period(start, end)
    with open_ledger(application) as ledger:
        found = ledger.statement(owner_id, start, end, asset=asset)
    if json:
        print_json(found)
    elif csv:
        _write_csv(found)
    else:
        _show(found)


def _period(start: datetime | None, end: datetime | None) -> tuple[datetime, datetime]:
    """Complete a period: to the month of what is given, else to the present one."""
    if end is None:
        end = _month_after(max(datetime.now(UTC), start or datetime.min.replace(tzinfo=UTC)))
    if start is None:
        # Just before the end, which may be the first moment of the month after.
        start = max(end, datetime.min.replace(tzinfo=UTC) + _INSTANT) - _INSTANT
        start = start.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    if end < start:
        raise typer.BadParameter("is before --from", param_hint="'--to'")
    return start, end


def _month_after(at: datetime) -> datetime:
    """Return when the next month begins."""
    if (at.year, at.month) == (_LAST.year, _LAST.month):
        return _LAST
    later = at.replace(day=28) + timedelta(days=4)
    return later.replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def _write_csv(found: Statement) -> None:
    from shared_ledger.statements import statement_csv

    sys.stdout.flush()
    for line in statement_csv(found):
        sys.stdout.buffer.write(line.encode())
    sys.stdout.buffer.flush()


def _show(found: Statement) -> None:
    print_line(f"{found.owner_id}, {found.asset}", style="bold")
    print_line(f"from {second(found.start)} up to {second(found.end)} UTC, not including it")
    print_entries(
        found.lines,
        before=[(second(found.start), "", "opening", "", "", found.opening, "", "")],
        after=[(second(found.end), "", "closing", "", "", found.closing, "", "")],
    )
    if not found.totals:
        return
    print_table(
        [("App", "left"), ("Operation", "left"), ("Entries", "right"), ("Total", "right")],
        [(total.app, total.operation, total.count, signed(total.amount)) for total in found.totals],
    )
