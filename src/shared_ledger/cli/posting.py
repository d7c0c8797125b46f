"""The commands that post an operation and read what was posted."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from shared_ledger.cli.entries import (
    Facts,
    done,
    entry_document,
    moved,
    print_entries,
    print_posted,
    recorded,
    signed,
)
from shared_ledger.cli.options import (
    ApplicationOption,
    AssetOption,
    AtOption,
    JsonOption,
    MetadataOption,
    NonceOption,
    OwnerArgument,
    nonce_or_new,
    open_ledger,
)
from shared_ledger.cli.output import (
    Justify,
    exact,
    print_facts,
    print_json,
    print_line,
    print_table,
    second,
)
from shared_ledger.cli.values import duration, whole_number
from shared_ledger.operations import CREDITS, INT64_MAX, MAX_PRIORITY

if TYPE_CHECKING:
    from shared_ledger.book import Quote


def post(
    operation: Annotated[str, typer.Argument(metavar="OPERATION", help="Such as CREDIT_ADD.")],
    owner_id: OwnerArgument,
    *,
    nonce: NonceOption = None,
    amount: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            parser=whole_number,
            show_default=False,
            help="Signed, whole units; may be left out where the operation has a default.",
        ),
    ] = None,
    expires_in: Annotated[
        timedelta | None,
        typer.Option(
            metavar="TIME",
            parser=duration,
            show_default=False,
            help="How long what it gives can be spent: 7d, 12h, 30m, 45s.",
        ),
    ] = None,
    priority: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=MAX_PRIORITY,
            metavar="N",
            show_default=False,
            help="Of credits that expire: which are spent first, the lowest first.",
        ),
    ] = None,
    metadata: MetadataOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what it would do; write nothing.")
    ] = False,
    application: ApplicationOption = None,
    json: JsonOption = False,
) -> None:
    """Post one operation, exactly once."""
    from shared_ledger.book import Posted, Posting

    with open_ledger(application) as ledger:
        posting = Posting(
            ledger.application.operation(operation),
            owner_id,
            nonce_or_new(nonce),
            amount,
            metadata,
            expires_in,
            priority,
        )
        result = ledger.quote(posting) if dry_run else ledger.post(posting)
    if isinstance(result, Posted):
        if json:
            print_json(entry_document(result))
        else:
            print_posted("Posted", result)
    elif json:
        print_json(result)
    else:
        _print_quote(result, posting.nonce)


def balance(
    owner_id: OwnerArgument,
    *,
    asset: AssetOption = CREDITS,
    at: AtOption = None,
    application: ApplicationOption = None,
    json: JsonOption = False,
) -> None:
    """Show what an owner has, now or at a time.

    At a time to come, what he will have if nothing happens but expiry.
    """
    import msgspec

    with open_ledger(application) as ledger:
        found = ledger.balance(owner_id, asset=asset, at=at)
    if json:
        print_json(found if at is None else {**msgspec.structs.asdict(found), "at": at})
        return
    numbers = {
        "Balance": found.balance,
        "Held": found.held,
        "Available": found.available,
        "Expiring": found.expiring,
    }
    if found.debt:
        numbers["Debt"] = found.debt
    print_table(
        [("Owner", "left"), ("Asset", "left"), *((name, "right") for name in numbers)],
        [(found.owner_id, found.asset, *numbers.values())],
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
    at: AtOption = None,
    application: ApplicationOption = None,
    json: JsonOption = False,
) -> None:
    """Show an owner's entries, newest first.

    Each stands at the time when it took effect.
    """
    with open_ledger(application) as ledger:
        page = ledger.history(owner_id, asset=asset, limit=limit, cursor=cursor, at=at)
    if json:
        print_json({"entries": page.entries, "cursor": page.cursor})
        return
    if not page.entries:
        then = "" if at is None else f" by {second(at)} UTC"
        print_line(f"{owner_id} has no {'older ' if cursor else ''}entries of {asset}{then}.")
        return
    print_entries(page.entries)
    if page.cursor is not None:
        print_line(f"There are older ones: --cursor {page.cursor}")


def _print_quote(quote: Quote, nonce: str) -> None:
    """Print what a posting would do, and what has expired before it."""
    entry = next(entry for entry in quote.entries if entry.nonce == nonce)
    if quote.replayed:
        print_facts(done("Posted", replayed=True), [*moved(entry), *recorded(entry)])
        return
    facts: Facts = [*moved(entry), ("available", quote.balance.available)]
    for other in quote.entries:
        if other is not entry and other.amount:
            at = exact(other.effective_on or other.created_on)
            facts.append(("before it", f"{signed(other.amount)} {other.asset} expired {at}"))
    print_facts("Would post; nothing was written", facts)
    if quote.burns:
        columns: list[tuple[str, Justify]] = [
            ("Grant", "right"),
            ("Would take", "right"),
            ("Expires (UTC)", "left"),
        ]
        print_table(
            columns, [(burn.grant_id, burn.amount, second(burn.expires_on)) for burn in quote.burns]
        )
