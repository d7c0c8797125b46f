"""The command that posts a CSV file."""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from shared_ledger.cli.options import ApplicationOption, JsonOption, open_ledger
from shared_ledger.cli.output import console, print_facts, print_json, print_line, print_table

if TYPE_CHECKING:
    from shared_ledger.imports import CsvRows, RefusedRow, Summary

SHOWN = 20
SHOWN_CHARACTERS = 40
MAX_BATCH = 50_000
STDIN = "-"


def import_file(
    file: Annotated[str, typer.Argument(metavar="FILE.csv", help="- is standard input.")],
    batch: Annotated[
        int, typer.Option(min=1, max=MAX_BATCH, metavar="N", help="Rows in one batch.")
    ] = 1_000,
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE.csv", show_default=False, help="Write all refused rows there."),
    ] = None,
    application: ApplicationOption = None,
    json: JsonOption = False,
) -> None:
    """Post a CSV file: operation, owner_id, nonce, amount, metadata.

    The first line names the columns, in any order; amount and metadata may be left out. Run it
    again after an interruption: no row is posted twice.
    """
    from shared_ledger.imports import CsvRows, import_rows

    first: list[RefusedRow] = []
    with ExitStack() as stack:
        stream = stack.enter_context(_opened(file))
        write = stack.enter_context(_report(report, stream))
        rows = CsvRows(stream)
        ledger = stack.enter_context(open_ledger(application))
        show = stack.enter_context(_progress(rows, _size(stream)))

        def refused(row: RefusedRow) -> None:
            if len(first) < SHOWN:
                first.append(row)
            write(row)

        began = time.monotonic()
        summary = import_rows(ledger, rows, batch=batch, on_refused=refused, on_progress=show)
        seconds = time.monotonic() - began
    if json:
        print_json(_document(summary, seconds, first))
    else:
        _show(summary, seconds, first, report)
    if summary.refused:
        raise typer.Exit(1)


@contextmanager
def _opened(file: str) -> Iterator[BinaryIO]:
    if file == STDIN:
        yield sys.stdin.buffer
        return
    with Path(file).open("rb") as stream:
        yield stream


def _size(stream: BinaryIO) -> int | None:
    """Return how long the file is, if it is one."""
    try:
        found = os.fstat(stream.fileno())
    except OSError:
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


@contextmanager
def _report(path: Path | None, stream: BinaryIO) -> Iterator[Callable[[RefusedRow], None]]:
    """Open the report of the refused rows; nothing is written without one."""
    if path is None:
        yield lambda _: None
        return
    import csv

    from shared_ledger.imports import RefusedRow

    with suppress(OSError):
        if os.path.samestat(path.stat(), os.fstat(stream.fileno())):
            raise typer.BadParameter("is the file that is imported", param_hint="'--report'")
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        names = RefusedRow.__struct_fields__
        writer.writerow(names)
        yield lambda row: writer.writerow([getattr(row, name) for name in names])


@contextmanager
def _progress(rows: CsvRows, total: int | None) -> Iterator[Callable[[Summary], None]]:
    """Show a bar on a terminal's standard error."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
    from rich.progress import TimeRemainingColumn as RemainingColumn

    with Progress(
        TextColumn("Importing"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[summary].rows} rows"),
        TextColumn("{task.fields[speed]:.0f} rows/s", style="dim"),
        RemainingColumn(),
        console=console(stderr=True),
        transient=True,
    ) as progress:
        from shared_ledger.imports import Summary

        task = progress.add_task("", total=total, summary=Summary(), speed=0.0)
        began = time.monotonic()

        def show(summary: Summary) -> None:
            speed = summary.rows / max(time.monotonic() - began, 0.001)
            progress.update(task, completed=rows.bytes_read, summary=summary, speed=speed)

        yield show


def _document(summary: Summary, seconds: float, first: list[RefusedRow]) -> dict[str, object]:
    return {
        "rows": summary.rows,
        "posted": summary.posted,
        "replayed": summary.replayed,
        "refused": summary.refused,
        "seconds": round(seconds, 3),
        "rows_per_second": round(summary.rows / max(seconds, 0.001)),
        "first_refused": first,
    }


def _show(summary: Summary, seconds: float, first: list[RefusedRow], report: Path | None) -> None:
    print_facts(
        "Imported",
        [
            ("rows", summary.rows),
            ("posted", summary.posted),
            ("replayed", summary.replayed),
            ("refused", summary.refused),
            ("seconds", f"{seconds:.1f}"),
            ("rows/s", round(summary.rows / max(seconds, 0.001))),
        ],
    )
    if not first:
        return
    print_line("")
    print_table(
        [
            ("Line", "right"),
            ("Operation", "left"),
            ("Owner", "left"),
            ("Nonce", "left"),
            ("Amount", "left"),
            ("Reason", "left"),
        ],
        [
            (
                row.line,
                *map(_clipped, (row.operation, row.owner_id, row.nonce, row.amount)),
                row.reason,
            )
            for row in first
        ],
    )
    more = summary.refused - len(first)
    if report is not None:
        print_line(f"All {summary.refused} refused rows are in {report}")
    elif more:
        print_line(f"… and {more} more; --report FILE.csv writes them all")


def _clipped(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"
