"""Importing CSV files: what is read of any bytes, and what becomes of the rows."""

from __future__ import annotations

import csv
import gc
import io
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from builders import add, posted
from shared_ledger import (
    ConfigurationError,
    Ledger,
    LedgerOverloaded,
    LedgerUnavailable,
    Outcome,
    Posted,
    Posting,
    SharedOperation,
)
from shared_ledger.imports import (
    BATCHES_IN_FLIGHT,
    MAX_BATCH_BYTES,
    MAX_ROW_BYTES,
    CsvRows,
    ImportStopped,
    RefusedRow,
    Row,
    Summary,
    import_rows,
    read_amount,
)

HEADER = b"operation,owner_id,nonce,amount,metadata\n"


def read(data: bytes) -> list[Row | RefusedRow]:
    return list(CsvRows(io.BytesIO(data)))


def rows_of(*lines: bytes) -> list[Row | RefusedRow]:
    return read(HEADER + b"\n".join(lines))


def only(*lines: bytes) -> Row | RefusedRow:
    (row,) = rows_of(*lines)
    return row


def reason_of(*lines: bytes) -> str:
    row = only(*lines)
    assert isinstance(row, RefusedRow), row
    return row.reason


def lines_posted(rows: list[Row | RefusedRow]) -> list[int]:
    return [row.line for row in rows if isinstance(row, Row)]


def test_a_row_becomes_a_posting_and_knows_its_line() -> None:
    row = only(b'CREDIT_ADD,user1,n1,10,"{""a"": 1}"')
    assert row == Row(2, Posting[Any]("CREDIT_ADD", "user1", "n1", 10, {"a": 1}))


def test_amount_and_metadata_may_be_empty() -> None:
    assert only(b"CREDIT_ADD,user1,n1,,") == Row(2, Posting[Any]("CREDIT_ADD", "user1", "n1"))


def test_columns_may_come_in_any_order_and_the_optional_ones_be_left_out() -> None:
    rows = read(b"nonce,operation,owner_id\nn1,CREDIT_ADD,user1")
    assert rows == [Row(2, Posting[Any]("CREDIT_ADD", "user1", "n1"))]


@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
def test_a_byte_order_mark_and_either_line_ending_are_read(ending: bytes) -> None:
    rows = read(b"\xef\xbb\xbf" + HEADER.strip() + ending + b"CREDIT_ADD,user1,n1,," + ending)
    assert lines_posted(rows) == [2]


def test_blank_lines_are_no_rows_but_are_counted() -> None:
    assert lines_posted(rows_of(b"", b"CREDIT_ADD,user1,n1,,", b"", b"CREDIT_ADD,user1,n2,,")) == [
        3,
        5,
    ]


def test_a_quoted_field_may_span_lines() -> None:
    row, after = rows_of(b'CREDIT_ADD,user1,n1,,"{""a"":', b'1}"', b"CREDIT_ADD,user1,n2,,")
    assert row == Row(2, Posting[Any]("CREDIT_ADD", "user1", "n1", None, {"a": 1}))
    assert after.line == 4


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        (b"", "empty"),
        (b"\n\n", "empty"),
        (b"operation,owner_id,nonce,colour\n", "unknown column 'colour'"),
        (b"operation,owner_id\n", "no column 'nonce'"),
        (b"operation,owner_id,nonce,nonce\n", "'nonce' twice"),
        (b"operation;owner_id;nonce\n", "separated by commas"),
        (b"CREDIT_ADD,user1,n1\n", "must name the columns"),
        (HEADER.decode().encode("utf-16"), "not UTF-8"),
        (b'"operation\n', "never closed"),
        (b"x" * (MAX_ROW_BYTES + 1), "too long"),
    ],
)
def test_a_first_line_that_does_not_name_the_columns_is_refused(
    header: bytes, problem: str
) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        CsvRows(io.BytesIO(header))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"CREDIT_ADD,user1,n1,1.5,", "'1.5'"),
        (b"CREDIT_ADD,user1,n1,abc,", "'abc'"),
        (b"CREDIT_ADD,user1,n1,1_0,", "'1_0'"),
        (b"CREDIT_ADD,user1,n1, 10,", "' 10'"),
        ("CREDIT_ADD,user1,n1,٣,".encode(), "amount is a whole number"),
        (b"CREDIT_ADD,user1,n1," + b"9" * 5_000 + b",", "outside the range"),
        (b"CREDIT_ADD,user1,n1,,{", "metadata is not JSON"),
        (b"CREDIT_ADD,user1,n1,,[1]", "metadata is not a JSON object"),
        (b"CREDIT_ADD,user1,n1,," + b"[" * 50_000, "metadata is not JSON"),
        (b"CREDIT_ADD,user1,n1,", "the row has 4 columns, not 5"),
        (b"CREDIT_ADD,user1,n1,,,", "the row has 6 columns, not 5"),
        (b"CREDIT_ADD,us\xffer1,n1,,", "the row is not UTF-8"),
        (b"CREDIT_ADD,us\0er1,n1,,", "the row holds a NUL byte"),
        (b'CREDIT_ADD,"user1,n1,,', "the row has a quotation mark that is never closed"),
        (b'CREDIT_ADD,"us"er1,n1,,', "the row has text after a quoted field"),
        (b"CREDIT_ADD,us\rer1,n1,,", "the row has a carriage return in the middle"),
        (b"CREDIT_ADD," + b"x" * MAX_ROW_BYTES + b",n1,,", "the row is too long"),
    ],
)
def test_a_bad_row_is_reported_and_the_next_is_read(line: bytes, reason: str) -> None:
    bad, good = rows_of(line, b"CREDIT_ADD,user1,good,,")
    assert isinstance(bad, RefusedRow)
    assert bad.line == 2
    assert reason in bad.reason
    assert good == Row(3, Posting[Any]("CREDIT_ADD", "user1", "good"))


def test_a_bad_row_is_reported_with_its_fields() -> None:
    assert only(b"CREDIT_ADD,user1,n1,1.5,") == RefusedRow(
        2,
        "CREDIT_ADD",
        "user1",
        "n1",
        "1.5",
        "invalid_posting",
        "amount is a whole number such as 5 or -5, not '1.5'",
    )
    row = only(b"CREDIT_ADD,us\xffer1")
    assert isinstance(row, RefusedRow)
    assert (row.operation, row.owner_id, row.nonce) == ("CREDIT_ADD", "us\\xffer1", "")
    assert row.code == "invalid_row"


def test_an_open_quotation_mark_costs_its_own_row_and_no_other() -> None:
    good = [b"CREDIT_ADD,user1,n%d,," % number for number in range(20_000)]
    rows = rows_of(*good[:7], b'CREDIT_ADD,"user1,bad,,', *good[7:])
    assert [row.line for row in rows if isinstance(row, RefusedRow)] == [9]
    assert len(lines_posted(rows)) == 20_000


def test_two_open_quotation_marks_do_not_hide_what_is_between_them() -> None:
    rows = rows_of(
        b'CREDIT_ADD,"user1,bad1,,',
        b"CREDIT_ADD,user1,n1,,",
        b'CREDIT_ADD,"user1,bad2,,',
        b"CREDIT_ADD,user1,n2,,",
    )
    assert lines_posted(rows) == [3, 5]


def test_a_line_that_is_too_long_behind_an_open_quotation_mark_is_a_row_of_its_own() -> None:
    rows = rows_of(
        b'CREDIT_ADD,"user1,bad,,',
        b"CREDIT_ADD,user1,n1,,",
        b"y" * 3 * MAX_ROW_BYTES,
        b"CREDIT_ADD,user1,n2,,",
    )
    assert [(row.line, isinstance(row, Row)) for row in rows] == [
        (2, False),
        (3, True),
        (4, False),
        (5, True),
    ]


def test_a_row_of_many_short_fields_over_many_lines_is_too_long_too() -> None:
    bad, *rest = rows_of(b'"1\n",' * MAX_ROW_BYTES)
    assert isinstance(bad, RefusedRow)
    assert (bad.line, "is too long" in bad.reason) == (2, True)
    assert rest


def test_a_file_that_is_broken_in_every_line_is_not_read_for_ever() -> None:
    # Each line begins a row that goes on to the end, if it is let.
    began = time.monotonic()
    rows = rows_of(*[b'a","'] * 50_000)
    assert len(rows) > 40_000
    assert time.monotonic() - began < 30


def test_a_long_row_after_a_few_broken_ones_is_read() -> None:
    value = b'{""a"":\n' + b" \n" * 4_000 + b"1}"
    *bad, good = rows_of(*[b'CREDIT_ADD,"user1,n,,'] * 3, b'CREDIT_ADD,user1,n1,,"' + value + b'"')
    assert all(isinstance(row, RefusedRow) for row in bad)
    assert isinstance(good, Row)


def test_how_far_it_is_is_known_in_bytes() -> None:
    data = HEADER + b"CREDIT_ADD,user1,n1,,\n" + b"z" * 2 * MAX_ROW_BYTES + b"\n"
    rows = CsvRows(io.BytesIO(data))
    assert rows.bytes_read == len(HEADER)
    list(rows)
    assert rows.bytes_read == len(data)


def test_reading_takes_no_more_memory_for_a_longer_file() -> None:
    class Endless(io.RawIOBase):
        """Three million bytes without a line break, a piece at a time."""

        largest = 0
        left = 3_000_000

        def readline(self, size: int | None = -1) -> bytes:
            assert size is not None
            assert size > 0
            if self.left == 3_000_000:
                self.left -= 1
                return HEADER
            piece = min(size, self.left)
            self.largest = max(self.largest, piece)
            self.left -= piece
            return b"x" * piece

    stream = Endless()
    (row,) = CsvRows(stream)  # type: ignore[arg-type]  # all that is needed of a file
    assert isinstance(row, RefusedRow)
    assert len(row.owner_id) <= MAX_ROW_BYTES
    assert stream.largest <= MAX_ROW_BYTES + 1


@given(st.binary(max_size=300))
@example(b'"\n"')
@example(b'"' * 7)
@example(b"\r\r\n\0,\xff")
def test_any_bytes_give_rows_or_refused_rows(data: bytes) -> None:
    rows = read(HEADER + data)
    lines = [row.line for row in rows]
    assert lines == sorted(set(lines))
    assert all(1 < line <= 2 + data.count(b"\n") for line in lines)


@given(st.binary(max_size=100))
def test_any_bytes_as_a_file_raise_nothing_but_a_configuration_error(data: bytes) -> None:
    with suppress(ConfigurationError):
        read(data)


@given(st.lists(st.binary(max_size=40).filter(lambda line: b'"' not in line), max_size=6))
def test_what_is_between_good_rows_does_not_hide_them(garbage: list[bytes]) -> None:
    good = [b"CREDIT_ADD,user1,good%d,," % number for number in range(len(garbage))]
    rows = rows_of(*(line for pair in zip(garbage, good, strict=True) for line in pair))
    read_well = [row.posting.nonce for row in rows if isinstance(row, Row)]
    assert [nonce for nonce in read_well if nonce.startswith("good")] == [
        f"good{number}" for number in range(len(garbage))
    ]


@given(
    st.lists(
        st.tuples(
            *[st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))] * 3
        ),
        max_size=5,
    )
)
def test_what_a_csv_writer_wrote_is_read_as_it_was(texts: list[tuple[str, str, str]]) -> None:
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(["operation", "owner_id", "nonce"])
    writer.writerows(texts)
    rows = read(file.getvalue().encode())
    assert [
        (row.posting.operation, row.posting.owner_id, row.posting.nonce)
        for row in rows
        if isinstance(row, Row)
    ] == texts


@given(st.integers())
def test_every_whole_number_of_sensible_length_is_an_amount(number: int) -> None:
    if abs(number) < 10**38:
        assert read_amount(str(number)) == number


def csv_of(*rows: Sequence[object]) -> CsvRows:
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(["operation", "owner_id", "nonce", "amount"])
    writer.writerows(rows)
    return CsvRows(io.BytesIO(file.getvalue().encode()))


def adds(count: int, *, owners: int = 7) -> CsvRows:
    return csv_of(*(("CREDIT_ADD", f"o{n % owners}", f"n{n}", "") for n in range(count)))


@pytest.mark.parametrize("batch", [1, 7, 1_000])
def test_rows_are_posted_and_counted(ledger: Ledger[SharedOperation], batch: int) -> None:
    assert import_rows(ledger, adds(50), batch=batch) == Summary(rows=50, posted=50)
    assert sum(ledger.balance(f"o{number}").balance for number in range(7)) == 500


def test_an_import_that_is_run_again_moves_nothing(ledger: Ledger[SharedOperation]) -> None:
    import_rows(ledger, adds(20))
    assert import_rows(ledger, adds(30), batch=8) == Summary(rows=30, posted=10, replayed=20)
    assert sum(ledger.balance(f"o{number}").balance for number in range(7)) == 300


def test_refused_rows_are_given_in_the_order_of_the_file(ledger: Ledger[SharedOperation]) -> None:
    refused: list[RefusedRow] = []
    summary = import_rows(
        ledger,
        csv_of(
            ("CREDIT_SPEND", "poor", "n1", ""),
            ("CREDIT_ADD", "o1", "n2", "1.5"),
            ("CREDIT_ADD", "o1", "n3", 10),
            ("NOPE", "o1", "n4", 7),
            ("CREDIT_ADD", "@o1", "n5", ""),
            ("CREDIT_ADD", "o1", "", ""),
            ("CREDIT_ADD", "o" * 256, "n6", ""),
        ),
        batch=2,
        on_refused=refused.append,
    )
    assert summary == Summary(rows=7, posted=1, refused=6)
    assert [(row.line, row.code) for row in refused] == [
        (2, "insufficient_credits"),
        (3, "invalid_posting"),
        (5, "invalid_posting"),
        (6, "invalid_posting"),
        (7, "invalid_posting"),
        (8, "invalid_posting"),
    ]
    assert refused[0].reason == "poor has 0 credits available, 1 required"
    assert refused[2].amount == "7"


def test_progress_is_told_after_each_batch(ledger: Ledger[SharedOperation]) -> None:
    seen: list[int] = []
    import_rows(ledger, adds(5), batch=2, on_progress=lambda summary: seen.append(summary.rows))
    assert seen == [2, 4, 5]


def test_rows_of_one_owner_are_posted_in_the_order_of_the_file(
    ledger: Ledger[SharedOperation],
) -> None:
    # Never more than enough: a spend that overtook its credits would be refused.
    rows = [
        ("CREDIT_ADD" if n % 11 == 0 else "CREDIT_SPEND", f"o{owner}", f"n{n}", "")
        for n in range(110)
        for owner in range(5)
    ]
    assert import_rows(ledger, csv_of(*rows), batch=3) == Summary(rows=550, posted=550)


class Flaky:
    """A ledger that is overloaded or unreachable when it is told to be."""

    def __init__(self, ledger: Ledger[Any], *errors: Exception | None) -> None:
        self.ledger = ledger
        self.errors = list(errors)
        self.calls = 0

    async def apost_batch(self, postings: Sequence[Posting[SharedOperation]]) -> list[Outcome]:
        self.calls += 1
        error = self.errors.pop(0) if self.errors else None
        if error is not None:
            raise error
        return await self.ledger.apost_batch(postings)


def test_an_overloaded_ledger_is_waited_for(ledger: Ledger[SharedOperation]) -> None:
    flaky: Any = Flaky(ledger, None, LedgerOverloaded(), LedgerOverloaded())
    assert import_rows(flaky, adds(40), batch=10) == Summary(rows=40, posted=40)
    assert flaky.calls == 6


def test_a_batch_larger_than_the_queue_is_posted(
    ledger: Ledger[SharedOperation], schema: str
) -> None:
    with Ledger(ledger.application, ledger.url, schema=schema, max_queue=5) as small:
        assert import_rows(small, adds(200), batch=20) == Summary(rows=200, posted=200)


def test_a_few_batches_are_under_way_at_once(ledger: Ledger[SharedOperation]) -> None:
    class Counting:
        now = most = 0

        async def apost_batch(self, postings: Sequence[Posting[SharedOperation]]) -> list[Outcome]:
            self.now += 1
            self.most = max(self.most, self.now)
            outcomes = await ledger.apost_batch(postings)
            self.now -= 1
            return outcomes

    counting: Any = Counting()
    import_rows(counting, adds(400), batch=10)
    assert 1 < counting.most <= BATCHES_IN_FLIGHT


def test_batches_of_long_rows_are_shorter(ledger: Ledger[SharedOperation]) -> None:
    long = "x" * (MAX_ROW_BYTES - 100)
    counted: list[int] = []
    rows = csv_of(*(("CREDIT_ADD", long, f"n{n}", "") for n in range(100)))
    import_rows(ledger, rows, on_progress=lambda summary: counted.append(summary.rows))
    assert len(counted) > 1
    assert counted[0] <= MAX_BATCH_BYTES // MAX_ROW_BYTES + 2


def test_a_database_that_is_gone_stops_it_and_tells_the_line(
    ledger: Ledger[SharedOperation], caplog: pytest.LogCaptureFixture
) -> None:
    flaky: Any = Flaky(ledger, None, LedgerUnavailable("gone"), LedgerUnavailable("gone"))
    done: list[Summary] = []
    with pytest.raises(ImportStopped, match=r"stopped at line 12: gone\..*no row twice") as stopped:
        import_rows(flaky, adds(40), batch=10, on_progress=done.append)
    assert stopped.value.line == 12
    assert done[-1].rows == 10
    gc.collect()
    assert not caplog.records
    # Safe to repeat, as it says.
    summary = import_rows(ledger, adds(40), batch=10)
    assert (summary.rows, summary.posted + summary.replayed) == (40, 40)


def test_an_interrupted_import_leaves_what_was_posted(ledger: Ledger[SharedOperation]) -> None:
    def interrupt(_: Summary) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_rows(ledger, adds(100), batch=10, on_progress=interrupt)
    assert isinstance(posted(ledger.post_batch([add("o0", "n0")])[0]), Posted)
    assert import_rows(ledger, adds(100)).posted < 100
