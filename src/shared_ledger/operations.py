"""What an application may do to the book: its operations, and the rule of each.

An application declares its operations as an enum of strings, in a class body::

    class ContentOperation(BaseLedgerOperation):
        DAILY_REWARD = "DAILY_REWARD"
        SIGNUP_CREDIT = "SIGNUP_CREDIT"
        CREDIT_SPEND = "CREDIT_SPEND"
        CREDIT_ADD = "CREDIT_ADD"
        CONTENT_CREATION = "CONTENT_CREATION"

or by composing values::

    BaseLedgerOperation("ContentOperation", {**APP_OPERATION_VALUES, **SHARED_OPERATION_VALUES})

and gives each of its own a rule::

    CONTENT = Application(
        "content", ContentOperation, rules={ContentOperation.CONTENT_CREATION: Rule.fixed(-5)}
    )
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, Literal, Self, TypeVar, get_args, overload

from shared_ledger.errors import ConfigurationError, InvalidPosting

INT64_MIN = -(2**63)
INT64_MAX = 2**63 - 1
CREDITS = "credits"

Once = Literal["ever", "day", "week", "month"]
Poster = Literal["user", "service"]

SHARED_OPERATION_VALUES: Mapping[str, str] = MappingProxyType(
    {name: name for name in ("DAILY_REWARD", "SIGNUP_CREDIT", "CREDIT_SPEND", "CREDIT_ADD")}
)
"""The operations that every application has, ready to be composed with its own."""

TRANSFER = "TRANSFER"
REVERSAL = "REVERSAL"
EXPIRY = "EXPIRY"
LEDGER_OPERATIONS = (TRANSFER, REVERSAL, EXPIRY)
"""What the ledger itself writes: no application can declare these."""

TRANSFERS = "@transfers"
EXPIRED = "@expired"

MAX_LIFETIME = timedelta(days=36_525)
MAX_PRIORITY = 1_000

# A PostgreSQL enum label holds 63 bytes; letters, digits and underscores need no quoting anywhere.
_LABEL = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,62}")
# Names the table "<application>_version" too, and a table's name holds 63 bytes.
_APPLICATION_NAME = re.compile(r"[a-z][a-z0-9_]{0,54}")
_SYSTEM_ACCOUNT = re.compile(r"@[a-z][a-z0-9_:.-]{0,126}")
_ASSET = re.compile(r"[a-z][a-z0-9_]{0,31}")


class BaseLedgerOperation(StrEnum):
    """Base of every application's operations.

    Defining a class raises ``TypeError`` when it lacks one of the four shared operations
    (``SHARED_OPERATION_VALUES``), when a value is not a label of letters, digits and underscores or
    is one of the ledger's own (``TRANSFER``, ``REVERSAL``, ``EXPIRY``), or when two names share a
    value.

    Type checkers know the members of a class body. They cannot know those of a composition: mypy
    takes it for ``Any``; Pyright takes every composed enum for a member, so tell it better with
    ``cast("type[Any]", BaseLedgerOperation(name, values))``.
    """

    if TYPE_CHECKING:

        @overload
        def __new__(cls, value: str, /) -> Self: ...
        @overload
        def __new__(cls, name: str, values: Mapping[str, str], /) -> Any: ...
        def __new__(cls, *_: Any) -> Any: ...  # noqa: D102

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        values = {name: member.value for name, member in cls.__members__.items()}
        missing = [name for name in SHARED_OPERATION_VALUES if values.get(name) != name]
        if missing:
            raise TypeError(
                f"{cls.__name__} lacks the shared operations {', '.join(missing)}: "
                "add them, or compose with SHARED_OPERATION_VALUES"
            )
        for name, value in values.items():
            if not isinstance(value, str) or not _LABEL.fullmatch(value):
                raise TypeError(
                    f"{cls.__name__}.{name} = {value!r}: an operation is 1 to 63 letters, "
                    "digits and underscores and begins with a letter"
                )
            if value in LEDGER_OPERATIONS:
                raise TypeError(
                    f"{cls.__name__}.{name} = {value!r} is an operation of the ledger itself: "
                    "choose another name"
                )
        if len(set(values.values())) < len(values):
            raise TypeError(f"{cls.__name__} gives two names to one operation")

    # A member finds what its string finds, and faster than by the hash of its name.
    __hash__ = str.__hash__


class SharedOperation(BaseLedgerOperation):
    """The four shared operations and nothing else: what the command line and `make run` serve."""

    DAILY_REWARD = "DAILY_REWARD"
    SIGNUP_CREDIT = "SIGNUP_CREDIT"
    CREDIT_SPEND = "CREDIT_SPEND"
    CREDIT_ADD = "CREDIT_ADD"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What one operation does: made by ``Rule.fixed`` or ``Rule.variable``.

    Attributes
    ----------
    minimum, maximum
        Bounds of the amount in whole units of the asset, signed from the owner's side, inclusive.
        Equal bounds are a fixed amount.
    default
        What a posting without an amount moves, within the bounds; ``None``: it must say one. A
        fixed amount is its own default.
    counterparty
        The system account (``@…``) on the other side of the entry.
    asset
        What is moved.
    posted_by
        Who may post it: ``"user"`` (an owner, for himself) or ``"service"`` (a trusted program).
    once
        ``"ever"``, ``"day"``, ``"week"`` (from Monday) or ``"month"``, in UTC by the database's
        clock: an owner may have it once in each from one application. ``None`` is no limit.
    expires_in
        How long what it gives can be spent; ``None`` is for ever. A posting may say otherwise.
    priority
        Which expiring credits are spent first: 0 to 1,000, the lowest first.
    budget, daily_budget
        The most that it may give to all owners together, ever and on one UTC day, in whole units;
        ``None`` is no limit. A reversal does not give it back.
    """

    minimum: int
    maximum: int
    default: int | None = None
    counterparty: str
    asset: str = CREDITS
    posted_by: frozenset[Poster] = frozenset({"service"})
    once: Once | None = None
    expires_in: timedelta | None = None
    priority: int = 0
    budget: int | None = None
    daily_budget: int | None = None
    plain: bool = field(init=False, repr=False, compare=False)
    """Whether what it gives neither expires nor has a budget."""

    @classmethod
    def fixed(
        cls,
        amount: int,
        *,
        counterparty: str | None = None,
        asset: str = CREDITS,
        posted_by: frozenset[Poster] = frozenset({"service"}),
        once: Once | None = None,
        expires_in: timedelta | None = None,
        priority: int = 0,
        budget: int | None = None,
        daily_budget: int | None = None,
    ) -> Rule:
        """Make a rule with one signed amount.

        Without a counterparty, spends go to ``@spent`` and gains come from ``@issued``.
        """
        return cls.variable(
            minimum=amount,
            maximum=amount,
            default=amount,
            counterparty=counterparty,
            asset=asset,
            posted_by=posted_by,
            once=once,
            expires_in=expires_in,
            priority=priority,
            budget=budget,
            daily_budget=daily_budget,
        )

    @classmethod
    def variable(
        cls,
        *,
        minimum: int,
        maximum: int,
        default: int | None = None,
        counterparty: str | None = None,
        asset: str = CREDITS,
        posted_by: frozenset[Poster] = frozenset({"service"}),
        once: Once | None = None,
        expires_in: timedelta | None = None,
        priority: int = 0,
        budget: int | None = None,
        daily_budget: int | None = None,
    ) -> Rule:
        """Make a rule whose amount the caller chooses between two bounds, inclusive.

        A caller who says no amount has the ``default``; without one he must say it.
        Without a counterparty, bounds up to zero go to ``@spent`` and others come from ``@issued``.
        """
        return cls(
            minimum=minimum,
            maximum=maximum,
            default=default,
            counterparty=counterparty or ("@spent" if maximum <= 0 else "@issued"),
            asset=asset,
            posted_by=posted_by,
            once=once,
            expires_in=expires_in,
            priority=priority,
            budget=budget,
            daily_budget=daily_budget,
        )

    def __post_init__(self) -> None:
        self._check_amounts()
        if not _SYSTEM_ACCOUNT.fullmatch(self.counterparty):
            raise ConfigurationError(
                f"the counterparty {self.counterparty!r} is not a system account such as '@issued'"
            )
        if self.counterparty in (TRANSFERS, EXPIRED):
            raise ConfigurationError(
                f"the counterparty {self.counterparty!r} is the ledger's own: choose another"
            )
        if not _ASSET.fullmatch(self.asset):
            raise ConfigurationError(
                f"the asset {self.asset!r} is not a lower-case name such as 'credits'"
            )
        if not self.posted_by or not self.posted_by <= {"user", "service"}:
            raise ConfigurationError("a rule's posted_by is a set of 'user' and 'service'")
        if self.once not in (None, *get_args(Once)):
            raise ConfigurationError(
                f"a rule's once is 'ever', 'day', 'week' or 'month', not {self.once!r}"
            )
        self._check_gifts()
        plain = self.expires_in is None and self.budget is None and self.daily_budget is None
        object.__setattr__(self, "plain", plain)

    def _check_amounts(self) -> None:
        """Check the bounds and the default, which a fixed amount is of itself."""
        for bound in (self.minimum, self.maximum):
            if type(bound) is not int or not INT64_MIN < bound <= INT64_MAX:
                raise ConfigurationError(f"a rule's amount is a 64-bit integer, not {bound!r}")
        if self.minimum > self.maximum:
            raise ConfigurationError(
                f"a rule's minimum {self.minimum} is above its maximum {self.maximum}"
            )
        if self.default is None and self.minimum == self.maximum:
            object.__setattr__(self, "default", self.minimum)
        if self.default is not None and (
            type(self.default) is not int or not self.minimum <= self.default <= self.maximum
        ):
            raise ConfigurationError(
                f"a rule's default is a whole number within {self.minimum} to {self.maximum}, "
                f"not {self.default!r}"
            )

    def _check_gifts(self) -> None:
        """Check what is only for operations that give credits."""
        if self.maximum <= 0 and (
            self.expires_in is not None or self.budget is not None or self.daily_budget is not None
        ):
            raise ConfigurationError(
                "expires_in and budgets are for rules that give credits, not for one up to "
                f"{self.maximum}"
            )
        if self.expires_in is not None and not timedelta() < self.expires_in <= MAX_LIFETIME:
            raise ConfigurationError(
                f"a rule's expires_in is more than nothing and at most {MAX_LIFETIME.days} days, "
                f"not {self.expires_in}"
            )
        if type(self.priority) is not int or not 0 <= self.priority <= MAX_PRIORITY:
            raise ConfigurationError(
                f"a rule's priority is 0 to {MAX_PRIORITY}, not {self.priority!r}"
            )
        for budget in (self.budget, self.daily_budget):
            if budget is not None and (type(budget) is not int or not 0 <= budget <= INT64_MAX):
                raise ConfigurationError(f"a rule's budget is a 64-bit integer, not {budget!r}")


_ANYONE: frozenset[Poster] = frozenset({"user", "service"})

SHARED_RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "DAILY_REWARD": Rule.fixed(1, posted_by=_ANYONE, once="day"),
        "SIGNUP_CREDIT": Rule.fixed(3, once="ever"),
        "CREDIT_SPEND": Rule.fixed(-1, posted_by=_ANYONE),
        "CREDIT_ADD": Rule.fixed(10),
    }
)
"""The rules of the shared operations, used where an application gives no rule of its own."""

OperationT = TypeVar("OperationT", bound=BaseLedgerOperation)


class Application(Generic[OperationT]):
    """An application of the book: its name, its operations and the rule of each.

    Parameters
    ----------
    name
        At most 55 lower-case letters, digits and underscores; written into every entry.
    operations
        The application's enum.
    rules
        A rule for each operation that is not shared; a shared one may be overridden.

    Raises
    ------
    ConfigurationError
        If an operation lacks a rule, or a rule is for something else than these operations.
    """

    __slots__ = ("name", "operations", "rules")

    def __init__(
        self,
        name: str,
        operations: type[OperationT],
        *,
        rules: Mapping[OperationT, Rule] | None = None,
    ) -> None:
        if not _APPLICATION_NAME.fullmatch(name):
            raise ConfigurationError(
                f"the application's name {name!r} is not 1 to 55 lower-case letters, digits and "
                "underscores, a letter first"
            )
        if not issubclass(operations, BaseLedgerOperation) or not len(operations):
            raise ConfigurationError(
                f"application {name}: its operations are not an enum over BaseLedgerOperation"
            )
        given = {str(key): rule for key, rule in (rules or {}).items()}
        known = [operation.value for operation in operations]
        problems = [
            f"no rule for {value}"
            for value in known
            if value not in given and value not in SHARED_RULES
        ]
        problems += [
            f"a rule for {value}, which is not an operation"
            for value in sorted(given.keys() - set(known))
        ]
        problems += [
            f"the rule for {value} is not a Rule: {rule!r}"
            for value, rule in given.items()
            if not isinstance(rule, Rule)
        ]
        if problems:
            raise ConfigurationError(f"application {name}: {', '.join(problems)}")
        self.name = name
        self.operations = operations
        # Found by the member and by its bare string alike: programs post members, files strings.
        self.rules: Mapping[str, Rule] = MappingProxyType(
            {value: given[value] if value in given else SHARED_RULES[value] for value in known}
        )

    def operation(self, name: str) -> OperationT:
        """Return the operation of this name, for what arrives as text.

        Raises
        ------
        InvalidPosting
            If it is not one of this application's.
        """
        try:
            return self.operations(name)
        except ValueError:
            raise self.unknown_operation(name) from None

    def unknown_operation(self, name: object) -> InvalidPosting:
        """Return the refusal of an operation that is not one of this application's."""
        given = repr(str.__str__(name)[:63]) if isinstance(name, str) else type(name).__name__
        return InvalidPosting(
            "operation", f"{given} is not one of {self.name}'s: {', '.join(self.rules)}"
        )

    def __repr__(self) -> str:
        return f"Application({self.name!r}, {self.operations.__name__})"


SHARED = Application("shared", SharedOperation)
"""The application that has the shared operations only."""
