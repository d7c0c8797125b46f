"""Problems (RFC 9457) as the errors that the library raises."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_type_hints

import msgspec

from shared_ledger import errors
from shared_ledger.errors import (
    LedgerError,
    LedgerOverloaded,
    LedgerUnavailable,
    NonceReused,
    Refusal,
)

_TYPE = "urn:shared-ledger:problem:"
_ANOTHER_BODY = "nonce_reused_with_different_"


def _kinds() -> dict[str, type[Refusal]]:
    found = (getattr(errors, name) for name in errors.__all__)
    kinds = [kind for kind in found if issubclass(kind, Refusal) and kind is not NonceReused]
    return {kind.code: kind for kind in kinds}


def _fields_of(kind: type[Refusal]) -> dict[str, Any]:
    hints = get_type_hints(kind.__init__)
    hints.pop("return", None)
    return hints


_KINDS: Mapping[str, type[Refusal]] = _kinds()
_FIELDS = {
    kind: _fields_of(kind) for kind in (*_KINDS.values(), NonceReused) if kind is not Refusal
}


class Problem(msgspec.Struct, frozen=True):
    """What the service says of a failure: its stable name, a sentence, and fields for programs."""

    code: str
    detail: str
    fields: dict[str, Any]

    @property
    def position(self) -> int | None:
        """Which posting of an atomic batch it is for."""
        position = self.fields.get("position")
        return position if type(position) is int else None


def problem_of(body: bytes | msgspec.Raw) -> Problem | None:
    """Read a problem; ``None`` if it is not one of a ledger's service."""
    try:
        fields = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    kind = fields.get("type")
    if not isinstance(kind, str) or not kind.startswith(_TYPE):
        return None
    return Problem(kind.removeprefix(_TYPE), str(fields.get("detail", "")), fields)


def error_of(problem: Problem, *, of_group: bool = False) -> LedgerError | None:
    """Return the library's own error; ``None`` if it is none of them."""
    if problem.code == "overloaded":
        return LedgerOverloaded(problem.detail)
    if problem.code == "unavailable":
        return LedgerUnavailable(problem.detail)
    kind = _KINDS.get(problem.code)
    if kind is None and problem.code.startswith(_ANOTHER_BODY):
        kind = NonceReused
    if kind is None or kind not in _FIELDS:
        return None
    fields = dict(problem.fields)
    if of_group and isinstance(field := fields.get("field"), str) and field.startswith("entries"):
        fields["field"] = "parts" + field.removeprefix("entries")
    try:
        return kind(
            **{name: msgspec.convert(fields[name], hint) for name, hint in _FIELDS[kind].items()}
        )
    except (KeyError, msgspec.ValidationError):
        return None


def refusal_of(body: bytes | msgspec.Raw) -> Refusal:
    """Read a refusal in the results of a batch, of a kind unknown here too."""
    problem = problem_of(body)
    if problem is None:
        raise msgspec.ValidationError("a result that is neither an entry nor a problem")
    error = error_of(problem)
    return error if isinstance(error, Refusal) else Refusal(problem.detail)
