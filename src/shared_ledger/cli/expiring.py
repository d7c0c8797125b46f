"""The commands about credits that expire: what is left of them, and booking what has expired."""

from __future__ import annotations

from typing import Annotated

import typer

from shared_ledger.cli.options import (
    ApplicationOption,
    AssetOption,
    JsonOption,
    OwnerArgument,
    open_ledger,
)
from shared_ledger.cli.output import print_json, print_line, print_table, second
from shared_ledger.operations import CREDITS

# No more than the ledger's queue takes at once, with others beside them.
MAX_SWEEP = 10_000


def grants(
    owner_id: OwnerArgument,
    *,
    asset: AssetOption = CREDITS,
    application: ApplicationOption = None,
    json: JsonOption = False,
) -> None:
    """Show an owner's credits that expire, in the order they are spent."""
    with open_ledger(application) as ledger:
        found = ledger.grants(owner_id, asset=asset)
    if json:
        print_json({"grants": found})
        return
    if not found:
        print_line(f"{owner_id} has no {asset} that expire.")
        return
    print_table(
        [
            ("Grant", "right"),
            ("App", "left"),
            ("Left", "right"),
            ("Of", "right"),
            ("Priority", "right"),
            ("Granted (UTC)", "left"),
            ("Expires (UTC)", "left"),
            ("Entry", "right"),
        ],
        [
            (
                grant.id,
                grant.app,
                grant.remaining,
                grant.amount,
                grant.priority,
                second(grant.granted_on),
                second(grant.expires_on),
                grant.entry_id,
            )
            for grant in found
        ],
        spare=("Granted (UTC)", "App"),
    )


def sweep(
    *,
    limit: Annotated[
        int, typer.Option(min=1, max=MAX_SWEEP, metavar="N", help="How many accounts at once.")
    ] = 1_000,
    application: ApplicationOption = None,
    json: JsonOption = False,
) -> None:
    """Book what has expired, of all accounts.

    Nothing depends on it: what has expired does not count, whether it is booked or not.
    """
    swept = 0
    with open_ledger(application) as ledger:
        while True:
            found = ledger.sweep(limit=limit)
            swept += found
            if found < limit:
                break
    if json:
        print_json({"swept": swept})
    elif swept:
        print_line(f"Swept {swept} {'account' if swept == 1 else 'accounts'}.")
    else:
        print_line("Nothing was due.")
