"""The commands that move credits between owners, and back."""

from __future__ import annotations

from typing import Annotated

import typer

from shared_ledger.cli.entries import done, entries_document, print_posted, recorded
from shared_ledger.cli.options import (
    ApplicationOption,
    AssetOption,
    JsonOption,
    MetadataOption,
    NonceOption,
    nonce_or_new,
    open_ledger,
)
from shared_ledger.cli.output import print_facts, print_json
from shared_ledger.cli.values import positive_number, record_id
from shared_ledger.operations import CREDITS


def transfer(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Who gives.")],
    destination: Annotated[str, typer.Argument(metavar="DESTINATION", help="Who gets.")],
    amount: Annotated[
        int, typer.Argument(metavar="AMOUNT", parser=positive_number, help="How much.")
    ],
    *,
    nonce: NonceOption = None,
    asset: AssetOption = CREDITS,
    metadata: MetadataOption = None,
    application: ApplicationOption = None,
    json: JsonOption = False,
) -> None:
    """Move credits from one owner to another.

    Those that expire keep their expiry and their priority.
    """
    from shared_ledger.book import Transfer

    request = Transfer(
        source=source,
        destination=destination,
        amount=amount,
        nonce=nonce_or_new(nonce),
        asset=asset,
        metadata=metadata,
    )
    with open_ledger(application) as ledger:
        posted = ledger.post(request)
    if json:
        print_json(entries_document(posted))
        return
    entry, (other, *_) = posted.entry, posted.group
    written = dict(recorded(entry))
    written["entry"] = f"{entry.id} and {other.id} of {entry.app}"
    print_facts(
        done("Transferred", replayed=posted.replayed),
        [
            ("amount", f"{other.amount} {other.asset}"),
            ("from", f"{entry.owner_id}, balance {entry.balance_after}"),
            ("to", f"{other.owner_id}, balance {other.balance_after}"),
            *written.items(),
        ],
    )


def reverse(
    entry_id: Annotated[
        int, typer.Argument(metavar="ENTRY_ID", parser=record_id, help="Which entry.")
    ],
    *,
    amount: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            parser=positive_number,
            show_default=False,
            help="How much of it, without a sign; without it all that is left.",
        ),
    ] = None,
    allow_debt: Annotated[
        bool,
        typer.Option("--allow-debt", help="Take back what was spent too: the owner owes it then."),
    ] = False,
    nonce: NonceOption = None,
    metadata: MetadataOption = None,
    application: ApplicationOption = None,
    json: JsonOption = False,
) -> None:
    """Take an entry back, in part or whole.

    A spend goes back to the credits that paid for it; a transfer is reversed on both sides.
    """
    from shared_ledger.book import Reversal

    request = Reversal(
        entry_id, nonce_or_new(nonce), amount, allow_debt=allow_debt, metadata=metadata
    )
    with open_ledger(application) as ledger:
        posted = ledger.post(request)
    if json:
        print_json(entries_document(posted))
    else:
        print_posted("Reversed", posted)
