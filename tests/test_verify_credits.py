"""Verify holds, grants, burns, reversals and budgets: a healthy book agrees, damage is found."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from builders import CLUB, ClubOperation, assert_sound, bonus, buy, gift, reserve
from conftest import Clock
from shared_ledger import (
    CaptureHold,
    Group,
    Ledger,
    Part,
    Posting,
    ReleaseHold,
    Reversal,
    Transfer,
)
from shared_ledger.connections import make_engine
from shared_ledger.embedded import Cluster
from shared_ledger.schema import book_tables
from shared_ledger.verify import proof, verify
from shared_ledger.verify.credits import BY_OWNERS, WHOLE

Club = Ledger[ClubOperation]

SCHEMA = "rich_book"
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
MORNING = datetime(2026, 3, 2, 8, tzinfo=UTC)


@pytest.fixture
def club(clock: Clock, schema: str) -> Iterator[Club]:
    """A ledger of an application that can do everything, by a clock that the test moves."""
    with Ledger(CLUB, clock.url, schema=schema, migrate=True, lanes=1) as club:
        yield club


def write_all(club: Club, clock: Clock) -> Iterator[None]:
    """Do everything that a book knows, one thing after another."""

    def hold(owner_id: str, nonce: str, amount: int, expires_in: timedelta = 3 * DAY) -> int:
        return club.post(reserve(owner_id, nonce, amount, expires_in=expires_in)).hold.id

    # Ann: spends of what expires, and a hold for each way that it can end.
    club.post_batch([gift("ann", "ann 100", 100), buy("ann", "ann early", 5)])
    yield
    club.post(bonus("ann", "ann in ten days", 40, expires_in=10 * DAY))
    club.post(bonus("ann", "ann first", 20, expires_in=5 * DAY, priority=0))
    clock.move(HOUR)
    yield
    club.post(buy("ann", "ann buys", 30))
    yield
    captured = hold("ann", "ann captured", 50)
    clock.move(HOUR)
    club.post(CaptureHold(captured, "ann captures 10", 10, final=False))
    yield
    club.post(CaptureHold(captured, "ann captures 5", 5))
    yield
    club.post(ReleaseHold(hold("ann", "ann released", 8), "ann releases"))
    club.post(CaptureHold(hold("ann", "ann used up", 4), "ann uses up", 4, final=False))
    hold("ann", "ann expired", 6, HOUR)
    yield
    clock.move(2 * HOUR)
    opened = hold("ann", "ann open", 12)
    club.post(CaptureHold(opened, "ann captures 2", 2, final=False))
    club.post(gift("ann", "ann late", 5))
    yield
    # Bob: transfers, of what expires and of what does not, and one that is taken back in part.
    club.post_batch([gift("bob", "bob 10", 10), gift("ida", "ida 5", 5)])
    club.post(bonus("ann", "ann for bob", 12))
    moved = club.post(Transfer(source="ann", destination="bob", amount=15, nonce="ann to bob"))
    club.post(Transfer(source="ida", destination="bob", amount=3, nonce="ida to bob"))
    yield
    club.post(Reversal(moved.entry.id, "ann to bob back", 5))
    yield
    # Carl: credits that expire, and a spend of them that is taken back too late.
    club.post(bonus("carl", "carl 9", 9, expires_in=DAY))
    clock.move(HOUR)
    spent = club.post(buy("carl", "carl buys", 4)).entry.id
    clock.move(2 * DAY)
    yield
    club.sweep()
    yield
    club.post(Reversal(spent, "carl back"))
    yield
    # Dora is in debt, and Eve was.
    for name, given in (("dora", 10), ("eve", 5)):
        entry = club.post(gift(name, f"{name} gets", given)).entry.id
        club.post(buy(name, f"{name} buys", given))
        club.post(Reversal(entry, f"{name} back", allow_debt=True))
        yield
    club.post_batch([bonus("dora", "dora 4", 4), bonus("eve", "eve 8", 8)])
    yield
    # Groups, and a batch of which all is written.
    parts = [Part(ClubOperation.GIFT, "fay", 5), Part(ClubOperation.BONUS, "gus", 7)]
    club.post(Group("fay and gus", parts))
    club.post_batch(
        [
            reserve("fay", "fay all", 5),
            Transfer(source="gus", destination="fay", amount=2, nonce="g"),
        ],
        atomic=True,
    )
    yield
    for number in range(2):
        club.post(Posting(ClubOperation.PROMOTION, "gus", f"ever {number}", 10))
        club.post(Posting(ClubOperation.DAILY_PROMOTION, "gus", f"daily {number}", 5))
        clock.move(DAY)
        yield
    # Hal: spends that are taken back in part and whole.
    club.post_batch([bonus("hal", "hal 10", 10), gift("hal", "hal plain", 30)])
    first = club.post(buy("hal", "hal buys", 15)).entry.id
    second = club.post(buy("hal", "hal buys more", 10)).entry.id
    club.post_batch([Reversal(first, "hal back", 8), Reversal(second, "hal back more")])
    yield
    # Mia's purchase and her bonus are taken back under other names, which the application gave.
    club.post_batch([bonus("mia", "mia 10", 10), gift("mia", "mia plain", 6)])
    spent = club.post(buy("mia", "mia buys", 12)).entry.id
    club.post(Reversal(spent, "mia back", 7, operation=ClubOperation.GIFT))
    more = club.post(bonus("mia", "mia 4", 4)).entry.id
    club.post(Reversal(more, "mia less", operation=ClubOperation.PURCHASE))
    yield
    # Kim's hold reserves nothing but what expires, Lea's both; nobody has looked at Jan's since.
    club.post_batch([bonus("kim", "kim 10", 10), bonus("lea", "lea 5", 5), gift("lea", "lea 9", 9)])
    hold("kim", "kim holds", 6)
    hold("lea", "lea holds", 8)
    club.post(bonus("jan", "jan 3", 3, expires_in=HOUR))
    clock.move(2 * HOUR)
    yield


@pytest.fixture(scope="module")
def rich(cluster: Cluster) -> Iterator[Engine]:
    """A book with everything in it."""
    clock = Clock(cluster, MORNING)
    with Ledger(CLUB, clock.url, schema=SCHEMA, migrate=True, lanes=1) as club:
        for _ in write_all(club, clock):
            pass
    clock.close()
    engine = make_engine(cluster.url)
    yield engine
    engine.dispose()


@pytest.fixture(params=[250_000, 4], ids=["one-range", "many-ranges"])
def ranges(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """All owners in one range, and about one in each."""
    monkeypatch.setattr(proof, "RANGE_ENTRIES", request.param)


@pytest.mark.usefixtures("ranges")
def test_a_book_with_everything_agrees(rich: Engine) -> None:
    report = verify(rich, book_tables(SCHEMA))
    assert report.disagreements == []


def test_a_book_agrees_after_every_step(club: Club, clock: Clock, schema: str) -> None:
    for _ in write_all(club, clock):
        assert_sound(clock.url, schema)


def test_a_book_of_plain_postings_with_one_hold_agrees(
    club: Club, clock: Clock, schema: str
) -> None:
    club.post_batch([gift(f"owner{number}", "g", 5) for number in range(10)])
    club.post(reserve("owner3", "h", 2))
    assert_sound(clock.url, schema)


def test_two_reversals_in_one_batch_give_back_no_more_than_was_taken(
    club: Club, clock: Clock, schema: str
) -> None:
    # Of ten that expire six are spent before, so that there would be room for too many.
    club.post_batch([bonus("ann", "b", 10), gift("ann", "g", 4), buy("ann", "first", 6)])
    spent = club.post(buy("ann", "s", 8)).entry.id
    club.post_batch([Reversal(spent, f"r{number}", 3) for number in range(2)])
    assert [grant.remaining for grant in club.grants("ann")] == [2]
    assert_sound(clock.url, schema)


def test_what_has_expired_for_the_destination_expires_when_it_is_transferred(
    club: Club, clock: Clock, schema: str
) -> None:
    club.post(bonus("ann", "b", 10, expires_in=HOUR))
    clock.move(2 * HOUR)
    club.post(gift("bob", "g", 3))
    # Set back, the clock shows a time at which Ann's have not expired; but Bob's time goes on.
    clock.move(timedelta(minutes=-90))
    club.post(Transfer(source="ann", destination="bob", amount=4, nonce="t"))
    assert club.balance("bob").balance == 3
    club.post(buy("bob", "s", 3))
    assert_sound(clock.url, schema)


# --- damage ---


@dataclass(frozen=True)
class Damage:
    """What somebody did who goes round the guards, and all that is to be said about it."""

    name: str
    kinds: set[str]
    statements: tuple[str, ...]

    def __repr__(self) -> str:
        return self.name


def damage(name: str, kinds: str, *statements: str) -> Damage:
    """In the statements ``<nonce>`` is the id of an entry, ``<<nonce>>`` that of its grant."""
    return Damage(name, set(kinds.split()), statements)


def ids_for(statement: str) -> str:
    """Put subqueries in the place of nonces."""
    entry = r"(select id from entries where nonce = '\1')"
    statement = re.sub(r"<<(.+?)>>", r"(select id from grants where entry_id = <\1>)", statement)
    return re.sub(r"<(\w[^<>]*?)>", entry, statement)


CARLS_EXPIRY = "(select min(id) from entries where owner_id = 'carl' and operation = 'EXPIRY')"
ANNS_EXPIRY = "(select id from entries where owner_id = 'ann' and operation = 'EXPIRY')"

DAMAGE = [
    # Accounts.
    damage(
        "held is changed",
        "held_differs_from_open_holds held_differs_from_the_last_entry",
        "update accounts set held = held + 1 where owner_id = 'gus'",
    ),
    damage(
        "expiring is changed",
        "expiring_differs_from_grants expiring_differs_from_the_last_entry",
        "update accounts set expiring = expiring + 1 where owner_id = 'hal'",
    ),
    damage(
        "a hold reserves others than a spend would take",
        "what_does_not_expire_is_below_the_floor",
        "update holds set grant_ids = '{}', grant_amounts = '{}' where id = <kim holds>",
        "update grants set remaining = 10 where id = <<kim 10>>",
    ),
    damage(
        "debt is raised",
        "debt_is_more_than_is_owed",
        "update accounts set debt = debt + 1 where owner_id = 'dora'",
    ),
    damage(
        "debt is lowered",
        "available_is_below_the_floor",
        "update accounts set debt = debt - 1 where owner_id = 'dora'",
    ),
    damage(
        "a floor is raised",
        "expiring_while_there_is_debt",
        "update accounts set floor = 50, debt = 50 - (posted - held) where owner_id = 'kim'",
    ),
    damage(
        "due_on is forgotten",
        "due_on_is_after_an_expiry",
        "update accounts set due_on = null where owner_id = 'jan'",
    ),
    damage(
        "due_on is later",
        "due_on_is_after_an_expiry",
        "update accounts set due_on = due_on + interval '1 second' where owner_id = 'lea'",
    ),
    damage(
        "held_after is changed",
        "held_after_is_not_the_running_sum",
        "update entries set held_after = 51 where id = <ann captured>",
    ),
    damage(
        "held_after of the last entry is changed",
        "held_after_is_not_the_running_sum held_differs_from_the_last_entry",
        "update entries set held_after = null where id = <kim holds>",
    ),
    damage(
        "expiring_after is changed",
        "expiring_after_is_not_the_running_sum",
        "update entries set expiring_after = null where id = <ann captured>",
    ),
    damage(
        "a plain entry says what expires",
        "expiring_after_is_not_the_running_sum",
        "update entries set expiring_after = 1 where id = <ida 5>",
    ),
    damage(
        "an entry takes effect before the one before it",
        "effective_on_runs_backwards",
        "update entries set effective_on = created_on - interval '1 day' where id = <ann late>",
    ),
    damage(
        "an entry takes effect when it is written, and says so",
        "effective_on_is_not_before_created_on",
        "update entries set effective_on = created_on where id = <ann late>",
    ),
    # Holds.
    damage(
        "an entry does not say that it places a hold",
        "hold_without_its_entry held_after_is_not_the_running_sum",
        "update entries set hold_id = null where id = <ann released>",
    ),
    damage(
        "a hold has another nonce",
        "hold_differs_from_its_entry",
        "update holds set nonce = 'another' where id = <ann open>",
    ),
    damage(
        "a hold is deleted",
        "entry_of_a_hold_that_is_not_there held_after_is_not_the_running_sum",
        "delete from holds where id = <ann released>",
    ),
    damage(
        "a capture is of another operation",
        "entry_differs_from_its_hold",
        "update entries set operation = 'CREDIT_SPEND' where id = <ann captures 10>",
    ),
    damage(
        "captured is changed",
        "captured_differs_from_entries",
        "update holds set captured = captured + 1 where id = <ann captured>",
    ),
    damage(
        "a captured hold is called released",
        "state_of_a_hold_differs_from_its_entries",
        "update holds set state = 'released' where id = <ann captured>",
    ),
    damage(
        "a released hold is open again",
        "state_of_a_hold_differs_from_its_entries held_differs_from_open_holds "
        "due_on_is_after_an_expiry",
        "update holds set state = 'open' where id = <ann released>",
    ),
    damage(
        "closed_by is forgotten",
        "closed_by_is_not_what_ended_the_hold",
        "update holds set closed_by = null where id = <ann released>",
    ),
    damage(
        "an expired hold was closed by somebody",
        "closed_by_is_not_what_ended_the_hold",
        f"update holds set closed_by = {ANNS_EXPIRY} where id = <ann expired>",
    ),
    damage(
        "closed_on is changed",
        "closed_on_is_not_when_the_hold_ended",
        "update holds set closed_on = closed_on + interval '1 second' where id = <ann used up>",
    ),
    damage(
        "a hold expired early",
        "hold_did_not_end_at_its_expiry",
        "update entries set effective_on = effective_on - interval '1 second' "
        f"where id = {ANNS_EXPIRY}",
    ),
    damage(
        "a hold is released again",
        "hold_goes_on_after_its_end held_after_is_not_the_running_sum",
        "create table again as select * from entries where id = <ann releases>",
        "update again set id = nextval('entries_id_seq'), nonce = 'again', "
        "(balance_after, held_after, expiring_after, created_on) = "
        "(select posted, held, expiring, changed_on from accounts where owner_id = 'ann')",
        "insert into entries select * from again",
    ),
    damage(
        "a hold was captured after its expiry",
        "hold_was_used_after_its_expiry",
        "update holds set expires_on = created_on + interval '1 second' where id = <ann captured>",
    ),
    damage(
        "a hold that has ended reserves",
        "reserved_by_a_hold_that_has_ended",
        "update holds set grant_ids = array[<<ann in ten days>>], grant_amounts = '{1}' "
        "where id = <ann captured>",
    ),
    damage(
        "a hold reserves more than it holds",
        "reserved_is_more_than_is_held",
        "update holds set grant_amounts = '{7}' where id = <kim holds>",
        "update grants set remaining = 3 where id = <<kim 10>>",
    ),
    damage(
        "a hold reserves twice of one grant",
        "reserved_pieces_are_not_whole",
        "update holds set grant_ids = grant_ids || grant_ids, grant_amounts = '{2, 4}' "
        "where id = <kim holds>",
    ),
    damage(
        "a hold reserves nothing of a grant",
        "reserved_pieces_are_not_whole",
        "update holds set grant_ids = grant_ids || <<ann first>>, "
        "grant_amounts = grant_amounts || 0::bigint where id = <ann open>",
    ),
    damage(
        "a hold has more grants than amounts",
        "reserved_pieces_are_not_whole",
        "update holds set grant_ids = grant_ids || <<lea 5>> where id = <lea holds>",
    ),
    damage(
        "a hold reserves of a grant that is not there",
        "reserved_of_a_grant_that_is_not_there remaining_differs_from_burns",
        "update holds set grant_ids = '{999999}' where id = <lea holds>",
    ),
    damage(
        "a hold reserves of somebody else's grant",
        "reserved_of_a_grant_that_is_not_there remaining_differs_from_burns",
        "update holds set grant_ids = array[<<kim 10>>] where id = <lea holds>",
    ),
    # Grants.
    damage(
        "remaining is changed",
        "remaining_differs_from_burns expiring_differs_from_grants",
        "update grants set remaining = remaining - 1 where id = <<hal 10>>",
    ),
    damage(
        "expired is changed",
        "expired_differs_from_entries",
        "update grants set expired = expired - 1 where id = <<carl 9>>",
    ),
    damage(
        "a grant is of an entry that is not there",
        "grant_without_its_entry entry_expires_without_a_grant "
        "expiring_after_is_not_the_running_sum",
        "update grants set entry_id = 0 where id = <<hal 10>>",
    ),
    damage(
        "a grant is of somebody else's entry",
        "grant_without_its_entry entry_expires_without_a_grant "
        "expiring_after_is_not_the_running_sum",
        "update grants set entry_id = <ann 100> where id = <<hal 10>>",
    ),
    damage(
        "a grant is older than its entry",
        "grant_differs_from_its_entry",
        "update grants set granted_on = granted_on - interval '1 second' where id = <<hal 10>>",
    ),
    damage(
        "a grant expires later than its entry says",
        "grant_differs_from_its_entry",
        "update grants set expires_on = expires_on + interval '1 second' where id = <<hal 10>>",
    ),
    damage(
        "a grant is of another application than its entry",
        "grant_differs_from_its_entry",
        "update grants set app = 'other' where id = <<hal 10>>",
    ),
    damage(
        "an entry gave another grant",
        "grants_are_more_than_their_entry remaining_differs_from_burns "
        "expiring_after_is_not_the_running_sum",
        "create table another as select * from grants where id = <<hal 10>>",
        "update another set id = nextval('entries_id_seq'), remaining = 0",
        "insert into grants select * from another",
    ),
    damage(
        "a reversal gave a grant",
        "grant_of_what_gives_none reversal_without_its_entry",
        "update entries set operation = 'REVERSAL' where id = <kim 10>",
    ),
    damage(
        "a reversal under another name gave a grant",
        "grant_of_what_gives_none reversal_differs_from_its_entry "
        "reversal_of_what_cannot_be_reversed",
        "update entries set reverses = <mia buys> where id = <mia 4>",
    ),
    damage(
        "a grant had expired when it was given",
        "grant_expires_before_it_was_given burned_after_it_had_expired",
        "update grants set expires_on = granted_on where id = <<ann first>>",
        "update entries set expires_on = created_on where id = <ann first>",
    ),
    damage(
        "an entry says that it expires",
        "entry_expires_without_a_grant",
        "update entries set expires_on = created_on + interval '1 day' where id = <hal plain>",
    ),
    # Burns.
    damage(
        "a burn is of an entry that is not there",
        "burn_without_its_entry expiring_after_is_not_the_running_sum "
        "spent_others_before_what_expires",
        "update burns set entry_id = 0 where entry_id = <ann buys>",
    ),
    damage(
        "a burn is of somebody else's entry",
        "burn_without_its_entry expiring_after_is_not_the_running_sum",
        "update burns set entry_id = <carl buys> where entry_id = <ann captures 5>",
    ),
    damage(
        "a burn is of a grant that is not there",
        "burn_without_its_grant",
        "insert into burns values (<ann buys>, 999999, 1)",
    ),
    damage(
        "a spend burned nothing of a grant, and says so",
        "burn_has_the_wrong_sign",
        "insert into burns values (<ann captures 10>, <<ann first>>, 0)",
    ),
    damage(
        "a capture burned more than it took, for a spend",
        "burned_more_than_was_moved spent_others_before_what_expires "
        "expiring_after_is_not_the_running_sum",
        "delete from burns where entry_id = <ann buys> and grant_id = <<ann in ten days>>",
        "update burns set amount = 20 where entry_id = <ann captures 10>",
    ),
    damage(
        "an expiry burned less than expired",
        "expiry_differs_from_burns expired_differs_from_entries remaining_differs_from_burns "
        "expiring_after_is_not_the_running_sum",
        f"update burns set amount = 4 where entry_id = {CARLS_EXPIRY}",
    ),
    damage(
        "the expiry of a hold does not say of which",
        "expiry_is_of_neither_grant_nor_hold state_of_a_hold_differs_from_its_entries "
        "closed_on_is_not_when_the_hold_ended held_after_is_not_the_running_sum",
        f"update entries set hold_id = null where id = {ANNS_EXPIRY}",
    ),
    damage(
        "an expiry is of another application than its grant",
        "expiry_has_another_application_than_its_grant",
        f"update entries set app = 'other' where id = {CARLS_EXPIRY}",
    ),
    damage(
        "credits expired early",
        "expired_before_its_time",
        "update entries set effective_on = effective_on - interval '1 second' "
        f"where id = {CARLS_EXPIRY}",
    ),
    damage(
        "credits were spent after their expiry",
        "burned_after_it_had_expired",
        "update grants set expires_on = granted_on + interval '1 second' where id = <<ann first>>",
        "update entries set expires_on = created_on + interval '1 second' where id = <ann first>",
    ),
    damage(
        "credits were spent before they were given",
        "burned_before_it_was_given expiring_after_is_not_the_running_sum",
        "update burns set entry_id = <ann early> where entry_id = <ann captures 5>",
    ),
    damage(
        "a gain burned what another gave",
        "gain_took_of_another_grant expiring_after_is_not_the_running_sum",
        "update burns set entry_id = <ann late> where entry_id = <ann captures 5>",
    ),
    damage(
        "a reversal gave back what another spend had taken",
        "given_back_more_than_was_taken expiring_after_is_not_the_running_sum",
        "update burns set amount = 2 where entry_id = <hal buys>",
        "insert into burns values (<hal buys more>, <<hal 10>>, 8)",
    ),
    # Reversals.
    damage(
        "a reversal is of an entry that is not there",
        "reversal_without_its_entry",
        "update entries set reverses = 0 where id = <dora back>",
    ),
    damage(
        "a reversal is of somebody else's entry",
        "reversal_without_its_entry",
        "update entries set reverses = <eve gets> where id = <dora back>",
    ),
    damage(
        "a reversal is of another application",
        "reversal_differs_from_its_entry",
        "update entries set app = 'other' where id = <dora back>",
    ),
    damage(
        "a gain reverses a gain",
        "reversal_differs_from_its_entry",
        "update entries set reverses = <hal plain> where id = <hal back more>",
    ),
    damage(
        "a reversal is called what its application does not know",
        "reversal_differs_from_its_entry",
        "delete from operations where operation = 'GIFT'",
    ),
    damage(
        "a transfer is reversed under another name",
        "reversal_differs_from_its_entry",
        "update entries set operation = 'GIFT' where id = <ann to bob back>",
    ),
    damage(
        "a reversal reverses nothing",
        "reversal_without_its_entry",
        "update entries set operation = 'REVERSAL', reverses = null where id = <mia less>",
    ),
    damage(
        "a reversal under another name is reversed",
        "reversal_of_what_cannot_be_reversed reversal_differs_from_its_entry",
        "update entries set reverses = <mia back> where id = <mia less>",
    ),
    damage(
        "a gain gave back, and does not say what it reverses",
        "burn_has_the_wrong_sign gain_took_of_another_grant given_back_more_than_was_taken",
        "update entries set reverses = null where id = <mia back>",
    ),
    damage(
        "an expiry is reversed",
        "reversal_of_what_cannot_be_reversed reversal_differs_from_its_entry",
        f"update entries set reverses = {CARLS_EXPIRY} where id = <carl back>",
    ),
    damage(
        "more of a spend is reversed than it was",
        "reversed_more_than_the_entry",
        "update entries set reverses = <hal buys> where id = <hal back more>",
    ),
    # Groups and transfers.
    damage(
        "the first entry of a group left it",
        "group_without_its_first_entry",
        "update entries set group_id = null where id = <fay and gus>",
    ),
    damage(
        "the second entry of a group has another nonce",
        "entry_of_a_group_has_another_nonce",
        "update entries set nonce = 'another' where group_id = <fay and gus> and owner_id = 'gus'",
    ),
    damage(
        "one half of a transfer is something else",
        "transfer_does_not_net_to_zero transfer_is_not_of_two_owners",
        "update entries set operation = 'GIFT' where group_id = <ida to bob> and owner_id = 'bob'",
    ),
    damage(
        "a transfer changed a priority",
        "transfer_changed_what_expires",
        "update grants set priority = 11 where owner_id = 'bob'",
    ),
    damage(
        "something is left of transfers",
        "transfers_do_not_net_to_zero posted_differs_from_entries",
        "update accounts set posted = posted + 1 where owner_id = '@transfers'",
        "update accounts set posted = posted - 1 where owner_id = '@issued'",
    ),
    damage(
        "a system account holds",
        "held_of_a_system_account",
        "update accounts set held = 1 where owner_id = '@issued'",
    ),
    damage(
        "a system account expires",
        "expiring_of_a_system_account",
        "update accounts set expiring = 1 where owner_id = '@issued'",
    ),
    damage(
        "a system account owes",
        "debt_of_a_system_account",
        "update accounts set debt = 1 where owner_id = '@issued'",
    ),
    # Budgets.
    damage(
        "more was given of a budget",
        "spent_differs_from_entries",
        "update budgets set spent = spent + 1 where period = 'ever'",
    ),
    damage(
        "less was given of a day's budget",
        "spent_differs_from_entries",
        "update budgets set spent = spent - 1 where period = '2026-03-04'",
    ),
    damage(
        "a gain is not of its budget any more",
        "spent_differs_from_entries",
        "update budgets set after_id = <ever 0> where period = 'ever'",
    ),
]


@pytest.fixture
def open_to_damage(rich: Engine) -> Iterator[Connection]:
    """A transaction without triggers and constraints; nothing of it is kept."""
    with rich.connect() as connection:
        connection.execute(sa.text("set transaction isolation level repeatable read"))
        connection.execute(sa.text(f"set local search_path = {SCHEMA}"))
        connection.execute(sa.text("set local session_replication_role = replica"))
        guards = connection.execute(
            sa.text(
                "select conrelid::regclass::text, conname from pg_constraint "
                f"where connamespace = '{SCHEMA}'::regnamespace and contype in ('c', 'u')"
            )
        ).all()
        for table, name in guards:
            connection.execute(sa.text(f"alter table {table} drop constraint {name}"))
        yield connection
        connection.rollback()


@pytest.mark.parametrize("damaged", DAMAGE, ids=repr)
def test_damage_is_found_and_nothing_else(
    open_to_damage: Connection, damaged: Damage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proof, "RANGE_ENTRIES", 4)
    for statement in damaged.statements:
        done = open_to_damage.execute(sa.text(ids_for(statement)))
        assert done.rowcount != 0, statement
    report = verify(open_to_damage, book_tables(SCHEMA))
    assert {found.kind for found in report.disagreements} == damaged.kinds


def test_what_a_reversal_gives_back_is_of_no_budget(open_to_damage: Connection) -> None:
    named = "update entries set operation = 'PROMOTION' where id = <mia back>"
    assert open_to_damage.execute(sa.text(ids_for(named))).rowcount == 1
    assert verify(open_to_damage, book_tables(SCHEMA)).disagreements == []


def test_every_question_is_answered_by_some_damage() -> None:
    asked = {kind for part in (*BY_OWNERS, *WHOLE) for kind in part.questions}
    assert asked - {kind for damaged in DAMAGE for kind in damaged.kinds} == set()
