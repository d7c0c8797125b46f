"""When a call is tried again, and what its end is: nothing here opens a connection.

Every call is safe to repeat: those that read change nothing, and those that post have a nonce. So
it is repeated whenever another attempt may fare better: no answer (it could not connect, timed out,
lost the connection), 502, 503, 504 and 429. The pauses double and are random from zero up ("full
jitter", M. Brooker, Exponential Backoff And Jitter, AWS Architecture Blog, 2015), on top of what
the service asks for in ``Retry-After``.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from http import HTTPStatus

import msgspec

from shared_ledger.client.calls import AnswerT, Call
from shared_ledger.client.problems import Problem, error_of, problem_of
from shared_ledger.errors import (
    AccountBusy,
    ConfigurationError,
    LedgerError,
    LedgerOverloaded,
    LedgerUnavailable,
    Refusal,
)

TIMEOUT_S = 10.0
DEADLINE_S = 30.0
RETRIES = 5

FIRST_PAUSE_S = 0.2
MAX_PAUSE_S = 5.0
MAX_RETRY_AFTER_S = 30

_AGAIN = (
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
)
_SAFE = "Posting again with the same nonce is safe."


@dataclass(frozen=True, slots=True)
class Answer:
    """What the service answered."""

    status: int
    retry_after: str | None
    body: bytes


@dataclass(frozen=True, slots=True)
class Lost:
    """An attempt without an answer; ``sent`` unless the service cannot have heard of it."""

    reason: str
    sent: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long and how often to try.

    Attributes
    ----------
    timeout_s
        How long one attempt waits for the service.
    retries
        How many attempts may follow the first.
    deadline_s
        How long all of them take together, pauses included.
    """

    timeout_s: float
    retries: int
    deadline_s: float

    def __post_init__(self) -> None:
        # Written so that a NaN is refused too.
        if not (self.timeout_s > 0 and self.deadline_s > 0):
            raise ConfigurationError("timeout_s and deadline_s are seconds, more than zero")
        if type(self.retries) is not int or self.retries < 0:
            raise ConfigurationError("retries is a whole number, zero or more")


class Attempts:
    """The attempts of one call."""

    def __init__(self, url: str, patience: Patience) -> None:
        self._url = url
        self._patience = patience
        self._ends = time.monotonic() + patience.deadline_s
        self._made = 0
        self._in_doubt = False

    @property
    def timeout_s(self) -> float:
        """How long the next attempt may take."""
        return max(0.001, min(self._patience.timeout_s, self._ends - time.monotonic()))

    def pause_s(self, outcome: Answer | Lost) -> float | None:
        """Return how long to wait before the next attempt; ``None`` if there is to be none."""
        made, self._made = self._made, self._made + 1
        if isinstance(outcome, Answer) and outcome.status not in _AGAIN:
            return None
        if made == self._patience.retries:
            return None
        # At most as often doubled as it needs to reach the longest.
        ceiling_s = min(MAX_PAUSE_S, FIRST_PAUSE_S * 2 ** min(made, 16))
        pause_s = _asked_s(outcome) + random.uniform(0, ceiling_s)  # noqa: S311  # no secret
        if time.monotonic() + pause_s >= self._ends:
            return None
        self._in_doubt = self._in_doubt or _in_doubt(outcome)
        return pause_s

    def result(self, call: Call[AnswerT], outcome: Answer | Lost) -> AnswerT:
        """Return the result of the call whose last attempt came out like this.

        Raises
        ------
        LedgerError
            What the service answered; ``LedgerUnavailable`` if it did not.
        """
        if isinstance(outcome, Lost):
            raise LedgerUnavailable(
                f"the service at {self._url} did not answer, in {self._tries}: "
                f"{outcome.reason}. {_SAFE}"
            )
        if outcome.status in (HTTPStatus.OK, HTTPStatus.CREATED):
            return self._read(call, outcome)
        problem = problem_of(outcome.body)
        error = None if problem is None else error_of(problem, of_group=call.of_group)
        if self._in_doubt and isinstance(error, LedgerOverloaded | AccountBusy):
            # They say that nothing was written; of an attempt before, that is not known.
            raise LedgerUnavailable(
                f"the service at {self._url} answered no attempt of {self._tries} but the last, "
                f"which it refused: {error}. {_SAFE}"
            )
        if problem is not None and isinstance(error, Refusal) and call.on_refusal is not None:
            position = problem.position
            if position is not None:
                return call.on_refusal(error, position)
        raise error or self._error(outcome, problem)

    @property
    def _tries(self) -> str:
        return "one attempt" if self._made == 1 else f"{self._made} attempts"

    def _read(self, call: Call[AnswerT], answer: Answer) -> AnswerT:
        try:
            return call.read(answer.body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise LedgerError(
                f"{self._url} answered {call.method} {call.path} with something else than a "
                f"ledger's service does; is the url right? {error}"
            ) from None

    def _error(self, answer: Answer, problem: Problem | None) -> LedgerError:
        """Return the error of an answer that is not one of the ledger's own."""
        status = answer.status
        said = str(status) if problem is None else f"{status}: {problem.detail}"
        if status == HTTPStatus.UNAUTHORIZED:
            return ConfigurationError(
                f"the service at {self._url} does not accept the token: "
                "make the client with the API_TOKEN that the service has"
            )
        if status in _AGAIN:
            return LedgerUnavailable(
                f"the service at {self._url} could not answer, in {self._tries}: {said}. {_SAFE}"
            )
        if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
            said += "; it is somewhere else: change the url"
        elif problem is None or status == HTTPStatus.NOT_FOUND:
            said += "; is the url right?"
        return LedgerError(f"the service at {self._url} answered {said}")


def _asked_s(outcome: Answer | Lost) -> int:
    """Return what the service asks to wait, in whole seconds and within reason."""
    text = outcome.retry_after if isinstance(outcome, Answer) else None
    # An HTTP date is left out: this machine's clock may be another.
    if text is None or not (text.isascii() and text.isdigit()):
        return 0
    return min(int(text[:9]), MAX_RETRY_AFTER_S)


def _in_doubt(outcome: Answer | Lost) -> bool:
    """Tell whether what was asked may have been done all the same."""
    if isinstance(outcome, Lost):
        return outcome.sent
    problem = problem_of(outcome.body)
    error = None if problem is None else error_of(problem)
    return not (
        outcome.status == HTTPStatus.TOO_MANY_REQUESTS
        or isinstance(error, LedgerOverloaded | AccountBusy)
    )
