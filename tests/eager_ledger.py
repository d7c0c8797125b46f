"""A ledger in a few lists, written to be obviously right: it expires eagerly, as time moves."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from shared_ledger import (
    Application,
    BaseLedgerOperation,
    CaptureHold,
    Group,
    PlaceHold,
    Posting,
    ReleaseHold,
    Reversal,
    Rule,
    Transfer,
)

INSTANT = timedelta(microseconds=1)
SECOND, MINUTE, HOUR, DAY = (timedelta(seconds=s) for s in (1, 60, 3_600, 86_400))


class ClubOperation(BaseLedgerOperation):
    """What a club gives and takes."""

    DAILY_REWARD = "DAILY_REWARD"
    SIGNUP_CREDIT = "SIGNUP_CREDIT"
    CREDIT_SPEND = "CREDIT_SPEND"
    CREDIT_ADD = "CREDIT_ADD"
    WEEKLY_BONUS = "WEEKLY_BONUS"
    MONTHLY_BONUS = "MONTHLY_BONUS"
    TOP_UP = "TOP_UP"
    VOUCHER = "VOUCHER"
    PRIZE = "PRIZE"
    PURCHASE = "PURCHASE"
    RETURN = "RETURN"
    VISIT = "VISIT"


RULES = {
    ClubOperation.DAILY_REWARD: Rule.fixed(4, once="day", expires_in=2 * DAY, priority=3),
    ClubOperation.WEEKLY_BONUS: Rule.fixed(7, once="week", expires_in=7 * DAY),
    ClubOperation.MONTHLY_BONUS: Rule.fixed(20, once="month"),
    ClubOperation.TOP_UP: Rule.variable(minimum=1, maximum=1_000, default=8),
    ClubOperation.VOUCHER: Rule.variable(
        minimum=1, maximum=1_000, expires_in=3 * HOUR, priority=2, counterparty="@vouchers"
    ),
    ClubOperation.PRIZE: Rule.variable(minimum=1, maximum=1_000, budget=60, daily_budget=25),
    ClubOperation.PURCHASE: Rule.variable(minimum=-1_000, maximum=-1, default=-3),
    ClubOperation.RETURN: Rule.variable(minimum=-9, maximum=9),
    ClubOperation.VISIT: Rule.fixed(0),
}
CLUB, KIOSK = (Application(name, ClubOperation, rules=RULES) for name in ("club", "kiosk"))


# The model


@dataclass
class Taken:
    """What was taken: so much of which lots, in that order, and then plain credits."""

    pieces: list[tuple[int, int]] = field(default_factory=list)
    plain: int = 0

    @property
    def total(self) -> int:
        return self.plain + sum(amount for _, amount in self.pieces)


@dataclass
class Lot:
    """Credits that expire. ``source`` is the line that gave them; ``free`` can be spent."""

    number: int
    source: int
    app: str
    owner: str
    amount: int
    free: int
    priority: int
    given_on: datetime
    expires_on: datetime
    expired: int = 0

    @property
    def order(self) -> tuple[int, datetime, datetime, int]:
        return self.priority, self.expires_on, self.given_on, self.number


@dataclass
class Line:
    """What the ledger wrote for a request; ``id`` is the product's."""

    number: int
    app: str
    operation: str
    owner: str
    amount: int
    at: datetime
    balance: int
    held: int
    expiring: int
    nonce: str
    metadata: Any
    taken: Taken
    first: int | None
    reverses: int | None
    hold: int | None
    expires_on: datetime | None
    priority: int | None
    reversed: int = 0
    id: int = 0


@dataclass
class Reserve:
    """A hold; ``number`` is that of the line that placed it, ``taken`` what it reserves now."""

    number: int
    app: str
    operation: str
    owner: str
    amount: int
    placed_on: datetime
    expires_on: datetime
    taken: Taken
    captured: int = 0
    state: str = "open"
    closed_on: datetime | None = None


class Numbers(NamedTuple):
    """A balance."""

    balance: int
    available: int
    held: int
    expiring: int
    debt: int


@dataclass
class Yes:
    """The lines that were written; for a hold also how it was then."""

    lines: list[int]
    hold: Reserve | None = None
    replayed: bool = False


@dataclass
class No:
    """A refusal's code and what is known of its data."""

    code: str
    data: dict[str, Any] = field(default_factory=dict)


class Used(NamedTuple):
    """What a nonce was used for."""

    kind: str
    body: dict[str, Any]
    answer: Yes


def kind_of(request: Any) -> str:
    kinds: dict[Any, str] = {
        Posting: "posting",
        Group: "group",
        Transfer: "transfer",
        PlaceHold: "hold",
        CaptureHold: "capture",
        ReleaseHold: "release",
        Reversal: "reversal",
    }
    return kinds[type(request)]


class Model:
    """A ledger in a few lists. Time stands still but for ``move``."""

    def __init__(self, now: datetime) -> None:
        self.now = now
        self.plain: dict[str, int] = {}
        self.lots: list[Lot] = []
        self.holds: list[Reserve] = []
        self.lines: list[Line] = []
        self.used: dict[tuple[str, str, str], Used] = {}
        self.claims: list[tuple[str, str, str, datetime]] = []
        self.prizes: list[tuple[str, str, datetime, int]] = []
        self.past: dict[str, list[tuple[datetime, Numbers]]] = {}

    # What an owner has

    def lots_of(self, owner: str) -> list[Lot]:
        return sorted((lot for lot in self.lots if lot.owner == owner), key=lambda lot: lot.order)

    def open_holds(self, owner: str) -> list[Reserve]:
        held = [hold for hold in self.holds if hold.owner == owner and hold.state == "open"]
        return sorted(held, key=lambda hold: (hold.expires_on, hold.number))

    def numbers(self, owner: str) -> Numbers:
        free = self.plain.get(owner, 0) + sum(lot.free for lot in self.lots_of(owner))
        reserved = [hold.taken for hold in self.open_holds(owner)]
        held = sum(taken.total for taken in reserved)
        return Numbers(
            balance=free + held,
            available=max(0, free),
            held=held,
            expiring=sum(lot.free for lot in self.lots_of(owner))
            + sum(taken.total - taken.plain for taken in reserved),
            debt=max(0, -free),
        )

    def at(self, owner: str, time: datetime) -> Numbers:
        """What he had then: what was remembered last."""
        before = [numbers for at, numbers in self.past.get(owner, []) if at <= time]
        return before[-1] if before else Numbers(0, 0, 0, 0, 0)

    def remember(self) -> None:
        for owner in self.plain:
            self.past.setdefault(owner, []).append((self.now, self.numbers(owner)))

    # Taking and giving

    def take(self, owner: str, amount: int, first: int | None = None) -> Taken:
        """Take lots in their order, but those of the line ``first`` first; then the rest."""
        taken = Taken()
        for lot in sorted(self.lots_of(owner), key=lambda lot: lot.source != first):
            piece = min(lot.free, amount - taken.total)
            if piece > 0:
                lot.free -= piece
                taken.pieces.append((lot.number, piece))
        taken.plain = amount - taken.total
        self.plain[owner] = self.plain.get(owner, 0) - taken.plain
        return taken

    def pay_debt(self, owner: str, amount: int) -> int:
        """Pay with credits that expire what is owed; return what is left of them."""
        paid = min(amount, max(0, -self.plain[owner]))
        self.plain[owner] += paid
        return amount - paid

    def give(
        self,
        owner: str,
        plain: int,
        lots: Sequence[tuple[str, int, datetime, int]] = (),
    ) -> None:
        """Give plain credits, which pay debt of themselves, and then lots."""
        self.plain[owner] = self.plain.get(owner, 0) + plain
        for app, amount, expires_on, priority in lots:
            free = self.pay_debt(owner, amount)
            number, source = len(self.lots), len(self.lines)
            self.lots.append(
                Lot(number, source, app, owner, amount, free, priority, self.now, expires_on)
            )

    def give_back(self, owner: str, taken: Taken) -> None:
        """Give back what was taken. What has expired of it is dropped when the line is written."""
        self.plain[owner] += taken.plain
        for number, amount in reversed(taken.pieces):
            lot = self.lots[number]
            lot.free += self.pay_debt(owner, amount) if lot.expires_on > self.now else amount

    # Time

    def drop_expired(self) -> None:
        for lot in self.lots:
            if lot.expires_on <= self.now:
                lot.expired += lot.free
                lot.free = 0

    def next_expiry(self) -> datetime | None:
        times = [hold.expires_on for hold in self.holds if hold.state == "open"]
        times += [lot.expires_on for lot in self.lots if lot.free]
        return min(times, default=None)

    def move(self, to: datetime) -> None:
        """Let everything expire on the way, each at its own time, the soonest first."""
        while (following := self.next_expiry()) is not None and following <= to:
            self.now = following
            for hold in self.holds:
                if hold.state == "open" and hold.expires_on <= self.now:
                    self.close(hold, "expired")
            self.drop_expired()
            self.remember()
        self.now = to

    def close(self, hold: Reserve, state: str) -> None:
        hold.state, hold.closed_on = state, self.now
        unused, hold.taken = hold.taken, Taken()
        self.give_back(hold.owner, unused)

    # Requests

    def ask(self, app: Application[Any], request: Any) -> Yes | No:
        """Answer a request; a refusal changes nothing."""
        wrong = self.wrong(app, request)
        if wrong is not None:
            return wrong
        key = (app.name, self.whose(request), request.nonce)
        used = self.used.get(key)
        if used is not None:
            return self.again(used, request)
        answer = getattr(self, kind_of(request))(app, request)
        if isinstance(answer, Yes):
            self.used[key] = Used(kind_of(request), self.body(app, request, answer), answer)
            self.drop_expired()
            self.remember()
        assert isinstance(answer, Yes | No)
        return answer

    def ask_all(
        self, app: Application[Any], requests: Sequence[Any], *, atomic: bool
    ) -> list[Yes | No]:
        """Answer requests in order; together all or none are done."""
        if not atomic:
            return [self.ask(app, request) for request in requests]
        wrong = [self.wrong(app, request) for request in requests]
        trial = deepcopy(self)
        answers: list[Any] = wrong
        if not any(wrong):
            answers = [trial.ask(app, request) for request in requests]
        refused = [number for number, one in enumerate(answers) if isinstance(one, No)]
        if not refused:
            self.__dict__ = trial.__dict__
            return answers
        why = {"position": refused[0], "reason": answers[refused[0]].code}
        return [one if isinstance(one, No) else No("batch_refused", why) for one in answers]

    def line_of(self, entry_id: int) -> Line | None:
        return next((line for line in self.lines if line.id == entry_id), None)

    def hold_of(self, hold_id: int) -> Reserve | None:
        return next((hold for hold in self.holds if self.lines[hold.number].id == hold_id), None)

    def both(self, line: Line) -> list[Line]:
        """The line, or of a transfer both, the source's first."""
        if line.operation != "TRANSFER":
            return [line]
        return [other for other in self.lines if other.first == line.first]

    def whose(self, request: Any) -> str:
        """Whose nonce it is."""
        owner: Any = None
        match request:
            case Posting() | PlaceHold():
                owner = request.owner_id
            case Group():
                owner = request.parts[0].owner_id
            case Transfer():
                owner = request.source
            case CaptureHold() | ReleaseHold():
                hold = self.hold_of(request.hold_id)
                owner = hold and hold.owner
            case Reversal():
                line = self.line_of(request.entry_id)
                owner = line and self.both(line)[0].owner
        assert isinstance(owner, str)
        return owner

    def wrong(  # noqa: C901, PLR0911  # one short case for each kind of request
        self, app: Application[Any], request: Any
    ) -> No | None:
        """Refuse what is wrong whatever the book holds."""
        match request:
            case Posting():
                return self.wrong_part(app, request)
            case Group():
                wrongs = [self.wrong_part(app, part) for part in request.parts]
                return next(filter(None, wrongs), None)
            case Transfer():
                same = request.source == request.destination
                return No("invalid_posting", {"field": "destination"}) if same else None
            case PlaceHold():
                rule = app.rules[request.operation]
                if rule.minimum >= 0:
                    return No("invalid_posting", {"field": "operation"})
                if request.amount is None:
                    return None if (rule.default or 0) < 0 else No("invalid_posting")
                fits = rule.minimum <= -request.amount <= rule.maximum
                return None if fits else No("invalid_posting", {"field": "amount"})
            case CaptureHold() | ReleaseHold():
                hold = self.hold_of(request.hold_id)
                if hold is None or hold.app != app.name:
                    return No("hold_not_found", {"hold_id": request.hold_id})
            case Reversal():
                line = self.line_of(request.entry_id)
                if line is None or line.app != app.name:
                    return No("entry_not_found", {"entry_id": request.entry_id})
                if line.reverses is not None or line.amount == 0:
                    return No("not_reversible", {"entry_id": request.entry_id})
                return self.wrong_name(app, request, line)
        return None

    def wrong_name(self, app: Application[Any], request: Reversal[Any], line: Line) -> No | None:
        """Refuse to show the reversal of a line as what it cannot be."""
        if request.operation is None:
            return None
        rule = app.rules[request.operation]
        limited = (rule.once, rule.expires_in, rule.budget, rule.daily_budget) != (None,) * 4
        if line.operation == "TRANSFER" or limited:
            return No("invalid_posting", {"field": "operation"})
        return self.unruly(app, request, line, request.amount)

    def unruly(
        self, app: Application[Any], request: Reversal[Any], line: Line, amount: int | None
    ) -> No | None:
        """Refuse what the operation that shows a reversal would not move, if that is known."""
        if request.operation is None or amount is None:
            return None
        rule = app.rules[request.operation]
        back = -amount if line.amount > 0 else amount
        fits = rule.minimum <= back <= rule.maximum
        return None if fits else No("invalid_posting", {"field": "amount"})

    def wrong_part(self, app: Application[Any], part: Any) -> No | None:
        rule = app.rules[part.operation]
        amount = rule.default if part.amount is None else part.amount
        if amount is None or not rule.minimum <= amount <= rule.maximum:
            return No("invalid_posting")
        if amount <= 0 and (part.expires_in is not None or part.priority is not None):
            return No("invalid_posting")
        if part.priority is not None and part.expires_in is None and rule.expires_in is None:
            return No("invalid_posting")
        return None

    # Nonces

    def body(  # noqa: PLR0911  # one short case for each kind of request
        self, app: Application[Any], request: Any, answer: Yes | None
    ) -> dict[str, Any]:
        """What is compared of a request, in that order; with an answer also what it left out."""
        lines = [] if answer is None else [self.lines[number] for number in answer.lines]
        metadata = {"metadata": getattr(request, "metadata", None)}
        match request:
            case Posting():
                return part_of(request, lines[0] if lines else None)
            case Group():
                body: dict[str, Any] = {"parts": len(request.parts)}
                for number, part in enumerate(request.parts):
                    fields = part_of(part, lines[number] if lines else None)
                    named = {"owner_id": part.owner_id, **fields}
                    body |= {f"parts[{number}].{name}": value for name, value in named.items()}
                return body
            case Transfer():
                return {
                    "destination": request.destination,
                    "amount": request.amount,
                    **metadata,
                }
            case PlaceHold():
                amount, lasts, until = request.amount, request.expires_in, request.expires_at
                if answer is not None and answer.hold is not None:
                    hold = answer.hold
                    amount, until = hold.amount, hold.expires_on
                    lasts = hold.expires_on - hold.placed_on
                return {
                    "operation": request.operation,
                    "amount": amount,
                    "expires_in": lasts,
                    "expires_at": until,
                    **metadata,
                }
            case CaptureHold():
                amount = -lines[0].amount if lines else request.amount
                return {
                    "hold_id": request.hold_id,
                    "amount": amount,
                    "final": request.final,
                    **metadata,
                }
            case ReleaseHold():
                return {"hold_id": request.hold_id}
            case _:
                line = self.line_of(request.entry_id)
                assert line is not None
                amount = abs(lines[0].amount) if lines else request.amount
                operation = lines[0].operation if lines else request.operation
                first = self.both(line)[0].id
                return {"entry_id": first, "operation": operation, "amount": amount, **metadata}

    def again(self, used: Used, request: Any) -> Yes | No:
        """Answer as the first time, if what is given now agrees."""
        if used.kind != kind_of(request):
            return No("nonce_reused_with_different_kind")
        for name, value in self.body(CLUB, request, None).items():
            left_out = value is None and not name.endswith("metadata")
            if not left_out and value != used.body.get(name):
                return No(f"nonce_reused_with_different_{name.rpartition('.')[2]}")
        return replace(used.answer, replayed=True)

    # What is written

    def write(
        self,
        app: Application[Any],
        operation: str,
        owner: str,
        amount: int,
        nonce: str = "",
        **more: Any,
    ) -> int:
        """Write a line about an owner who has by now what he will have after it."""
        self.plain.setdefault(owner, 0)
        numbers = self.numbers(owner)
        fields: dict[str, Any] = dict.fromkeys(
            ("metadata", "first", "reverses", "hold", "expires_on", "priority")
        )
        fields |= {"taken": Taken(), **more}
        line = Line(
            number=len(self.lines),
            app=app.name,
            operation=operation,
            owner=owner,
            amount=amount,
            at=self.now,
            balance=numbers.balance,
            held=numbers.held,
            expiring=numbers.expiring,
            nonce=nonce,
            **fields,
        )
        self.lines.append(line)
        return line.number

    def too_little(self, owner: str, required: int) -> No | None:
        available = self.numbers(owner).available
        if available >= required:
            return None
        data = {"owner_id": owner, "available": available, "required": required}
        return No("insufficient_credits", data)

    def posting(self, app: Application[Any], request: Any) -> Yes | No:
        answer = self.part(app, request, nonce=request.nonce)
        return answer if isinstance(answer, No) else Yes([answer])

    def group(self, app: Application[Any], request: Group[Any]) -> Yes | No:
        trial, first = deepcopy(self), len(self.lines)
        for number, part in enumerate(request.parts):
            nonce = "" if number else request.nonce
            answer = trial.part(app, part, nonce=nonce, first=first)
            if isinstance(answer, No):
                return answer
        self.__dict__ = trial.__dict__
        return Yes(list(range(first, len(self.lines))))

    def part(self, app: Application[Any], part: Any, **more: Any) -> int | No:
        """Post one operation; return the number of its line."""
        rule, owner, operation = app.rules[part.operation], part.owner_id, str(part.operation)
        amount = rule.default if part.amount is None else part.amount
        assert amount is not None
        if rule.once is not None:
            for claim in self.claims:
                if claim[:3] == (app.name, owner, operation) and same(
                    rule.once, claim[3], self.now
                ):
                    period = last_day(rule.once, self.now)
                    return No("already_claimed", {"operation": operation, "period": period})
        if amount < 0 and (refusal := self.too_little(owner, -amount)):
            return refusal
        if amount > 0 and (spent := self.over_budget(app.name, operation, rule, amount)):
            return spent
        if rule.once is not None:
            self.claims.append((app.name, owner, operation, self.now))
        if amount > 0:
            self.prizes.append((app.name, operation, self.now, amount))
        more["metadata"] = part.metadata
        lasts = part.expires_in or rule.expires_in
        if amount < 0:
            more["taken"] = self.take(owner, -amount)
        elif amount > 0 and lasts is not None:
            priority = rule.priority if part.priority is None else part.priority
            more |= {"expires_on": self.now + lasts, "priority": priority}
            self.give(owner, 0, [(app.name, amount, self.now + lasts, priority)])
        else:
            self.give(owner, amount)
        return self.write(app, operation, owner, amount, **more)

    def over_budget(self, app: str, operation: str, rule: Rule, amount: int) -> No | None:
        given = [(at, n) for a, o, at, n in self.prizes if (a, o) == (app, operation)]
        today = [(at, n) for at, n in given if at.date() == self.now.date()]
        for period, budget, counted in (
            ("ever", rule.budget, given),
            (self.now.date().isoformat(), rule.daily_budget, today),
        ):
            if budget is not None:
                left = budget - sum(n for _, n in counted)
                if amount > left:
                    data = {"period": period, "budget": budget, "left": left, "required": amount}
                    return No("budget_spent", data)
        return None

    def transfer(self, app: Application[Any], request: Transfer) -> Yes | No:
        amount = request.amount
        if refusal := self.too_little(request.source, amount):
            return refusal
        taken = self.take(request.source, amount)
        more: dict[str, Any] = {"metadata": request.metadata, "first": len(self.lines)}
        first = self.write(
            app, "TRANSFER", request.source, -amount, request.nonce, taken=taken, **more
        )
        lots = [(self.lots[number], piece) for number, piece in taken.pieces]
        self.give(
            request.destination,
            taken.plain,
            [(lot.app, piece, lot.expires_on, lot.priority) for lot, piece in lots],
        )
        return Yes([first, self.write(app, "TRANSFER", request.destination, amount, **more)])

    def hold(self, app: Application[Any], request: PlaceHold[Any]) -> Yes | No:
        rule, owner = app.rules[request.operation], request.owner_id
        amount = -(rule.default or 0) if request.amount is None else request.amount
        expires_on = request.expires_at or self.now + (request.expires_in or 7 * DAY)
        if expires_on <= self.now:
            return No("invalid_posting", {"field": "expires_at"})
        if refusal := self.too_little(owner, amount):
            return refusal
        number, operation = len(self.lines), str(request.operation)
        taken = self.take(owner, amount)
        hold = Reserve(
            number, app.name, operation, owner, amount, self.now, expires_on, deepcopy(taken)
        )
        self.holds.append(hold)
        self.write(app, operation, owner, 0, request.nonce, hold=number, metadata=request.metadata)
        return Yes([number], deepcopy(hold))

    def ended(self, hold: Reserve) -> No | None:
        """Refuse to touch a hold that has ended."""
        if hold.state == "open":
            return None
        if hold.state == "expired":
            return No("hold_expired", {"expires_on": hold.expires_on})
        return No("hold_closed", {"state": hold.state})

    def capture(self, app: Application[Any], request: CaptureHold) -> Yes | No:
        hold = self.hold_of(request.hold_id)
        assert hold is not None
        if refusal := self.ended(hold):
            return refusal
        remaining = hold.taken.total
        amount = remaining if request.amount is None else request.amount
        if amount > remaining:
            return No("hold_exceeded", {"remaining": remaining, "required": amount})
        spent, kept = Taken(), Taken()
        for number, size in hold.taken.pieces:
            piece = min(size, amount - spent.total)
            spent.pieces += [(number, piece)] if piece else []
            kept.pieces += [(number, size - piece)] if size > piece else []
        spent.plain = amount - spent.total
        kept.plain = hold.taken.plain - spent.plain
        hold.taken = kept
        hold.captured += amount
        if request.final or kept.total == 0:
            self.close(hold, "captured")
        more = {"taken": spent, "hold": hold.number, "metadata": request.metadata}
        return Yes([self.write(app, hold.operation, hold.owner, -amount, request.nonce, **more)])

    def release(self, app: Application[Any], request: ReleaseHold) -> Yes | No:
        hold = self.hold_of(request.hold_id)
        assert hold is not None
        if refusal := self.ended(hold):
            return refusal
        self.close(hold, "released")
        number = self.write(app, hold.operation, hold.owner, 0, request.nonce, hold=hold.number)
        return Yes([number], deepcopy(hold))

    def left(self, line: Line) -> int:
        """What can be reversed of a line: not what was, and not what has expired of it."""
        expired = sum(lot.expired for lot in self.lots if lot.source == line.number)
        return max(0, abs(line.amount) - line.reversed - (expired if line.amount > 0 else 0))

    def reversal(self, app: Application[Any], request: Reversal[Any]) -> Yes | No:
        named = self.line_of(request.entry_id)
        assert named is not None
        lines = self.both(named)
        left = min(map(self.left, lines))
        amount = left if request.amount is None else request.amount
        if amount == 0 or amount > left:
            required = abs(named.amount) if request.amount is None else amount
            data = {"entry_id": lines[0].id, "left": left, "required": required}
            return No("reversal_exceeds_entry", data)
        if unruly := self.unruly(app, request, lines[0], amount):
            return unruly
        for line in lines:
            if line.amount > 0 and (refusal := self.too_little(line.owner, amount)):
                # What a hold reserves may expire: it cannot be counted upon to pay a debt.
                reserved = any(hold.taken.pieces for hold in self.open_holds(line.owner))
                if reserved or not request.allow_debt:
                    return refusal
        first = len(self.lines) if len(lines) > 1 else None
        written: list[int] = []
        for line in lines:
            back = -amount if line.amount > 0 else amount
            if line.amount > 0:
                self.take(line.owner, amount, first=line.number)
            else:
                self.give_back(line.owner, self.last_of(line, amount))
            line.reversed += amount
            nonce = "" if written else request.nonce
            more = {"reverses": line.number, "first": first, "metadata": request.metadata}
            name = str(request.operation or "REVERSAL")
            written.append(self.write(app, name, line.owner, back, nonce, **more))
        return Yes(written)

    def last_of(self, line: Line, amount: int) -> Taken:
        """What a spend took last, of what has not been given back yet."""
        unwound: list[tuple[int | None, int]] = [(None, line.taken.plain)]
        unwound += reversed(line.taken.pieces)
        skip, back = line.reversed, Taken()
        for number, size in unwound:
            skipped = min(skip, size)
            skip -= skipped
            piece = min(size - skipped, amount - back.total)
            if number is None:
                back.plain = piece
            elif piece:
                back.pieces.insert(0, (number, piece))
        return back


def part_of(part: Any, line: Line | None) -> dict[str, Any]:
    """What is compared of a posting."""
    amount, lasts, priority = part.amount, part.expires_in, part.priority
    if line is not None:
        amount, priority = line.amount, line.priority
        lasts = None if line.expires_on is None else line.expires_on - line.at
    return {
        "operation": str(part.operation),
        "amount": amount,
        "metadata": part.metadata,
        "expires_in": lasts,
        "priority": priority,
    }


def same(once: str, one: datetime, other: datetime) -> bool:
    """Whether two times are in one period."""
    periods: dict[str, tuple[object, object]] = {
        "ever": (True, True),
        "day": (one.date(), other.date()),
        "week": (one.isocalendar()[:2], other.isocalendar()[:2]),
        "month": ((one.year, one.month), (other.year, other.month)),
    }
    before, now = periods[once]
    return before == now


def last_day(once: str, at: datetime) -> str:
    """The last day of a period, found by walking."""
    if once == "ever":
        return "ever"
    while same(once, at, at + DAY):
        at += DAY
    return at.date().isoformat()
