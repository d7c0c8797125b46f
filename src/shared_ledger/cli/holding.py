"""The commands about holds: credits that are reserved until they are taken or released."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shared_ledger.cli.entries import Facts, done, entry_document, print_posted
from shared_ledger.cli.options import (
    ApplicationOption,
    AssetOption,
    HoldArgument,
    JsonOption,
    MetadataOption,
    NonceOption,
    OperationArgument,
    OwnerArgument,
    nonce_or_new,
    open_ledger,
)
from shared_ledger.cli.output import (
    exact,
    print_facts,
    print_json,
    print_line,
    print_table,
    second,
)
from shared_ledger.cli.values import duration, moment, positive_number
from shared_ledger.operations import CREDITS

if TYPE_CHECKING:
    from shared_ledger.book import Held, Hold

# What the service does not show of a hold either.
_OWN_AFFAIRS = ("closed_by", "grants")


def hold(
    operation: OperationArgument,
    owner_id: OwnerArgument,
    *,
    amount: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            parser=positive_number,
            show_default=False,
            help="How much to reserve; may be left out where the operation has a default.",
        ),
    ] = None,
    nonce: NonceOption = None,
    expires_in: Annotated[
        timedelta | None,
        typer.Option(
            metavar="TIME",
            parser=duration,
            show_default=False,
            help="How long it lasts: 7d, 12h, 30m, 45s. Without it 7 days.",
        ),
    ] = None,
    expires_at: Annotated[
        datetime | None,
        typer.Option(
            metavar="TIME",
            parser=moment,
            show_default=False,
            help="Until when it lasts instead: 2026-11-30T12:00:00Z.",
        ),
    ] = None,
    metadata: MetadataOption = None,
    application: ApplicationOption = None,
    json: JsonOption = False,
) -> None:
    """Reserve credits for an operation that takes some."""
    from shared_ledger.book import PlaceHold

    if expires_in is not None and expires_at is not None:
        raise typer.BadParameter("stands beside --expires-in", param_hint="'--expires-at'")
    with open_ledger(application) as ledger:
        held = ledger.post(
            PlaceHold(
                ledger.application.operation(operation),
                owner_id,
                nonce_or_new(nonce),
                amount,
                expires_in,
                expires_at,
                metadata,
            )
        )
    if json:
        print_json(_held_document(held))
        return
    placed = held.hold
    print_facts(
        done("Held", replayed=held.replayed),
        [
            *_subject(placed),
            ("reserved", f"{placed.amount} {placed.asset}"),
            ("expires", exact(placed.expires_on)),
            ("nonce", placed.nonce),
            ("created", exact(placed.created_on)),
        ],
    )


def capture(
    hold_id: HoldArgument,
    *,
    amount: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            parser=positive_number,
            show_default=False,
            help="How much to take; without it all that is left.",
        ),
    ] = None,
    keep_open: Annotated[
        bool, typer.Option("--keep-open", help="Keep the rest reserved, do not release it.")
    ] = False,
    nonce: NonceOption = None,
    metadata: MetadataOption = None,
    application: ApplicationOption = None,
    json: JsonOption = False,
) -> None:
    """Take what a hold reserves, and release the rest."""
    from shared_ledger.book import CaptureHold

    request = CaptureHold(
        hold_id, nonce_or_new(nonce), amount, final=not keep_open, metadata=metadata
    )
    with open_ledger(application) as ledger:
        posted = ledger.post(request)
    if json:
        print_json(entry_document(posted))
    else:
        print_posted("Captured", posted)


def release(
    hold_id: HoldArgument,
    *,
    nonce: NonceOption = None,
    application: ApplicationOption = None,
    json: JsonOption = False,
) -> None:
    """End a hold: what is left of it becomes available again."""
    from shared_ledger.book import ReleaseHold

    request = ReleaseHold(hold_id, nonce_or_new(nonce))
    with open_ledger(application) as ledger:
        held = ledger.post(request)
    if json:
        print_json(_held_document(held))
        return
    ended = held.hold
    facts: Facts = [
        *_subject(ended),
        ("released", f"{ended.amount - ended.captured} {ended.asset}"),
        ("nonce", request.nonce),
    ]
    if ended.captured:
        facts.insert(3, ("captured", f"{ended.captured} {ended.asset}"))
    if ended.closed_on is not None:
        facts.append(("ended", exact(ended.closed_on)))
    print_facts(done("Released", replayed=held.replayed), facts)


def holds(
    owner_id: OwnerArgument,
    *,
    asset: AssetOption = CREDITS,
    application: ApplicationOption = None,
    json: JsonOption = False,
) -> None:
    """Show an owner's open holds, what expires first before others."""
    with open_ledger(application) as ledger:
        found = ledger.holds(owner_id, asset=asset)
    if json:
        print_json({"holds": [_document(hold) for hold in found]})
        return
    if not found:
        print_line(f"{owner_id} has no open holds of {asset}.")
        return
    print_table(
        [
            ("Hold", "right"),
            ("App", "left"),
            ("Operation", "left"),
            ("Amount", "right"),
            ("Captured", "right"),
            ("Left", "right"),
            ("Expires (UTC)", "left"),
            ("Nonce", "left"),
        ],
        [
            (
                hold.id,
                hold.app,
                hold.operation,
                hold.amount,
                hold.captured,
                hold.remaining,
                second(hold.expires_on),
                hold.nonce,
            )
            for hold in found
        ],
        spare=("Nonce", "App"),
    )


def _subject(hold: Hold) -> Facts:
    return [
        ("hold", f"{hold.id} of {hold.app}"),
        ("operation", hold.operation),
        ("owner", hold.owner_id),
    ]


def _held_document(held: Held) -> dict[str, Any]:
    return {**_document(held.hold), "replayed": held.replayed}


def _document(hold: Hold) -> dict[str, Any]:
    fields = [name for name in hold.__struct_fields__ if name not in _OWN_AFFAIRS]
    return {name: getattr(hold, name) for name in fields} | {"remaining": hold.remaining}
