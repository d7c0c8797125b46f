"""What the commands write: tables for people, one JSON document for programs, errors on one line.

Whatever came from outside is shown as it is: never as markup, never as an order to the terminal.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from rich.box import Box
    from rich.console import Console
    from rich.table import Table

Justify = Literal["left", "right"]

# Wide enough that nothing is wrapped or cut for a program that reads a table.
_PIPE_WIDTH = 10_000
# What is between two columns, and at both ends of a row.
_GAP = 2
_JSON_UNPRINTABLE = re.compile(r"[^\x20-\x7e]")


def plain(text: str) -> str:
    """Return the text with everything that cannot be printed, a line break too, made visible."""
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )


def console(*, stderr: bool = False) -> Console:
    """Return a console on the present standard output, or standard error."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(
        stderr=stderr,
        markup=False,
        emoji=False,
        highlight=False,
        width=None if stream.isatty() else _PIPE_WIDTH,
    )


def print_table(
    columns: Sequence[tuple[str, Justify]],
    rows: Iterable[Sequence[object]],
    *,
    spare: Sequence[str] = (),
) -> None:
    """Print rows under headings; a long cell is folded, never cut.

    On a terminal that is too narrow, the columns with the ``spare`` headings are left out before
    anything is folded, the first of them first.
    """
    from rich.table import Table

    cells = [[shown(cell) for cell in row] for row in rows]
    left_out = _left_out([heading for heading, _ in columns], cells, spare)
    kept = [place for place, (heading, _) in enumerate(columns) if heading not in left_out]
    print_block(
        _filled(
            Table(box=_lines(), pad_edge=False, collapse_padding=True),
            [columns[place] for place in kept],
            [[row[place] for place in kept] for row in cells],
        )
    )
    if left_out:
        names = " and ".join(heading.removesuffix(" (UTC)").lower() for heading in left_out)
        print_line(f"A wider terminal shows {names} too, and so does --json.", style="dim")


def print_facts(title: str, facts: Iterable[tuple[str, object]]) -> None:
    """Print a title, and one fact under another."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts:
        table.add_row(Text(f"  {name}"), Text(shown(value)))
    print_line(title, style="bold")
    print_block(table)


def print_block(table: Table) -> None:
    """Print a table, for programs and files without the spaces that fill its last column."""
    target = console()
    if target.is_terminal:
        target.print(table)
        return
    with target.capture() as capture:
        target.print(table)
    for line in capture.get().splitlines():
        sys.stdout.write(f"{line.rstrip()}\n")
    # Also of a command that goes on for days, as `serve` does.
    sys.stdout.flush()


def second(at: datetime) -> str:
    """Return a time in UTC to the second."""
    return at.astimezone(UTC).replace(tzinfo=None).isoformat(" ", "seconds")


def exact(at: datetime) -> str:
    """Return a time in UTC with all that is known of it."""
    return f"{at.astimezone(UTC).replace(tzinfo=None).isoformat(' ', 'microseconds')} UTC"


def shown(value: object) -> str:
    """Return a value as people read it."""
    return "" if value is None else plain(str(value))


def print_line(text: str, *, style: str = "") -> None:
    """Print one line, however long."""
    from rich.text import Text

    console().print(Text(plain(text), style=style), soft_wrap=True)


def print_json(value: object) -> None:
    """Print one JSON document on one line, in UTF-8."""
    import msgspec

    text = msgspec.json.encode(value).decode()
    if not text.isprintable():
        text = _JSON_UNPRINTABLE.sub(_escaped, text)
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode() + b"\n")
    sys.stdout.buffer.flush()


def print_error(sentence: str) -> None:
    """Print ``error: …`` on one line of standard error."""
    from rich.text import Text

    line = plain(" ".join(sentence.split()))
    console(stderr=True).print(Text.assemble(("error:", "bold red"), f" {line}"), soft_wrap=True)


def _filled(
    table: Table, columns: Sequence[tuple[str, Justify]], rows: Iterable[Sequence[str]]
) -> Table:
    from rich.text import Text

    for heading, justify in columns:
        # Numbers stay whole: a wrapped one reads as two.
        table.add_column(heading, justify=justify, overflow="fold", no_wrap=justify == "right")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _left_out(
    headings: Sequence[str], rows: Sequence[Sequence[str]], spare: Sequence[str]
) -> list[str]:
    """Choose the headings of columns for which there is no room."""
    from rich.cells import cell_len

    widths = {
        heading: max(map(cell_len, (heading, *(row[place] for row in rows))))
        for place, heading in enumerate(headings)
    }
    room = console().width
    left_out: list[str] = []
    for heading in spare:
        if sum(widths.values()) + _GAP * len(widths) <= room:
            break
        del widths[heading]
        left_out.append(heading)
    return left_out


def _lines() -> Box:
    from rich import box

    return box.SIMPLE_HEAD


def _escaped(match: re.Match[str]) -> str:
    letter = match[0]
    if letter.isprintable():
        return letter
    # JSON writes what is beyond the basic plane as two halves.
    units = letter.encode("utf-16-be")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))
