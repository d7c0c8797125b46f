"""Post a CSV file, row by row, however large and whatever is in it.

The first line names the columns: ``operation``, ``owner_id`` and ``nonce``, and if wanted
``amount`` and ``metadata`` (a JSON object); a field of the last two may be empty. The nonces make
an import safe to repeat: a row that was posted before is replayed, and moves nothing.

``CsvRows`` reads and knows nothing of a ledger; ``import_rows`` posts.
"""

from __future__ import annotations

import asyncio
import csv
import re
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import msgspec

from shared_ledger.book import Outcome, Posted, Posting
from shared_ledger.errors import (
    ConfigurationError,
    InvalidPosting,
    LedgerOverloaded,
    LedgerUnavailable,
    Refusal,
)
from shared_ledger.ledger import Ledger

REQUIRED = ("operation", "owner_id", "nonce")
COLUMNS = (*REQUIRED, "amount", "metadata")
MAX_ROW_BYTES = 128 * 1024
# What a row over several lines may have at least, however many before it were broken.
MIN_ROW_BYTES = 1024
MAX_BATCH_BYTES = 4 * 1024 * 1024
BATCH = 1_000
BATCHES_IN_FLIGHT = 4
OVERLOADED_PAUSE_S = 0.05
INVALID_ROW = "invalid_row"

_BOM = b"\xef\xbb\xbf"
_WHOLE_NUMBER = re.compile(r"[+-]?[0-9]+")
# More digits than any 64-bit integer has; Python would take long for very many.
_MAX_DIGITS = 40

# The sentences of Python's own reader, for people who do not know it.
_CSV_PROBLEMS = (
    ("unexpected end of data", "has a quotation mark that is never closed"),
    ("expected after", "has text after a quoted field, or a quotation mark is missing"),
    ("new-line character", "has a carriage return in the middle"),
    ("field larger", "is too long, or has a quotation mark that is never closed"),
)


class Row(msgspec.Struct, frozen=True, gc=False):
    """A row that can be posted, and the line at which it begins."""

    line: int
    posting: Posting[Any]


class RefusedRow(msgspec.Struct, frozen=True, gc=False):
    """A row that was not posted: its line, its fields, and why: a code and a sentence.

    ``code`` is a refusal's, or ``invalid_row`` if what stands there is not a row at all.
    """

    line: int
    operation: str
    owner_id: str
    nonce: str
    amount: str
    code: str
    reason: str


class Summary(msgspec.Struct):
    """What has become of the rows so far."""

    rows: int = 0
    posted: int = 0
    replayed: int = 0
    refused: int = 0


class ImportStopped(LedgerUnavailable):
    """The database went away; ``line`` is that of the first row of which nothing is known."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(
            f"stopped at line {line}: {reason}. What was posted stays; run the same import again, "
            "it posts no row twice"
        )
        self.line = line


class CsvRows:
    """The rows of a CSV file, one at a time.

    A row that cannot be read is given as a ``RefusedRow`` and reading goes on at the next line, so
    that a quotation mark that is never closed costs its own row and no other. Memory does not grow
    with the file. ``bytes_read`` tells how far it is.

    Raises
    ------
    ConfigurationError
        If the first line does not name the columns.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._lines = _Lines(stream)
        self._records = self._split()
        self._columns: dict[str, int] = {}
        self._width = 0
        for line, fields, flaw in self._records:
            self._read_header(line, fields, flaw)
            return
        raise ConfigurationError("the file is empty: its first line must name the columns")

    @property
    def bytes_read(self) -> int:
        """How many bytes of the file have been read."""
        return self._lines.bytes_read

    def __iter__(self) -> Iterator[Row | RefusedRow]:
        for line, fields, flaw in self._records:
            yield self._row(line, fields, flaw)

    def _split(self) -> Iterator[tuple[int, list[str], str | None]]:
        """Split lines into fields: the line of each record, its fields, and what is wrong."""
        lines = self._lines
        reader = csv.reader(lines, strict=True)
        while True:
            lines.taken.clear()
            try:
                fields = next(reader)
            except StopIteration:
                return
            except (csv.Error, _TooLong) as error:
                # A new reader, for what this one keeps in mind after an error is not documented.
                reader = csv.reader(lines, strict=True)
                yield lines.taken[0].number, [], _csv_problem(error)
                lines.put_back(1)
                continue
            lines.recover()
            if fields:
                flaws = (line.flaw for line in lines.taken if line.flaw)
                yield lines.taken[0].number, fields, next(flaws, None)

    def _read_header(self, line: int, fields: list[str], flaw: str | None) -> None:
        if flaw is not None:
            raise ConfigurationError(f"line {line}, which must name the columns, {flaw}")
        names = [field.strip() for field in fields]
        problems = [f"unknown column {name!r}" for name in names if name not in COLUMNS]
        problems += [f"no column {name!r}" for name in REQUIRED if name not in names]
        problems += [f"{name!r} twice" for name in COLUMNS if names.count(name) > 1]
        if problems:
            raise ConfigurationError(
                f"line {line} must name the columns {', '.join(COLUMNS)}, separated by commas: "
                + ", ".join(problems)[:1_000]
            )
        self._columns = {name: index for index, name in enumerate(names)}
        self._width = len(names)

    def _row(self, line: int, fields: list[str], flaw: str | None) -> Row | RefusedRow:
        if flaw is None and len(fields) != self._width:
            flaw = f"has {len(fields)} columns, not {self._width}"
        if flaw is not None:
            return self._refused(line, fields, INVALID_ROW, f"the row {flaw}")
        try:
            return Row(line, self._posting(fields))
        except InvalidPosting as refusal:
            return self._refused(line, fields, refusal.code, str(refusal))

    def _posting(self, fields: list[str]) -> Posting[Any]:
        columns = self._columns
        amount = fields[columns["amount"]] if "amount" in columns else ""
        metadata = fields[columns["metadata"]] if "metadata" in columns else ""
        return Posting(
            fields[columns["operation"]],
            fields[columns["owner_id"]],
            fields[columns["nonce"]],
            read_amount(amount) if amount else None,
            _read_metadata(metadata) if metadata else None,
        )

    def _refused(self, line: int, fields: list[str], code: str, reason: str) -> RefusedRow:
        operation, owner_id, nonce, amount = (
            fields[self._columns[name]]
            if self._columns.get(name, len(fields)) < len(fields)
            else ""
            for name in ("operation", "owner_id", "nonce", "amount")
        )
        return RefusedRow(line, operation, owner_id, nonce, amount, code, reason)


def read_amount(text: str) -> int:
    """Read a whole number.

    Raises
    ------
    InvalidPosting
        If it is not digits with or without a sign, which is less than Python's ``int`` takes.
    """
    if not _WHOLE_NUMBER.fullmatch(text):
        shown = text if len(text) <= _MAX_DIGITS else f"{text[:_MAX_DIGITS]}…"
        raise InvalidPosting("amount", f"is a whole number such as 5 or -5, not {shown!r}")
    if len(text) > _MAX_DIGITS:
        raise InvalidPosting("amount", "is outside the range of a 64-bit integer")
    return int(text)


def import_rows(
    ledger: Ledger[Any],
    rows: CsvRows,
    *,
    batch: int = BATCH,
    on_refused: Callable[[RefusedRow], None] = lambda _: None,
    on_progress: Callable[[Summary], None] = lambda _: None,
) -> Summary:
    """Post rows in batches, several of which are under way at once; return what became of them.

    Rows of one owner are posted in the order of the file.

    Parameters
    ----------
    batch
        How many rows are posted in one call.
    on_refused
        Called with each row that was not posted, in the order of the file.
    on_progress
        Called after each batch.

    Raises
    ------
    ImportStopped
        If the database cannot be reached.
    """
    return asyncio.run(_Import(ledger, on_refused, on_progress).run(rows, batch))


_Batch = list[Row | RefusedRow]


class _Import:
    """Batches under way, oldest first."""

    def __init__(
        self,
        ledger: Ledger[Any],
        on_refused: Callable[[RefusedRow], None],
        on_progress: Callable[[Summary], None],
    ) -> None:
        self._ledger = ledger
        self._on_refused = on_refused
        self._on_progress = on_progress
        self._summary = Summary()
        self._under_way: deque[tuple[_Batch, asyncio.Task[list[Outcome]]]] = deque()

    async def run(self, rows: CsvRows, size: int) -> Summary:
        try:
            for batch in _batches(rows, size):
                await self._begin(batch)
                while len(self._under_way) >= BATCHES_IN_FLIGHT:
                    await self._finish()
            while self._under_way:
                await self._finish()
        finally:
            tasks = [task for _, task in self._under_way]
            await asyncio.gather(*tasks, return_exceptions=True)
        return self._summary

    async def _begin(self, batch: _Batch) -> None:
        postings = [row.posting for row in batch if isinstance(row, Row)]
        while True:
            task = asyncio.create_task(self._ledger.apost_batch(postings))
            # Let it queue the postings, or be turned away, before the next batch is: the queue
            # keeps the order of an owner's postings.
            await asyncio.sleep(0)
            if not task.done() or not isinstance(task.exception(), LedgerOverloaded):
                self._under_way.append((batch, task))
                return
            await asyncio.sleep(OVERLOADED_PAUSE_S)

    async def _finish(self) -> None:
        """Wait for the oldest batch and count what became of it."""
        batch, task = self._under_way.popleft()
        try:
            outcomes = iter(await task)
        except LedgerUnavailable as error:
            raise ImportStopped(batch[0].line, str(error)) from error
        summary = self._summary
        summary.rows += len(batch)
        for row in batch:
            if isinstance(row, RefusedRow):
                self._refuse(row)
                continue
            outcome = next(outcomes)
            if isinstance(outcome, Posted):
                if outcome.replayed:
                    summary.replayed += 1
                else:
                    summary.posted += 1
            else:
                self._refuse(_refused_by_ledger(row, outcome))
        self._on_progress(summary)

    def _refuse(self, row: RefusedRow) -> None:
        self._summary.refused += 1
        self._on_refused(row)


def _batches(rows: CsvRows, size: int) -> Iterator[_Batch]:
    """Group rows; a batch of long ones is shorter, so that memory stays bounded."""
    batch: _Batch = []
    began = rows.bytes_read
    for row in rows:
        batch.append(row)
        if len(batch) >= size or rows.bytes_read - began > MAX_BATCH_BYTES:
            yield batch
            batch, began = [], rows.bytes_read
    if batch:
        yield batch


def _refused_by_ledger(row: Row, refusal: Refusal) -> RefusedRow:
    posting = row.posting
    return RefusedRow(
        row.line,
        str(posting.operation),
        posting.owner_id,
        posting.nonce,
        "" if posting.amount is None else str(posting.amount),
        refusal.code,
        str(refusal),
    )


def _read_metadata(text: str) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(text)
    except (ValueError, RecursionError) as error:
        raise InvalidPosting("metadata", f"is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise InvalidPosting("metadata", 'is not a JSON object such as {"a": 1}')
    return value


def _csv_problem(error: Exception) -> str:
    sentence = str(error)
    for part, problem in _CSV_PROBLEMS:
        if part in sentence:
            return problem
    return f"cannot be read: {sentence}"


class _TooLong(Exception):
    """A row is longer than any that could be posted."""

    def __init__(self) -> None:
        super().__init__("field larger")


class _Line(msgspec.Struct, frozen=True, gc=False):
    """A line of the file, and what is wrong with it."""

    number: int
    text: str
    flaw: str | None = None
    too_long: bool = False


class _Lines:
    """The lines of a file for Python's CSV reader, which are remembered until the row is done."""

    def __init__(self, stream: BinaryIO) -> None:
        self.taken: list[_Line] = []
        self.bytes_read = 0
        self._stream = stream
        self._number = 0
        self._waiting: deque[_Line] = deque()
        self._taken_bytes = 0
        self._allowed_bytes = MAX_ROW_BYTES

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._waiting.popleft() if self._waiting else self._read()
        if not self.taken:
            self._taken_bytes = 0
        self.taken.append(line)
        self._taken_bytes += len(line.text)
        if line.too_long or (len(self.taken) > 1 and self._taken_bytes > self._allowed_bytes):
            raise _TooLong
        return line.text

    def put_back(self, kept: int) -> None:
        """Give the lines that were taken, but the first ``kept``, once more."""
        again = self.taken[kept:]
        if again:
            # In a file that is broken in every line, each would be read once more for all before
            # it. So the next row may span less.
            self._allowed_bytes = max(self._allowed_bytes // 2, MIN_ROW_BYTES)
            self._waiting.extendleft(reversed(again))

    def recover(self) -> None:
        """Let rows span a little more again, after a good one."""
        if self._allowed_bytes < MAX_ROW_BYTES:
            self._allowed_bytes += MIN_ROW_BYTES

    def _read(self) -> _Line:
        data = self._stream.readline(MAX_ROW_BYTES + 1)
        if not data:
            raise StopIteration
        self._number += 1
        self.bytes_read += len(data)
        if self._number == 1:
            data = data.removeprefix(_BOM)
        too_long = len(data) > MAX_ROW_BYTES
        if too_long:
            rest = data
            while rest and not rest.endswith(b"\n"):
                rest = self._stream.readline(MAX_ROW_BYTES)
                self.bytes_read += len(rest)
            data = data[:100]
        flaw = None
        try:
            text = data.decode()
        except UnicodeDecodeError:
            text = data.decode(errors="backslashreplace")
            flaw = "is not UTF-8"
        if "\0" in text:
            flaw = flaw or "holds a NUL byte"
        return _Line(self._number, text, flaw, too_long)
