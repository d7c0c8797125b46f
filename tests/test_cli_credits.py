"""The commands for credits that are held, moved, taken back or expire, and for statements."""

from __future__ import annotations

import csv
import io
import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rich.console import Console

from builders import query
from conftest import Clock
from shared_ledger import Entry, Statement
from shared_ledger.cli import output
from shared_ledger.cli.entries import what
from shared_ledger.cli.statement import _period
from shared_ledger.statements import statement_csv
from test_cli import Run, document, failed, folder, invoke  # noqa: F401  # a fixture

OWN = """
from datetime import timedelta
from shared_ledger import Application, BaseLedgerOperation, Rule

class OwnOperation(BaseLedgerOperation):
    DAILY_REWARD = "DAILY_REWARD"
    SIGNUP_CREDIT = "SIGNUP_CREDIT"
    CREDIT_SPEND = "CREDIT_SPEND"
    CREDIT_ADD = "CREDIT_ADD"
    BOOKING = "BOOKING"
    BONUS = "BONUS"

RULES = {
    OwnOperation.BOOKING: Rule.variable(minimum=-50, maximum=-1),
    OwnOperation.BONUS: Rule.variable(minimum=1, maximum=50, expires_in=timedelta(days=30)),
}
APP = Application("own", OwnOperation, rules=RULES)
"""


@pytest.fixture
def run(
    folder: Path,  # noqa: F811  # the fixture
    clock: Clock,
    schema: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Run:
    """Run a command of an application with bookings and a bonus, on a new book, under ``clock``."""
    (folder / f"own_{schema}.py").write_text(OWN)
    monkeypatch.setenv("DATABASE_URL", clock.url)
    monkeypatch.setenv("SHARED_LEDGER_SCHEMA", schema)
    monkeypatch.setenv("SHARED_LEDGER_APPLICATION", f"own_{schema}:APP")
    assert invoke("migrate").exit_code == 0
    return invoke


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let tables believe that they are printed on a terminal of 80 columns."""
    monkeypatch.setattr(output, "console", lambda **_: Console(width=80, highlight=False))


def lines(text: str) -> list[list[str]]:
    """The cells of a table's rows."""
    return [re.split(r" {2,}", line.strip()) for line in text.splitlines() if line.strip()]


def give(run: Run, owner_id: str, *amounts: int, days: int = 30) -> None:
    """Give the owner credits that expire."""
    for amount in amounts:
        document(
            run("post", "BONUS", owner_id, f"--amount={amount}", f"--expires-in={days}d", "--json")
        )


# Posting what expires, and asking before.


def test_post_with_an_expiry_and_a_priority_shows_both(run: Run, clock: Clock) -> None:
    result = run("post", "CREDIT_ADD", "u", "--expires-in", "12h", "--priority", "7")
    expiry = clock.now() + timedelta(hours=12)
    assert f"expires    {expiry:%Y-%m-%d %H:%M:%S.%f} UTC, priority 7" in result.stdout
    entry = document(run("post", "CREDIT_ADD", "u", "--expires-in", "90", "--json"))
    assert entry["priority"] == 0
    assert datetime.fromisoformat(entry["expires_on"]) == clock.now() + timedelta(seconds=90)


def test_a_dry_run_shows_what_would_be_written_and_writes_nothing(run: Run) -> None:
    give(run, "u", 8)
    run("post", "CREDIT_ADD", "u")
    result = run("post", "BOOKING", "u", "--amount", "-9", "--dry-run")
    assert result.stdout.startswith("Would post; nothing was written\n")
    assert re.search(r"amount +-9 credits to @spent\s+balance +9\s+available +9", result.stdout)
    assert re.search(r"\d+ +8 +\d{4}-\d\d-\d\d \d\d:\d\d:\d\d$", result.stdout.strip())
    assert document(run("balance", "u", "--json"))["balance"] == 18


def test_a_dry_run_as_json_is_the_quote(run: Run) -> None:
    give(run, "u", 8)
    quote = document(run("post", "BOOKING", "u", "--amount=-3", "--dry-run", "--json"))
    assert (quote["replayed"], quote["balance"]["balance"]) == (False, 5)
    assert [burn["amount"] for burn in quote["burns"]] == [3]
    assert [entry["amount"] for entry in quote["entries"]] == [-3]


def test_a_dry_run_of_what_was_posted_says_so(run: Run) -> None:
    run("post", "CREDIT_ADD", "u", "--nonce", "n")
    result = run("post", "CREDIT_ADD", "u", "--nonce", "n", "--dry-run")
    assert result.stdout.startswith("Had been posted before; nothing moved now\n")


def test_a_dry_run_is_refused_as_the_posting_would_be(run: Run) -> None:
    arguments = ("post", "BOOKING", "u", "--amount", "-9", "--dry-run")
    assert failed(run(*arguments), 1) == "u has 0 credits available, 9 required"


def test_a_dry_run_tells_what_expires_before_and_not_that_it_would_pay(
    run: Run, clock: Clock
) -> None:
    give(run, "u", 5, days=1)
    give(run, "u", 7)
    clock.move(timedelta(days=2))
    arguments = ("post", "BOOKING", "u", "--amount", "-2", "--dry-run")
    assert re.search(r"before it +-5 credits expired", run(*arguments).stdout)
    quote = document(run(*arguments, "--json"))
    assert [burn["amount"] for burn in quote["burns"]] == [2]


# Holds.


def test_a_hold_is_shown_and_reserves(run: Run, clock: Clock) -> None:
    run("post", "CREDIT_ADD", "u")
    result = run("hold", "BOOKING", "u", "--amount", "4", "--expires-in", "30m", "--nonce", "h")
    assert result.stdout.startswith("Held\n")
    expiry = clock.now() + timedelta(minutes=30)
    assert f"expires    {expiry:%Y-%m-%d %H:%M:%S.%f} UTC" in result.stdout
    assert re.search(r"reserved +4 credits", result.stdout)
    balance = document(run("balance", "u", "--json"))
    assert (balance["balance"], balance["held"], balance["available"]) == (10, 4, 6)


def test_a_hold_as_json_is_that_of_the_http_service(run: Run, clock: Clock) -> None:
    run("post", "CREDIT_ADD", "u")
    hold = document(run("hold", "CREDIT_SPEND", "u", "--nonce", "h", "--json"))
    assert hold.pop("id") > 0
    assert datetime.fromisoformat(hold.pop("created_on")) == clock.now()
    assert datetime.fromisoformat(hold.pop("expires_on")) == clock.now() + timedelta(days=7)
    assert hold == {
        "app": "own",
        "operation": "CREDIT_SPEND",
        "owner_id": "u",
        "counterparty": "@spent",
        "asset": "credits",
        "amount": 1,
        "nonce": "h",
        "captured": 0,
        "state": "open",
        "closed_on": None,
        "remaining": 1,
        "replayed": False,
    }


def test_a_hold_until_a_time(run: Run) -> None:
    run("post", "CREDIT_ADD", "u")
    until = "2100-01-01T12:00:00+02:00"
    hold = document(run("hold", "CREDIT_SPEND", "u", "--expires-at", until, "--json"))
    assert hold["expires_on"] == "2100-01-01T10:00:00Z"


def test_a_hold_with_the_same_nonce_is_replayed(run: Run) -> None:
    run("post", "CREDIT_ADD", "u")
    first = document(run("hold", "CREDIT_SPEND", "u", "--nonce", "h", "--json"))
    again = document(run("hold", "CREDIT_SPEND", "u", "--nonce", "h", "--json"))
    assert again == {**first, "replayed": True}
    result = run("hold", "CREDIT_SPEND", "u", "--nonce", "h")
    assert result.stdout.startswith("Had been held before; nothing moved now\n")


def test_a_capture_takes_a_part_and_keeps_the_rest_or_releases_it(run: Run) -> None:
    run("post", "CREDIT_ADD", "u")
    hold = str(document(run("hold", "BOOKING", "u", "--amount", "8", "--json"))["id"])
    part = run("capture", hold, "--amount", "3", "--keep-open")
    assert part.stdout.startswith("Captured\n")
    assert re.search(rf"balance +7, 5 of it held\s+hold +{hold}\n", part.stdout)
    entry = document(run("capture", hold, "--amount", "1", "--json"))
    assert (entry["amount"], entry["balance_after"], entry["replayed"]) == (-1, 6, False)
    assert document(run("balance", "u", "--json"))["held"] == 0
    assert f"hold {hold} is captured already" in failed(run("capture", hold), 1)


def test_a_capture_with_the_same_nonce_is_replayed(run: Run) -> None:
    run("post", "CREDIT_ADD", "u")
    hold = str(document(run("hold", "CREDIT_SPEND", "u", "--json"))["id"])
    first = document(run("capture", hold, "--nonce", "c", "--json"))
    again = document(run("capture", hold, "--nonce", "c", "--json"))
    assert again == {**first, "replayed": True}
    assert "Had been captured before" in run("capture", hold, "--nonce", "c").stdout


def test_a_release_tells_what_became_available(run: Run) -> None:
    run("post", "CREDIT_ADD", "u")
    hold = str(document(run("hold", "BOOKING", "u", "--amount", "8", "--json"))["id"])
    run("capture", hold, "--amount", "3", "--keep-open")
    result = run("release", hold, "--nonce", "r")
    assert result.stdout.startswith("Released\n")
    assert re.search(r"captured +3 credits\s+released +5 credits\s+nonce +r\n", result.stdout)
    again = document(run("release", hold, "--nonce", "r", "--json"))
    assert (again["state"], again["remaining"], again["replayed"]) == ("released", 0, True)
    assert "Had been released before" in run("release", hold, "--nonce", "r").stdout


def test_holds_shows_the_open_ones(run: Run) -> None:
    run("post", "CREDIT_ADD", "u")
    later = document(run("hold", "BOOKING", "u", "--amount", "2", "--json"))["id"]
    sooner = document(run("hold", "BOOKING", "u", "--amount", "3", "--expires-in", "1d", "--json"))[
        "id"
    ]
    run("capture", str(later), "--amount", "1", "--keep-open")
    _, _, first, second = lines(run("holds", "u").stdout)
    assert first[:6] == [str(sooner), "own", "BOOKING", "3", "0", "3"]
    assert second[:6] == [str(later), "own", "BOOKING", "2", "1", "1"]
    found = document(run("holds", "u", "--json"))["holds"]
    assert [(hold["id"], hold["remaining"]) for hold in found] == [(sooner, 3), (later, 1)]


def test_holds_says_that_there_are_none(run: Run) -> None:
    assert run("holds", "u").stdout == "u has no open holds of credits.\n"
    assert document(run("holds", "u", "--json")) == {"holds": []}


# Transfers and reversals.


def test_a_transfer_shows_both_owners(run: Run) -> None:
    run("post", "CREDIT_ADD", "a")
    result = run("transfer", "a", "b", "4", "--nonce", "t")
    assert result.stdout.startswith("Transferred\n")
    assert re.search(
        r"amount +4 credits\s+from +a, balance 6\s+to +b, balance 4\s+nonce +t\n", result.stdout
    )
    assert "Had been transferred before" in run("transfer", "a", "b", "4", "--nonce", "t").stdout


def test_a_transfer_as_json_has_both_entries(run: Run) -> None:
    run("post", "CREDIT_ADD", "a")
    done = document(
        run("transfer", "a", "b", "4", "--metadata", '{"for": "lunch"}', "--nonce=t", "--json")
    )
    assert done["replayed"] is False
    assert [(entry["owner_id"], entry["amount"]) for entry in done["entries"]] == [
        ("a", -4),
        ("b", 4),
    ]
    assert done["entries"][0]["metadata"] == {"for": "lunch"}
    again = document(
        run("transfer", "a", "b", "4", "--metadata", '{"for": "lunch"}', "--nonce=t", "--json")
    )
    assert again == {**done, "replayed": True}


def test_a_spend_is_reversed_in_part_and_then_the_rest(run: Run) -> None:
    run("post", "CREDIT_ADD", "u")
    entry = str(document(run("post", "BOOKING", "u", "--amount=-9", "--json"))["id"])
    result = run("reverse", entry, "--amount", "4", "--nonce", "r")
    assert result.stdout.startswith("Reversed\n")
    assert re.search(rf"amount +\+4 .*\s+balance +5\s+reverses +entry {entry}\n", result.stdout)
    rest = document(run("reverse", entry, "--json"))
    assert [(one["amount"], one["reverses"]) for one in rest["entries"]] == [(5, int(entry))]
    assert "nothing is left" in failed(run("reverse", entry), 1)
    assert "Had been reversed before" in run("reverse", entry, "--nonce", "r").stdout


def test_a_transfer_is_reversed_on_both_sides(run: Run) -> None:
    run("post", "CREDIT_ADD", "a")
    done = document(run("transfer", "a", "b", "4", "--json"))
    result = run("reverse", str(done["entries"][1]["id"]))
    assert re.search(r"owner +a\n +amount +\+4 credits", result.stdout)
    assert re.search(r"other side +-4 credits from b, balance 0, entry \d+\n", result.stdout)


def test_a_gain_that_was_spent_is_only_reversed_into_debt(run: Run) -> None:
    entry = str(document(run("post", "CREDIT_ADD", "u", "--json"))["id"])
    run("post", "BOOKING", "u", "--amount", "-6")
    assert failed(run("reverse", entry), 1) == "u has 4 credits available, 10 required"
    assert "Debt" not in run("balance", "u").stdout
    assert re.search(r"balance +-6\n", run("reverse", entry, "--allow-debt").stdout)
    heading, _, row = lines(run("balance", "u").stdout)
    assert dict(zip(heading, row, strict=True)) == {
        "Owner": "u",
        "Asset": "credits",
        "Balance": "-6",
        "Held": "0",
        "Available": "0",
        "Expiring": "0",
        "Debt": "6",
    }


# What expires.


def test_grants_are_shown_in_the_order_they_are_spent(run: Run, clock: Clock) -> None:
    give(run, "u", 5, 6)
    run("post", "CREDIT_ADD", "u", "--expires-in", "60d", "--priority", "1")
    give(run, "u", 7, days=3)
    run("post", "BOOKING", "u", "--amount", "-2")
    rows = lines(run("grants", "u").stdout)[2:]
    assert [(row[2], row[3], row[4]) for row in rows] == [
        ("5", "7", "0"),
        ("5", "5", "0"),
        ("6", "6", "0"),
        ("10", "10", "1"),
    ]
    assert rows[0][6] == f"{clock.now() + timedelta(days=3):%Y-%m-%d %H:%M:%S}"
    found = document(run("grants", "u", "--json"))["grants"]
    assert [grant["remaining"] for grant in found] == [5, 5, 6, 10]


def test_grants_says_that_there_are_none(run: Run) -> None:
    run("post", "CREDIT_ADD", "u")
    assert run("grants", "u").stdout == "u has no credits that expire.\n"


def test_sweep_repeats_until_nothing_is_due(run: Run, clock: Clock, schema: str) -> None:
    for owner_id in ("a", "b", "c"):
        give(run, owner_id, 5, days=1)
    assert run("sweep").stdout == "Nothing was due.\n"
    clock.move(timedelta(days=2))
    assert run("sweep", "--limit", "1").stdout == "Swept 3 accounts.\n"
    assert document(run("sweep", "--json")) == {"swept": 0}
    amounts = query(clock.url, f"select amount from {schema}.entries where operation = 'EXPIRY'")
    assert amounts == [(-5,), (-5,), (-5,)]


def test_sweep_ends_where_an_account_was_due_and_nothing_of_it_expires(
    run: Run, clock: Clock
) -> None:
    run("post", "CREDIT_ADD", "u")
    hold = str(document(run("hold", "CREDIT_SPEND", "u", "--json"))["id"])
    run("release", hold)
    clock.move(timedelta(days=8))
    assert run("sweep", "--limit", "1").stdout == "Swept 1 account.\n"
    assert run("sweep").stdout == "Nothing was due.\n"


# At a time.


def test_balance_at_a_time_is_that_of_then(run: Run, clock: Clock) -> None:
    run("post", "CREDIT_ADD", "u")
    then = clock.now().isoformat()
    clock.move(timedelta(hours=1))
    give(run, "u", 5, days=2)
    found = document(run("balance", "u", "--at", then, "--json"))
    assert (found["balance"], found["at"]) == (10, then.replace("+00:00", "Z"))
    assert document(run("balance", "u", "--at", "1999-12-31", "--json"))["balance"] == 0
    later = (clock.now() + timedelta(days=3)).isoformat()
    assert document(run("balance", "u", "--at", later, "--json"))["balance"] == 10
    assert re.search(r"u +credits +15 +0 +15 +5$", run("balance", "u").stdout, re.MULTILINE)


def test_history_at_a_time_is_that_of_then(run: Run, clock: Clock) -> None:
    run("post", "CREDIT_ADD", "u", "--nonce", "first")
    then = clock.now().isoformat()
    clock.move(timedelta(hours=1))
    run("post", "CREDIT_ADD", "u", "--nonce", "second")
    page = document(run("history", "u", "--at", then, "--json"))
    assert [entry["nonce"] for entry in page["entries"]] == ["first"]
    nothing = run("history", "u", "--at", "2001-02-03").stdout
    assert nothing == "u has no entries of credits by 2001-02-03 00:00:00 UTC.\n"


def test_history_says_what_entries_did(run: Run, clock: Clock) -> None:
    give(run, "u", 5, days=1)
    until = clock.now() + timedelta(days=1)
    run("post", "CREDIT_ADD", "u")
    spent = document(run("post", "CREDIT_SPEND", "u", "--json"))["id"]
    run("reverse", str(spent))
    ids = [document(run("hold", "CREDIT_SPEND", "u", "--json"))["id"] for _ in range(3)]
    run("capture", str(ids[0]))
    run("release", str(ids[1]))
    clock.move(timedelta(days=30))
    run("sweep")
    rows = lines(run("history", "u").stdout)[2:]
    said = [row[3] for row in rows if not re.fullmatch(r"[+-]?\d+", row[3])]
    assert said == [
        "expired",
        f"hold {ids[2]} expired",
        "expired",
        f"hold {ids[1]} released",
        f"hold {ids[0]} captured",
        *(f"hold {number} placed" for number in reversed(ids)),
        f"reverses {spent}",
        f"until {until:%Y-%m-%d}",
    ]
    # An expiry stands at its own time, not when somebody came and booked it.
    (first,) = [
        row for row in rows if row[3] == "expired" and row[0].startswith(f"{until:%Y-%m-%d}")
    ]
    assert first[0] == f"{until:%Y-%m-%d %H:%M:%S}"


def test_an_entry_of_a_group_says_which() -> None:
    entry = Entry(7, "own", "X", "u", "@spent", "credits", -1, 1, "@6.1", datetime.now(UTC))
    assert what(entry) == ""
    fields = {name: getattr(entry, name) for name in entry.__struct_fields__}
    assert what(Entry(**{**fields, "group_id": 6})) == "group 6"


def test_a_narrow_terminal_is_shown_fewer_columns_and_no_folded_ones(
    run: Run, narrow: None
) -> None:
    run("post", "CREDIT_ADD", "u")
    text = run("history", "u").stdout
    assert "Nonce" not in text
    assert "A wider terminal shows nonce too, and so does --json." in text
    heading, _, row, _ = lines(text)
    assert heading == ["When (UTC)", "App", "Operation", "Amount", "Balance", "Id"]
    assert row[1:5] == ["own", "CREDIT_ADD", "+10", "10"]


def test_a_narrow_terminal_is_shown_all_that_fits(run: Run, narrow: None) -> None:
    run("post", "CREDIT_ADD", "u", "--nonce", "short")
    text = run("history", "u").stdout
    assert "short" in text
    assert "wider" not in text


# Statements.


def test_a_statement_shows_opening_lines_closing_and_totals(run: Run, clock: Clock) -> None:
    run("post", "CREDIT_ADD", "u")
    clock.move(timedelta(days=1))
    start = clock.now()
    run("post", "CREDIT_ADD", "u")
    run("post", "CREDIT_SPEND", "u")
    clock.move(timedelta(days=1))
    end = clock.now()
    run("post", "CREDIT_SPEND", "u")
    period = ("--from", start.isoformat(), "--to", end.isoformat())
    rows = lines(run("statement", "u", *period).stdout)
    assert rows[0] == ["u, credits"]
    assert rows[4] == [f"{start:%Y-%m-%d %H:%M:%S}", "opening", "10"]
    assert rows[5][1:5] == ["own", "CREDIT_ADD", "+10", "20"]
    assert rows[6][1:5] == ["own", "CREDIT_SPEND", "-1", "19"]
    assert rows[7] == [f"{end:%Y-%m-%d %H:%M:%S}", "closing", "19"]
    assert rows[10:] == [["own", "CREDIT_ADD", "1", "+10"], ["own", "CREDIT_SPEND", "1", "-1"]]


def test_a_statement_as_json_is_that_of_the_http_service(run: Run) -> None:
    run("post", "CREDIT_ADD", "u")
    found = document(run("statement", "u", "--from", "2000-01-01", "--to", "2100-01-01", "--json"))
    assert found["from"] == "2000-01-01T00:00:00Z"
    assert found["to"] == "2100-01-01T00:00:00Z"
    assert (found["opening"], found["closing"], len(found["lines"])) == (0, 10, 1)
    assert found["totals"] == [{"app": "own", "operation": "CREDIT_ADD", "count": 1, "amount": 10}]


def test_a_statement_ends_before_the_midnight_of_its_date(run: Run, clock: Clock) -> None:
    run("post", "CREDIT_ADD", "u")
    day = clock.now().date()
    until_today = document(run("statement", "u", "--from=2000-01-01", f"--to={day}", "--json"))
    assert until_today["lines"] == []
    tomorrow = day + timedelta(days=1)
    with_today = document(run("statement", "u", f"--from={day}", f"--to={tomorrow}", "--json"))
    assert len(with_today["lines"]) == 1


def test_a_statement_is_of_this_month_by_default(run: Run) -> None:
    before = datetime.now(UTC)
    found = document(run("statement", "u", "--json"))
    after = datetime.now(UTC)
    starts = [f"{at:%Y-%m}-01T00:00:00Z" for at in (before, after)]
    assert found["from"] in starts
    end = datetime.fromisoformat(found["to"])
    assert (end.day, end.hour, end - datetime.fromisoformat(found["from"]) > timedelta(27)) == (
        1,
        0,
        True,
    )


def day(year: int, month: int, number: int = 1) -> datetime:
    return datetime(year, month, number, tzinfo=UTC)


@pytest.mark.parametrize(
    ("start", "end", "completed"),
    [
        (None, day(2020, 12, 31), (day(2020, 12), day(2020, 12, 31))),
        (None, day(2021, 1), (day(2020, 12), day(2021, 1))),
        (day(2500, 12, 24), None, (day(2500, 12, 24), day(2501, 1))),
        (day(9999, 12, 24), None, (day(9999, 12, 24), datetime.max.replace(tzinfo=UTC))),
        (None, day(1, 1), (day(1, 1), day(1, 1))),
    ],
)
def test_half_a_period_is_completed_to_its_month(
    start: datetime | None, end: datetime | None, completed: tuple[datetime, datetime]
) -> None:
    assert _period(start, end) == completed


@pytest.mark.parametrize("start", ["0001-01-01", "9999-12-31T23:59:59.999999Z"])
def test_a_statement_from_either_end_of_the_calendar_is_empty(run: Run, start: str) -> None:
    period = ("--from", start, "--to", start)
    assert document(run("statement", "u", *period, "--json"))["lines"] == []


def test_a_statement_as_csv(run: Run, clock: Clock) -> None:
    document(run("post", "BONUS", "u", "--amount", "5", "--expires-in", "1d", "--json"))
    booked = document(run("post", "BOOKING", "u", "--amount", "-2", "--nonce", "=1+1", "--json"))
    expiry = clock.now() + timedelta(days=1)
    clock.move(timedelta(days=2))
    period = ("--from", "2000-01-01", "--to", "2100-01-01")
    text = run("statement", "u", *period, "--csv").stdout
    rows = list(csv.reader(io.StringIO(text, newline="")))
    assert rows[0] == [
        "created_on", "effective_on", "id", "app", "operation", "amount", "balance_after", "nonce",
    ]  # fmt: skip
    assert rows[1] == ["", "2000-01-01T00:00:00Z", "", "", "opening", "", "0", ""]
    assert rows[3] == [
        booked["created_on"], booked["created_on"], str(booked["id"]), "own", "BOOKING", "-2", "3",
        "'=1+1",
    ]  # fmt: skip
    assert rows[4][1] == expiry.isoformat().replace("+00:00", "Z")
    assert rows[4][4:] == ["EXPIRY", "-3", "0", f"'@{rows[4][2]}"]
    assert rows[5] == ["", "2100-01-01T00:00:00Z", "", "", "closing", "", "0", ""]
    assert len(rows) == 6


@pytest.mark.parametrize(
    ("nonce", "cell"),
    [
        ("=A1", "'=A1"),
        ("+A1", "'+A1"),
        ("-A1", "'-A1"),
        ("@A1", "'@A1"),
        ("\tA1", "'\tA1"),
        ("-5", "-5"),
        ("+5", "+5"),
        ("a=1", "a=1"),
        ('a"b,c', 'a"b,c'),
    ],
)
def test_a_cell_that_a_spreadsheet_would_calculate_gets_an_apostrophe(
    nonce: str, cell: str
) -> None:
    at = day(2026, 1)
    entry = Entry(1, "own", "X", "u", "@issued", "credits", -5, -5, nonce, at)
    statement = Statement("u", "credits", at, at, 0, -5, [entry], [])
    rows = list(csv.reader(io.StringIO("".join(statement_csv(statement)), newline="")))
    assert rows[2][5:] == ["-5", "-5", cell]


# Mistakes and refusals.


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["hold", "BOOKING"], "Missing argument 'OWNER_ID'"),
        (["hold", "BOOKING", "u", "--amount", "-5"], "'-5' is not a positive whole number"),
        (["hold", "BOOKING", "u", "--amount", "0"], "'0' is not a positive whole number"),
        (["hold", "BOOKING", "u", "--amount", "1_0"], "'1_0' is not a positive whole number"),
        (["hold", "BOOKING", "u", "--amount", "٣"], "is not a positive whole number"),
        (["hold", "BOOKING", "u", "--expires-in", "0"], "'0' is not a duration"),
        (["hold", "BOOKING", "u", "--expires-in", "-1d"], "'-1d' is not a duration"),
        (["hold", "BOOKING", "u", "--expires-in", "1w"], "such as 7d, 12h, 30m, 45s"),
        (["hold", "BOOKING", "u", "--expires-in", "1d12h"], "'1d12h' is not a duration"),
        (["hold", "BOOKING", "u", "--expires-in", "9" * 12 + "d"], "longer than any calendar"),
        (["hold", "BOOKING", "u", "--expires-at", "tomorrow"], "such as 2026-11-30T12:00:00Z"),
        (["hold", "BOOKING", "u", "--expires-at", "2026-11-30T12:00:00"], "is neither a date"),
        (["hold", "BOOKING", "u", "--expires-at", "2026-02-30"], "is not in the calendar"),
        (
            ["hold", "BOOKING", "u", "--expires-in", "1d", "--expires-at", "2100-01-01"],
            "'--expires-at': stands beside --expires-in",
        ),
        (["capture", "x"], "'HOLD_ID': 'x' is not an id such as 12"),
        (["capture", "0"], "'0' is not an id"),
        (["capture", str(2**63)], "is not an id"),
        (["capture", "-1"], "No such option: -1 (no argument is a negative number)"),
        (["capture", "1", "--amount", "-1"], "is not a positive whole number"),
        (["release", "1.0"], "'1.0' is not an id"),
        (["transfer", "a", "b"], "Missing argument 'AMOUNT'"),
        (["transfer", "a", "b", "-5"], "no argument is a negative number"),
        (["transfer", "a", "b", "--", "-5"], "'-5' is not a positive whole number"),
        (["transfer", "a", "b", "1", "--metadata", "[1]"], "'--metadata': is not a JSON object"),
        (["reverse", "one"], "'ENTRY_ID': 'one' is not an id"),
        (["reverse", "1", "--amount", "0"], "is not a positive whole number"),
        (["grants"], "Missing argument 'OWNER_ID'"),
        (["grants", "u", "--asset", ""], "'--asset'"),
        (["statement", "u", "--from", "2026-13-01"], "is not in the calendar"),
        (["statement", "u", "--from", "2026-02-01", "--to", "2026-01-01"], "is before --from"),
        (["statement", "u", "--json", "--csv"], "'--csv': stands beside --json"),
        (["statement", "u", "--to", "2026-1-1"], "is neither a date"),
        (["statement", "u", "--to", "0001-01-01T00:00:00+01:00"], "is not in the calendar"),
        (["sweep", "--limit", "0"], "'--limit'"),
        (["post", "BONUS", "u", "--priority", "-1"], "'--priority'"),
        (["post", "BONUS", "u", "--priority", "1001"], "'--priority'"),
        (["post", "BONUS", "u", "--expires-in", "soon"], "'soon' is not a duration"),
        (["balance", "u", "--at", "now"], "'--at'"),
        (["history", "u", "--at", "2026-11-30 12:00"], "'--at'"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    folder: Path,  # noqa: F811  # the fixture
    arguments: list[str],
    sentence: str,
) -> None:
    assert sentence in failed(invoke(*arguments), 2)
    # Nothing was started for it.
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["hold", "NOPE", "u"], "'NOPE' is not one of own's"),
        (["hold", "CREDIT_ADD", "u"], "CREDIT_ADD takes no credits"),
        (["hold", "CREDIT_SPEND", "u"], "u has 0 credits available, 1 required"),
        (["hold", "BOOKING", "u"], "amount is required"),
        (["hold", "BOOKING", "u", "--amount", "51"], "-51 is not within -50 to -1"),
        (["hold", "CREDIT_SPEND", "u", "--expires-at", "2001-01-01"], "expires_at has passed"),
        (["hold", "CREDIT_SPEND", "u", "--expires-in", "40000d"], "at most 36525 days"),
        (["capture", "99"], "there is no hold 99 of this application"),
        (["release", "99"], "there is no hold 99 of this application"),
        (["transfer", "a", "b", "5"], "a has 0 credits available, 5 required"),
        (["transfer", "a", "a", "5"], "destination is the source"),
        (["transfer", "a", "@spent", "5"], "kept for system accounts"),
        (["transfer", "a", "b", "9" * 30], "is a positive 64-bit integer"),
        (["reverse", "99"], "there is no entry 99 of this application"),
        (["grants", "@spent"], "kept for system accounts"),
        (["statement", ""], "owner_id is empty"),
        (["post", "BOOKING", "u", "--amount=-1", "--expires-in=1d"], "expires_in is for postings"),
        (["post", "CREDIT_ADD", "u", "--priority", "1"], "say expires_in too"),
    ],
)
def test_a_refusal_is_one_line_and_status_1(run: Run, arguments: list[str], sentence: str) -> None:
    assert sentence in failed(run(*arguments), 1)
    assert sentence in failed(run(*arguments, "--json"), 1)


def test_another_use_of_a_nonce_is_refused(run: Run) -> None:
    run("post", "CREDIT_ADD", "a")
    run("transfer", "a", "b", "4", "--nonce", "t")
    sentence = failed(run("transfer", "a", "b", "5", "--nonce", "t"), 1)
    assert "nonce 't' was already used for a with amount 4, not 5" in sentence


def test_text_from_outside_is_no_order_to_the_terminal(run: Run) -> None:
    metadata = json.dumps({"say": "\x9b31m\u202e"}, ensure_ascii=False)
    run("post", "CREDIT_ADD", "[red]a[/red]", "--metadata", metadata, "--nonce", ":smile:")
    result = run("transfer", "[red]a[/red]", "b", "4", "--metadata", metadata)
    assert "[red]a[/red], balance 6" in result.stdout
    assert "\x9b" not in result.stdout
    assert "\u202e" not in result.stdout
    assert ":smile:" in run("statement", "[red]a[/red]", "--from", "2000-01-01").stdout
