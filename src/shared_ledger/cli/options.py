"""What the commands have in common: options, the application, the ledger."""

from __future__ import annotations

import importlib
import os
import sys
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shared_ledger.cli.values import asset_name, json_object, moment, record_id
from shared_ledger.errors import ConfigurationError

if TYPE_CHECKING:
    from shared_ledger.ledger import Ledger
    from shared_ledger.operations import Application
    from shared_ledger.service import Service
    from shared_ledger.settings import Settings

UNREADABLE_URL = "a URL that cannot be read"
APPLICATION_VARIABLE = "SHARED_LEDGER_APPLICATION"

ApplicationOption = Annotated[
    str | None,
    typer.Option(
        "--application",
        metavar="MODULE:NAME",
        show_default=False,
        help=f"Your Application, such as bookings:BOOKINGS (or {APPLICATION_VARIABLE}). "
        "Without it, the four shared operations.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document, for programs.")]
OwnerArgument = Annotated[str, typer.Argument(metavar="OWNER_ID", help="Whose account.")]
OperationArgument = Annotated[
    str, typer.Argument(metavar="OPERATION", help="Such as CREDIT_SPEND.")
]
HoldArgument = Annotated[
    int, typer.Argument(metavar="HOLD_ID", parser=record_id, help="Which hold.")
]
AssetOption = Annotated[
    str,
    typer.Option(metavar="ASSET", parser=asset_name, help="Which of the owner's assets."),
]
NonceOption = Annotated[
    str | None,
    typer.Option(
        metavar="NONCE",
        show_default=False,
        help="Your name for this: the same again moves nothing. "
        "Without it a new one is made, and shown.",
    ),
]
MetadataOption = Annotated[
    dict[str, Any] | None,
    typer.Option(
        metavar="JSON",
        parser=json_object,
        show_default=False,
        help="An object to keep with the entry.",
    ),
]
AtOption = Annotated[
    datetime | None,
    typer.Option(
        metavar="TIME",
        parser=moment,
        show_default=False,
        help="As it was then: 2026-11-30T12:00:00Z, or 2026-11-30 for its midnight in UTC.",
    ),
]


def nonce_or_new(nonce: str | None) -> str:
    """Return the caller's nonce, or one that nobody has used."""
    from uuid import uuid4

    return str(uuid4()) if nonce is None else nonce


def load_application(place: str | None) -> Application[Any]:
    """Import the application named by ``--application``, else by the variable, else the shared one.

    Raises
    ------
    ConfigurationError
        If there is none at that place.
    """
    from shared_ledger.operations import SHARED, Application

    place = place or _configured_application()
    if not place:
        return SHARED
    found: Application[Any] = _imported(place, Application, "application")
    return found


def load_services(settings: Settings) -> list[Service]:
    """Import the services that are configured to be served beside the root.

    Raises
    ------
    ConfigurationError
        If there is none at one of the places.
    """
    from shared_ledger.service.service import Service

    places = [place.strip() for place in settings.shared_ledger_services.split(",")]
    return [_imported(place, Service, "service") for place in places if place]


def _imported(place: str, kind: type[Any], what: str) -> Any:
    """Import what is at MODULE:NAME."""
    module_name, separator, name = place.partition(":")
    if not separator or not module_name or not name:
        raise ConfigurationError(f"the {what} {place!r} is not of the form MODULE:NAME")
    if (here := os.getcwd()) not in sys.path:  # noqa: PTH109  # sys.path holds strings
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # the user's code runs
        if isinstance(error, ModuleNotFoundError) and error.name == module_name:
            raise ConfigurationError(
                f"there is no module {module_name} here or installed ({what} {place})"
            ) from error
        raise ConfigurationError(
            f"importing {module_name} failed: {type(error).__name__}: {error}"
        ) from error
    found = getattr(module, name, None)
    if isinstance(found, kind):
        return found
    names = [key for key, value in vars(module).items() if isinstance(value, kind)]
    hint = f"; it has {', '.join(names)}" if names else ""
    article = "an" if what == "application" else "a"
    raise ConfigurationError(
        f"{name} in the module {module_name} is not {article} {kind.__name__}{hint}"
    )


def open_ledger(application: str | None) -> Ledger[Any]:
    """Open the configured ledger for an application."""
    from shared_ledger.ledger import Ledger
    from shared_ledger.settings import load_settings
    from shared_ledger.writer import SWITCH_INTERVAL_S

    settings = load_settings()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    return Ledger(
        load_application(application),
        settings.url,
        data=settings.shared_ledger_data,
        schema=settings.shared_ledger_schema,
    )


def where(settings: Settings, version: str) -> str:
    """Say which database it is, without its password."""
    if settings.url is None:
        folder = settings.shared_ledger_data.resolve()
        return f"embedded PostgreSQL {version} in {folder}"
    return f"PostgreSQL {version} at {place_of(settings.url)}"


def place_of(url: str) -> str:
    """Return host and database's name of a URL, and nothing else of it."""
    from urllib.parse import parse_qs, unquote, urlsplit

    try:
        parts = urlsplit(url)
        query = parse_qs(parts.query)
    except ValueError:
        return UNREADABLE_URL
    # What follows an unescaped slash in a password must not be taken for a name.
    if "@" in parts.path + parts.query + parts.fragment and "@" not in parts.netloc:
        return UNREADABLE_URL
    hosts = parts.netloc.rpartition("@")[2] or ",".join(query.get("host", ["local socket"]))
    name = unquote(parts.path.lstrip("/")) or "".join(query.get("dbname", [""]))
    return f"{hosts}/{name}"


def _configured_application() -> str | None:
    from pydantic_settings import BaseSettings, SettingsConfigDict

    class Configured(BaseSettings):
        model_config = SettingsConfigDict(env_file=".env", extra="ignore")

        shared_ledger_application: str | None = None

    return Configured().shared_ledger_application
