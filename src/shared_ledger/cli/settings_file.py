"""A file ``.env``, and one more service in it."""

from __future__ import annotations

import io
import re
from pathlib import Path

from dotenv import dotenv_values

from shared_ledger.errors import ConfigurationError
from shared_ledger.settings import Settings

VARIABLE = "SHARED_LEDGER_SERVICES"

_SETTING = re.compile(
    rf"(?im)^[ \t]*(?:export[ \t]+)?{VARIABLE}[ \t]*=[ \t]*[\"']?"
    r"(?P<places>[\w.:,][\w.:, \t]*(?<![ \t]))?"
)


def text_of(path: Path) -> str:
    """Return the text of a ``.env``, which may be missing.

    Raises
    ------
    ConfigurationError
        If it is not in UTF-8.
    """
    try:
        return path.read_bytes().decode()
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path} is not in UTF-8: nothing was written") from None


def with_service(text: str, place: str) -> str:
    """Return the text of a ``.env`` with a service added to those that are served.

    Raises
    ------
    ConfigurationError
        If the setting is written in a way that nobody foresaw.
    """
    values, places = _values(text)
    if places is None:
        places = _split(Settings.model_fields[VARIABLE.lower()].default)
        end = "" if not text or text.endswith("\n") else "\n"
        added = f"{text}{end}{VARIABLE}={','.join([*places, place])}\n"
    elif place in places:
        return text
    else:
        added = text
        for last in list(_SETTING.finditer(text))[-1:]:
            separator = "," if last["places"] else ""
            added = f"{text[: last.end()]}{separator}{place}{text[last.end() :]}"
    if _values(added) != (values, [*places, place]):
        raise ConfigurationError(
            f"{VARIABLE} in .env cannot be read well enough to be changed: "
            f"add {place} to it, or remove it, and then run this again"
        )
    return added


def _values(text: str) -> tuple[dict[str, str | None], list[str] | None]:
    """Return what a ``.env`` sets: everything else, and the services, if it says which."""
    values = dotenv_values(stream=io.StringIO(text))
    others = {key: value for key, value in values.items() if key.upper() != VARIABLE}
    said = [value for key, value in values.items() if key.upper() == VARIABLE]
    if not said or said[-1] is None:
        return others, None
    return others, _split(said[-1])


def _split(places: str) -> list[str]:
    return [place.strip() for place in places.split(",") if place.strip()]
