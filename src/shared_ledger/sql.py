"""The SQL of the write path, written once for any connection.

Parameters are texts with the type behind them (``:owners::text[]``). Arrays are written as
PostgreSQL's literals, several times faster than adapted lists; numbers by name are JSON.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache

import msgspec

from shared_ledger.schema import (
    ENTRIES_ID_SEQUENCE,
    ENTRY_COLUMNS,
    GRANT_COLUMNS,
    HOLD_COLUMNS,
    MAX_SCHEMAS,
    checked_schema,
)

NULL = "NULL"


@lru_cache(maxsize=MAX_SCHEMAS)
def statements(schema: str) -> Mapping[str, str]:
    """Return the statements for the book in this schema, by name."""
    book = checked_schema(schema)
    # As text: drivers do not know the enum, and its labels may be another application's.
    entry = ", ".join(f"{name}::text" if name == "operation" else name for name in ENTRY_COLUMNS)
    hold = ", ".join(f"{name}::text" if name == "operation" else name for name in HOLD_COLUMNS)
    grant = ", ".join(GRANT_COLUMNS)
    due = "unnest(:owners::text[], :assets::text[], :ats::timestamptz[]) as due (owner, kind, at)"
    account = "owner_id, posted, held, floor, changed_on, nullif(expiring, 0), due_on"
    return {
        "lock": f"""
            select {account}
            from {book}.accounts
            where asset = :asset::text and owner_id = any(:owners::text[])
            order by owner_id
            for no key update
        """,
        # Locks as well, in the order of the index. Nothing is joined: in a young book, of which
        # statistics tell no rows, the planner would read all accounts for each gain.
        "advance": f"""
            update {book}.accounts
            set posted = posted + (:gains::jsonb ->> owner_id)::bigint,
                version = version + 1,
                changed_on = greatest(changed_on, transaction_timestamp())
            where asset = :asset::text
                and owner_id = any(array(select jsonb_object_keys(:gains::jsonb)))
            returning owner_id, posted, held, floor,
                nullif(changed_on, transaction_timestamp()), nullif(expiring, 0), due_on
        """,
        "look": f"""
            select {account}
            from {book}.accounts
            where asset = :asset::text and owner_id = any(:owners::text[])
        """,
        "clock": "select clock_timestamp()",
        "reserve": f"""
            select clock_timestamp(), transaction_timestamp(),
                array_agg(nextval('{book}.{ENTRIES_ID_SEQUENCE}'))
            from generate_series(1, :count::int)
        """,
        "entries_by_nonce": f"""
            select {entry}
            from {book}.entries
            join unnest(:owners::text[], :apps::text[], :nonces::text[])
                as wanted (owner, application, once)
                on owner_id = owner and app = application and nonce = once
        """,
        "entries_by_id": f"select {entry} from {book}.entries where id = any(:ids::bigint[])",
        # The ledger gives the entries of a group, but for the first, nonces that begin alike.
        "entries_of_groups": f"""
            select {entry}
            from {book}.entries
            join unnest(:groups::text[]) as wanted (number)
                on nonce > '@' || number || '.' and nonce < '@' || number || '/'
            order by id
        """,
        "claims": f"""
            select owner, application, wanted.operation, newest.period
            from unnest(:owners::text[], :apps::text[], :operations::text[])
                as wanted (owner, application, operation)
            cross join lateral (
                select period
                from {book}.entries
                where owner_id = owner and app = application
                    and entries.operation = wanted.operation::{book}.operation
                    and period is not null
                order by period desc
                limit 1
            ) as newest
        """,
        # Locks the rows, new ones too; entries with ids from here on are counted.
        "budgets": f"""
            insert into {book}.budgets as known (app, operation, period, spent, after_id)
            select application, name, span, 0, :after_id::bigint
            from unnest(:apps::text[], :operations::text[], :periods::text[])
                as wanted (application, name, span)
            on conflict (app, operation, period)
                do update set after_id = least(known.after_id, excluded.after_id)
            returning app, operation, period, spent
        """,
        "budgets_now": f"""
            select app, operation, period, spent
            from {book}.budgets
            join unnest(:apps::text[], :operations::text[], :periods::text[])
                as wanted (application, name, span)
                on app = application and operation = name and period = span
        """,
        "holds_by_id": f"select {hold} from {book}.holds where id = any(:ids::bigint[])",
        "holds_due": f"""
            select {hold}
            from {due}
            join {book}.holds
                on owner_id = owner and asset = kind and state = 'open' and expires_on <= at
        """,
        "grants_by_id": f"select {grant} from {book}.grants where id = any(:ids::bigint[])",
        "grants_by_entry": f"""
            select {grant} from {book}.grants where entry_id = any(:ids::bigint[])
        """,
        "grants_due": f"""
            select {grant}
            from {due}
            join {book}.grants
                on owner_id = owner and asset = kind and remaining > 0 and expires_on <= at
        """,
        # As many, in the order they are spent, as cover what is needed.
        "grants_needed": f"""
            select {grant}
            from unnest(:owners::text[], :assets::text[], :ats::timestamptz[], :needs::bigint[])
                as wanted (owner, kind, at, need)
            cross join lateral (
                select *, sum(remaining) over (
                    order by priority, expires_on, granted_on, id
                    rows between unbounded preceding and current row
                ) - remaining as before
                from {book}.grants
                where owner_id = owner and asset = kind and remaining > 0 and expires_on > at
            ) as live
            where before < need
        """,
        "next_due": f"""
            select owner, kind, least(
                (
                    select min(expires_on)
                    from {book}.holds
                    where owner_id = owner and asset = kind and state = 'open' and expires_on > at
                ),
                (
                    select min(expires_on)
                    from {book}.grants
                    where owner_id = owner and asset = kind and remaining > 0 and expires_on > at
                )
            )
            from {due}
        """,
        "reversed": f"""
            select reverses, sum(abs(amount))
            from {book}.entries
            where reverses = any(:ids::bigint[])
            group by reverses
        """,
        "burned": f"""
            select entry_id, grant_id, amount
            from {book}.burns
            where entry_id = any(:ids::bigint[])
        """,
        "open": f"""
            insert into {book}.accounts (owner_id, asset, posted, floor, changed_on)
            select owner, kind, balance, 0, :now::timestamptz
            from unnest(:owners::text[], :assets::text[], :balances::bigint[])
                as new (owner, kind, balance)
        """,
        "open_empty": f"""
            insert into {book}.accounts (owner_id, asset, floor, changed_on)
            select owner, kind, 0, clock_timestamp()
            from unnest(:owners::text[], :assets::text[]) as new (owner, kind)
            on conflict do nothing
        """,
        "insert": f"""
            insert into {book}.entries (
                id, app, operation, owner_id, counterparty, asset, amount, balance_after, nonce,
                created_on
            )
            select number, application, name::{book}.operation, owner, against, kind, gain, balance,
                once, at
            from unnest(
                :ids::bigint[], :apps::text[], :operations::text[], :owners::text[],
                :counterparties::text[], :assets::text[], :amounts::bigint[], :balances::bigint[],
                :nonces::text[], :ats::timestamptz[]
            ) as new (
                number, application, name, owner, against, kind, gain, balance, once, at
            )
        """,
        "save": f"""
            update {book}.accounts
            set posted = (:balances::jsonb ->> owner_id)::bigint,
                version = version + 1,
                changed_on = greatest(changed_on, :now::timestamptz)
            where asset = :asset::text
                and owner_id = any(array(select jsonb_object_keys(:balances::jsonb)))
        """,
        "save_held": f"""
            update {book}.accounts
            set posted = balance,
                held = reserved,
                version = version + 1,
                changed_on = greatest(changed_on, :now::timestamptz)
            from unnest(:owners::text[], :assets::text[], :balances::bigint[], :helds::bigint[])
                as new (owner, kind, balance, reserved)
            where owner_id = owner and asset = kind
        """,
        "save_whole": f"""
            update {book}.accounts
            set posted = new.balance,
                held = new.reserved,
                expiring = new.soon,
                due_on = new.due,
                debt = new.owed,
                version = version + 1,
                changed_on = greatest(changed_on, new.at)
            from unnest(
                :owners::text[], :assets::text[], :balances::bigint[], :helds::bigint[],
                :expirings::bigint[], :dues::timestamptz[], :debts::bigint[],
                :ats::timestamptz[]
            ) as new (owner, kind, balance, reserved, soon, due, owed, at)
            where owner_id = owner and asset = kind
        """,
        "open_system": f"""
            insert into {book}.accounts (owner_id, asset, posted, changed_on)
            select owner, kind, gain, :now::timestamptz
            from unnest(:owners::text[], :assets::text[], :gains::bigint[])
                as new (owner, kind, gain)
            on conflict (owner_id, asset) do nothing
        """,
        "add": f"""
            insert into {book}.accounts as a (owner_id, asset, posted, changed_on)
            select owner, kind, gain, :now::timestamptz
            from unnest(:owners::text[], :assets::text[], :gains::bigint[])
                as new (owner, kind, gain)
            on conflict (owner_id, asset) do update
            set posted = a.posted + excluded.posted,
                version = a.version + 1,
                changed_on = greatest(a.changed_on, excluded.changed_on)
        """,
        "change_holds": f"""
            update {book}.holds
            set captured = new.taken,
                state = new.became,
                closed_on = new.closed,
                closed_by = new.closer,
                grant_ids = new.grants::bigint[],
                grant_amounts = new.amounts::bigint[]
            from unnest(
                :ids::bigint[], :captured::bigint[], :states::text[], :closed::timestamptz[],
                :closers::bigint[], :grant_ids::text[], :grant_amounts::text[]
            ) as new (number, taken, became, closed, closer, grants, amounts)
            where id = number
        """,
        "change_grants": f"""
            update {book}.grants
            set remaining = new.still, expired = new.gone
            from unnest(:ids::bigint[], :remaining::bigint[], :expired::bigint[])
                as new (number, still, gone)
            where id = number
        """,
        "spend_budgets": f"""
            update {book}.budgets
            set spent = spent + more
            from unnest(:apps::text[], :operations::text[], :periods::text[], :amounts::bigint[])
                as new (application, name, span, more)
            where app = application and operation = name and period = span
        """,
        "balances": f"""
            select owner_id, asset, posted, held, floor, changed_on, nullif(expiring, 0),
                due_on, version, extract(epoch from due_on - clock_timestamp())::float8
            from {book}.accounts
            where asset = any(:assets::text[]) and owner_id = any(:owners::text[])
        """,
    }


def text_array(texts: Sequence[str]) -> str:
    """Write texts as the literal of a PostgreSQL array, several times faster than the driver."""
    joined = '","'.join(texts)
    if "\\" in joined or joined.count('"') != 2 * max(len(texts) - 1, 0):
        joined = '","'.join(escaped(text).replace('"', '\\"') for text in texts)
    return '{"' + joined + '"}' if texts else "{}"


def escaped(text: str) -> str:
    """Double the backslashes."""
    return text.replace("\\", "\\\\")


def numbers(values: Iterable[int | None]) -> str:
    """Write whole numbers as the literal of a PostgreSQL array."""
    return "{" + ",".join([NULL if value is None else str(value) for value in values]) + "}"


def numbers_by_name(values: Mapping[str, int]) -> str:
    """Write whole numbers as a JSON object."""
    return msgspec.json.encode(values).decode()


def times(values: Iterable[datetime | None]) -> str:
    """Write times as the literal of a PostgreSQL array."""
    texts: list[str] = []
    last, text = None, NULL
    for at in values:
        # Those of a batch are mostly one and the same.
        if at is not last:
            last, text = at, NULL if at is None else f'"{at.isoformat()}"'
        texts.append(text)
    return "{" + ",".join(texts) + "}"
