"""Write docs/reference.md from the docstrings of the public names."""

from __future__ import annotations

import inspect
from pathlib import Path

import shared_ledger

GROUPS = {
    "The ledger": ("Ledger",),
    "Requests": (
        "Request",
        "Posting",
        "Group",
        "Part",
        "Transfer",
        "PlaceHold",
        "CaptureHold",
        "ReleaseHold",
        "Reversal",
    ),
    "Results": ("Result", "Outcome", "Posted", "Held", "Entry", "Hold"),
    "Reading": ("Balance", "Page", "Grant", "Statement", "Total", "Quote", "Payment"),
    "Operations": (
        "Application",
        "BaseLedgerOperation",
        "Rule",
        "SharedOperation",
        "SHARED",
        "SHARED_OPERATION_VALUES",
        "SHARED_RULES",
    ),
    "Errors": tuple(
        name
        for name in shared_ledger.__all__
        if inspect.isclass(getattr(shared_ledger, name))
        and issubclass(getattr(shared_ledger, name), Exception)
    ),
    "Other": ("__version__",),
}
CONSTANTS = {
    "Outcome": "What became of one posting of a batch: `Posted | Refusal`.",
    "Request": "Whatever a ledger can be asked to post, from `Posting` to `Reversal`.",
    "Result": "What became of one request of a batch: `Posted | Held | Refusal`.",
    "SHARED": "The application that has the shared operations only.",
    "SHARED_OPERATION_VALUES": "The shared operations, to be composed with an application's own.",
    "SHARED_RULES": "The rules of the shared operations, used where an application gives none.",
    "__version__": "The version of the package.",
}


def reference() -> str:
    """Return the text of the reference."""
    parts = [
        (
            "# Reference\n\nThe public names of `shared_ledger`, written from its docstrings by "
            "`python docs/make_reference.py`.\n"
        )
    ]
    for group, names in GROUPS.items():
        parts.append(f"## {group}\n")
        for name in names:
            value = getattr(shared_ledger, name)
            parts.append(f"### `{name}`\n")
            parts.append(CONSTANTS.get(name) or _fenced(inspect.getdoc(value) or ""))
            parts.extend(_members(value) if inspect.isclass(value) else [])
    return "\n".join(part.rstrip() + "\n" for part in parts)


def _members(kind: type) -> list[str]:
    if issubclass(kind, Exception) or kind.__name__ == "SharedOperation":
        return []
    parts = []
    for name, member in vars(kind).items():
        plain = member.__func__ if isinstance(member, classmethod) else member
        if name.startswith("_") or not inspect.isfunction(plain):
            continue
        prefix = "async " if inspect.iscoroutinefunction(plain) else ""
        parts.append(f"#### `{prefix}{kind.__name__}.{name}`\n")
        parts.append(_fenced(inspect.getdoc(plain) or ""))
    return parts


def _fenced(text: str) -> str:
    return f"```text\n{text}\n```"


if __name__ == "__main__":
    Path(__file__).with_name("reference.md").write_text(reference())
