"""The application that ``new-app`` writes, and what becomes of its words under another name.

It is in the folder ``new-app`` beside this file: Python as any other, so that linters and type
checkers look at it as it is. Its lines are so short, or broken with a comma at the end, that they
need no other layout with any name, whether lines are to have 88 characters or 100.
"""

from __future__ import annotations

import builtins
import keyword
import os
import re
import tokenize
from collections.abc import Iterator, Mapping
from pathlib import Path

from shared_ledger.operations import LEDGER_OPERATIONS

MODEL = Path(__file__).parent / "new-app"

MAX_THING = 16
"""The longest name of its things for which that holds."""

# The model's own name, and what it calls its things.
_WORDS = re.compile(r"example(?!s)|Example|record(?!ed)s?|Record|RECORDS?")
# Only where it is sure that one of them is called so without the s: not addresses, nor series.
_PLURAL = re.compile(r"(\w{3,}(?:[bcdfgklmnprtvwy]|[a-gj-np-rt-wy]e))s")


def rendered(name: str, folder: Path) -> dict[Path, str]:
    """Return the files of an application of this name; of a pyproject.toml the user's own stays."""
    words = words_of(name)
    files = {}
    for path in _model():
        place = folder / _replaced(str(path.relative_to(MODEL)), words)
        if path.name != "pyproject.toml" or not os.path.lexists(place):
            files[place] = _replaced(path.read_text("utf-8"), words)
    return files


def _model() -> Iterator[Path]:
    """Yield the files of the model."""
    for path in sorted(MODEL.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            yield path


def words_of(name: str) -> dict[str, str]:
    """Return what the model's words become; its things keep their name if none can be told."""
    words = {"example": name, "Example": name.replace("_", " ").strip().capitalize()}
    plural = _PLURAL.fullmatch(name)
    one = plural[1] if plural else name
    thing = {
        "record": one,
        "records": name,
        "Record": "".join(part.capitalize() for part in one.split("_")),
        "RECORD": one.upper(),
        "RECORDS": name.upper(),
    }
    if len(one) > MAX_THING or _ambiguous(thing):
        thing = {word: word for word in thing}
    return words | thing


def _ambiguous(words: Mapping[str, str]) -> bool:
    """Tell whether one of the model's names would become another that is in use there."""
    names = {path.stem for path in _model()}
    for path in _model():
        if path.suffix == ".py":
            with tokenize.open(path) as file:
                tokens = tokenize.generate_tokens(file.readline)
                names.update(token.string for token in tokens if token.type == tokenize.NAME)
    changed = {name for name in names if _WORDS.search(name)}
    kept = names - changed | {*keyword.kwlist, *dir(builtins), *LEDGER_OPERATIONS}
    return not kept.isdisjoint(_replaced(name, words) for name in changed)


def _replaced(text: str, words: Mapping[str, str]) -> str:
    return _WORDS.sub(lambda word: words.get(word[0], word[0]), text)
