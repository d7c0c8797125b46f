"""The command that writes a new application: one that runs, and passes its own tests."""

from __future__ import annotations

import keyword
import os
import shutil
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from shared_ledger.cli.options import JsonOption
from shared_ledger.cli.output import print_facts, print_json
from shared_ledger.errors import ConfigurationError

APPS = Path(__file__).parent.parent / "apps"
FOLDERS = ("data", "tests")
"""What a folder may have besides applications."""
PATHS = ("admin", "auth", "balance", "docs", "health", "ledger", "metrics", "redoc")
"""Where every service has routes already."""


def new_app(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="Its name and its package's, such as bookings.", show_default=False
        ),
    ],
    *,
    folder: Annotated[
        Path, typer.Option(metavar="PATH", help="Where to write it; made if missing.")
    ] = Path(),
    json: JsonOption = False,
) -> None:
    """Write a new application with operations, routes, a migration and tests; it runs at once."""
    from shared_ledger.cli.model import rendered
    from shared_ledger.cli.settings_file import VARIABLE, text_of, with_service

    check_name(name, folder)
    files = rendered(name, folder)
    settings = folder / ".env"
    place = f"{name}:SERVICE"
    write(files | {settings: with_service(text_of(settings), place)})
    commands = {
        "shared-ledger migrate": "makes its tables; an embedded database has them by itself",
        "shared-ledger serve": f"serves it below /api/v1/{name}, with its documentation at /docs",
        "python -m pytest": "runs its tests",
    }
    if json:
        print_json(
            {
                "application": name,
                "service": place,
                "folder": str(folder.resolve()),
                "files": [str(path.relative_to(folder)) for path in files],
                "settings": settings.name,
                "next": list(commands),
            }
        )
        return
    facts: list[tuple[str, object]] = [("wrote", path) for path in files]
    facts.append(("set", f"{VARIABLE} in {settings}, so that it is served"))
    if VARIABLE in os.environ:
        facts.append(("but", f"the environment sets {VARIABLE} too: add {place} there"))
    print_facts(f"The application {name} is ready", facts)
    where = "" if folder.samefile(".") else f" in {folder}"
    print_facts(f"Next{where}", commands.items())


def check_name(name: str, folder: Path) -> None:
    """Check that an application can be called so, and that nothing in the folder is in its way.

    Raises
    ------
    ConfigurationError
        Saying what is wrong with it.
    """
    from shared_ledger.operations import Application, SharedOperation

    Application(name, SharedOperation)
    if keyword.iskeyword(name):
        raise ConfigurationError(f"{name} is a keyword of Python: choose another name")
    if name == "shared" or (APPS / name).is_dir():
        raise ConfigurationError(f"there is an application {name} already: choose another name")
    if name in FOLDERS:
        raise ConfigurationError(f"the folder {name} is for something else: choose another name")
    if name in PATHS:
        raise ConfigurationError(f"every service has a route /{name}: choose another name")
    for path in (folder / name, folder / f"{name}.py", folder / "tests" / f"test_{name}.py"):
        if os.path.lexists(path):
            raise ConfigurationError(f"there is {path} already: nothing was written")
    if name in sys.stdlib_module_names or find_spec(name) is not None:
        raise ConfigurationError(
            f"a module {name} can be imported already, and one would hide the other: "
            "choose another name"
        )


def write(files: Mapping[Path, str]) -> None:
    """Write all files or none, in folders that are made if they are missing.

    Raises
    ------
    OSError
        If one cannot be written, or is there already; a file ``.env`` is replaced.
    """
    with ExitStack() as undo:
        for path, text in files.items():
            for folder in reversed(path.parents):
                if not folder.is_dir():
                    folder.mkdir()
                    undo.callback(folder.rmdir)
            # A settings file is never half written, not even when the disk is full.
            part = path.resolve().with_name(f"{path.name}.part") if path.name == ".env" else path
            with part.open("x", encoding="utf-8", newline="") as file:
                undo.callback(part.unlink, missing_ok=True)
                file.write(text)
            if part is not path:
                if path.exists():
                    shutil.copymode(path, part)
                part.replace(path.resolve())
        undo.pop_all()
