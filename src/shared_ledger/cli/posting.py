"""The commands that post and read single entries."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shared_ledger.cli.options import ApplicationOption, JsonOption, open_ledger
from shared_ledger.cli.output import print_facts, print_json, print_line, print_table
from shared_ledger.operations import CREDITS, INT64_MAX

if TYPE_CHECKING:
    from shared_ledger.book import Entry, Posted

_WHOLE_NUMBER = re.compile(r"[+-]?[0-9]{1,30}")

OwnerArgument = Annotated[str, typer.Argument(metavar="OWNER_ID", help="Whose account.")]
AssetOption = Annotated[str, typer.Option(metavar="ASSET", help="Which of the owner's assets.")]


def whole_number(text: str) -> int:
    """Read an amount: digits and a sign, and nothing that Python's ``int`` takes besides."""
    if not _WHOLE_NUMBER.fullmatch(text):
        raise typer.BadParameter(f"{text!r} is not a whole number such as 5 or -5")
    return int(text)


def post(
    operation: Annotated[str, typer.Argument(metavar="OPERATION", help="Such as CREDIT_ADD.")],
    owner_id: OwnerArgument,
    *,
    nonce: Annotated[
        str | None,
        typer.Option(
            metavar="NONCE",
            show_default=False,
            help="Your name for this posting: the same again moves nothing. "
            "Without it a new one is made, and shown.",
        ),
    ] = None,
    amount: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            parser=whole_number,
            show_default=False,
            help="Signed, whole units; may be left out where the operation fixes it.",
        ),
    ] = None,
    metadata: Annotated[
        str | None,
        typer.Option(metavar="JSON", show_default=False, help="An object to keep with the entry."),
    ] = None,
    application: ApplicationOption = None,
    json: JsonOption = False,
) -> None:
    """Post one operation, exactly once."""
    from uuid import uuid4

    from shared_ledger.book import Posting

    details = None if metadata is None else _object(metadata)
    with open_ledger(application) as ledger:
        posted = ledger.post(
            Posting(
                ledger.application.operation(operation),
                owner_id,
                str(uuid4()) if nonce is None else nonce,
                amount,
                details,
            )
        )
    if json:
        print_json(_with_replayed(posted))
    else:
        _print_entry(posted)


def balance(
    owner_id: OwnerArgument,
    *,
    asset: AssetOption = CREDITS,
    application: ApplicationOption = None,
    json: JsonOption = False,
) -> None:
    """Show what an owner has."""
    _check_asset(asset)
    with open_ledger(application) as ledger:
        found = ledger.balance(owner_id, asset=asset)
    if json:
        print_json(found)
        return
    print_table(
        [("Owner", "left"), ("Asset", "left"), *_numbers("Balance", "Held", "Available")],
        [(found.owner_id, found.asset, found.balance, found.held, found.available)],
    )


def history(
    owner_id: OwnerArgument,
    *,
    limit: Annotated[
        int, typer.Option(min=1, max=1_000, metavar="N", help="How many entries.")
    ] = 50,
    cursor: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=INT64_MAX,
            metavar="N",
            show_default=False,
            help="Go on where the page before ended.",
        ),
    ] = None,
    asset: AssetOption = CREDITS,
    application: ApplicationOption = None,
    json: JsonOption = False,
) -> None:
    """Show an owner's entries, newest first."""
    _check_asset(asset)
    with open_ledger(application) as ledger:
        page = ledger.history(owner_id, asset=asset, limit=limit, cursor=cursor)
    if json:
        print_json({"entries": page.entries, "cursor": page.cursor})
        return
    if not page.entries:
        print_line(f"{owner_id} has no {'older ' if cursor else ''}entries of {asset}.")
        return
    print_table(
        [
            ("When (UTC)", "left"),
            ("App", "left"),
            ("Operation", "left"),
            *_numbers("Amount", "Balance"),
            ("Nonce", "left"),
            *_numbers("Id"),
        ],
        [_history_row(entry) for entry in page.entries],
    )
    if page.cursor is not None:
        print_line(f"There are older ones: --cursor {page.cursor}")


def _history_row(entry: Entry) -> tuple[object, ...]:
    return (
        f"{entry.created_on:%Y-%m-%d %H:%M:%S}",
        entry.app,
        entry.operation,
        f"{entry.amount:+d}",
        entry.balance_after,
        entry.nonce,
        entry.id,
    )


def _print_entry(posted: Posted) -> None:
    entry = posted.entry
    done = "Had been posted before; nothing moved now" if posted.replayed else "Posted"
    facts: list[tuple[str, object]] = [
        ("operation", entry.operation),
        ("owner", entry.owner_id),
        ("amount", f"{entry.amount:+d} {entry.asset} from {entry.counterparty}"),
        ("balance", entry.balance_after),
        ("nonce", entry.nonce),
        ("entry", f"{entry.id} of {entry.app}"),
        ("created", f"{entry.created_on:%Y-%m-%d %H:%M:%S.%f} UTC"),
    ]
    if entry.amount < 0:
        facts[2] = ("amount", f"{entry.amount:+d} {entry.asset} to {entry.counterparty}")
    if entry.metadata is not None:
        import msgspec

        facts.append(("metadata", msgspec.json.encode(entry.metadata).decode()))
    print_facts(done, facts)


def _with_replayed(posted: Posted) -> dict[str, Any]:
    import msgspec

    return {**msgspec.to_builtins(posted.entry), "replayed": posted.replayed}


def _object(text: str) -> dict[str, Any]:
    import msgspec

    try:
        value = msgspec.json.decode(text)
    except (ValueError, RecursionError) as error:
        raise typer.BadParameter(f"is not JSON: {error}", param_hint="'--metadata'") from None
    if not isinstance(value, dict):
        raise typer.BadParameter('is not a JSON object such as {"a": 1}', param_hint="'--metadata'")
    return value


def _check_asset(asset: str) -> None:
    if not asset or not asset.isprintable():
        raise typer.BadParameter("is a name such as credits", param_hint="'--asset'")


def _numbers(*headings: str) -> list[tuple[str, Any]]:
    return [(heading, "right") for heading in headings]
