"""Holds against the entries that placed, captured and ended them, and what they reserve."""

from __future__ import annotations

from shared_ledger.verify.part import Part

HOLDS = Part(
    # Each hold beside what its entries tell of it.
    rows="""
    hold as materialized (
        select id, owner_id, asset, app, operation::text as operation, counterparty, nonce, amount,
            captured, state, created_on, expires_on, closed_on, closed_by, grant_ids, grant_amounts
        from {holds}
        where {range}
    ),
    step as materialized (
        select id, owner_id, asset, app, operation::text as operation, counterparty, nonce, amount,
            created_on, coalesce(effective_on, created_on) as took_effect_on, hold_id,
            case
                when id = hold_id then 'placing'
                when operation = 'EXPIRY' then 'expiry'
                when amount = 0 then 'release'
                else 'capture'
            end as does
        from {entries}
        where {range} and hold_id is not null
    ),
    told as materialized (
        select hold.*, placed, captures, last_capture, captured_on, release, released_on, expiry,
            expired_on, coalesce(expiry, release, closed_by) as ended_by, last_step,
            case
                when expiry is not null then 'expired'
                when release is not null then 'released'
                when captures = amount or closed_by = last_capture then 'captured'
                else 'open'
            end as became
        from hold
        left join (
            select owner_id, asset, hold_id as id,
                bool_or(does = 'placing') as placed,
                coalesce(-sum(amount) filter (where does = 'capture'), 0) as captures,
                max(id) filter (where does = 'capture') as last_capture,
                max(created_on) filter (where does = 'capture') as captured_on,
                min(id) filter (where does = 'release') as release,
                min(created_on) filter (where does = 'release') as released_on,
                min(id) filter (where does = 'expiry') as expiry,
                min(took_effect_on) filter (where does = 'expiry') as expired_on,
                max(id) as last_step
            from step
            group by owner_id, asset, hold_id
        ) as steps using (owner_id, asset, id)
    ),
    piece as materialized (
        select id, owner_id, asset,
            unnest(grant_ids) as grant_id, unnest(grant_amounts) as amount
        from hold
    )
    """,
    questions={
        "hold_without_its_entry": """
            select owner_id, asset, id as entry_id, id as expected, null::bigint as found
            from told
            where placed is not true
        """,
        "hold_differs_from_its_entry": """
            select owner_id, asset, id as entry_id,
                field || ' ' || should_be as expected, field || ' ' || is_now as found
            from hold
            join step using (owner_id, asset, id)
            cross join lateral (
                values ('app', step.app, hold.app),
                    ('operation', step.operation, hold.operation),
                    ('counterparty', step.counterparty, hold.counterparty),
                    ('nonce', step.nonce, hold.nonce),
                    ('created_on', step.created_on::text, hold.created_on::text),
                    ('amount of the entry', '0', step.amount::text)
            ) as compared (field, should_be, is_now)
            where does = 'placing' and should_be <> is_now
        """,
        "entry_of_a_hold_that_is_not_there": """
            select owner_id, asset, step.id as entry_id, hold_id as expected, null::bigint as found
            from step
            left join (select owner_id, asset, id as hold_id, state from hold) as hold
                using (owner_id, asset, hold_id)
            where state is null
        """,
        "entry_differs_from_its_hold": """
            select owner_id, asset, step.id as entry_id,
                field || ' ' || should_be as expected, field || ' ' || is_now as found
            from step
            join (
                select owner_id, asset, id as hold_id, app, operation, counterparty from hold
            ) as hold using (owner_id, asset, hold_id)
            cross join lateral (
                values ('app', hold.app, step.app),
                    (
                        'operation',
                        case does when 'expiry' then 'EXPIRY' else hold.operation end,
                        step.operation
                    ),
                    ('counterparty', hold.counterparty, step.counterparty),
                    (
                        'amount',
                        case does when 'capture' then least(step.amount, 0) else 0 end::text,
                        step.amount::text
                    )
            ) as compared (field, should_be, is_now)
            where does <> 'placing' and should_be <> is_now
        """,
        "captured_differs_from_entries": """
            select owner_id, asset, id as entry_id, captures as expected, captured as found
            from told
            where captured <> captures
        """,
        "state_of_a_hold_differs_from_its_entries": """
            select owner_id, asset, id as entry_id, became as expected, state as found
            from told
            where state <> became
        """,
        # Of a capture that took the last of a hold that was to stay open, it is none.
        "closed_by_is_not_what_ended_the_hold": """
            select owner_id, asset, id as entry_id, should_be as expected, closed_by as found
            from (
                select told.*,
                    case
                        when became = 'released' then release
                        when became = 'captured' and closed_by is not null then last_capture
                    end as should_be
                from told
            ) as told
            where closed_by is distinct from should_be
        """,
        "closed_on_is_not_when_the_hold_ended": """
            select owner_id, asset, id as entry_id, should_be as expected, closed_on as found
            from (
                select told.*,
                    case became
                        when 'expired' then expires_on
                        when 'released' then released_on
                        when 'captured' then captured_on
                    end as should_be
                from told
            ) as told
            where closed_on is distinct from should_be
        """,
        "hold_did_not_end_at_its_expiry": """
            select owner_id, asset, expiry as entry_id, expires_on as expected, expired_on as found
            from told
            where expired_on <> expires_on
        """,
        "hold_goes_on_after_its_end": """
            select owner_id, asset, id as entry_id, ended_by as expected, last_step as found
            from told
            where last_step > ended_by
        """,
        # Whoever touches an account books first what has expired.
        "hold_was_used_after_its_expiry": """
            select owner_id, asset, step.id as entry_id,
                expires_on as expected, step.created_on as found
            from step
            join (select owner_id, asset, id as hold_id, expires_on from hold) as hold
                using (owner_id, asset, hold_id)
            where does <> 'expiry' and step.created_on >= expires_on
        """,
        "reserved_by_a_hold_that_has_ended": """
            select owner_id, asset, id as entry_id, 0 as expected, cardinality(grant_ids) as found
            from hold
            where state <> 'open' and cardinality(grant_ids) + cardinality(grant_amounts) > 0
        """,
        "reserved_is_more_than_is_held": """
            select owner_id, asset, id as entry_id,
                hold.amount - captured as expected, reserved as found
            from hold
            join (
                select owner_id, asset, id, sum(amount) as reserved
                from piece
                group by owner_id, asset, id
            ) as pieces using (owner_id, asset, id)
            where reserved > hold.amount - captured
        """,
        # A piece is of one grant, of which there is no other piece, and more than nothing.
        "reserved_pieces_are_not_whole": """
            select owner_id, asset, id as entry_id, count(*) as expected,
                count(distinct grant_id) filter (where amount > 0) as found
            from piece
            group by owner_id, asset, id
            having count(*) <> count(distinct grant_id) filter (where amount > 0)
        """,
        "reserved_of_a_grant_that_is_not_there": """
            select owner_id, asset, id as entry_id, grant_id as expected, null::bigint as found
            from piece
            left join (
                select owner_id, asset, id as grant_id, true as is_there
                from {grants}
                where {range}
            ) as given using (owner_id, asset, grant_id)
            where is_there is null and grant_id is not null
        """,
    },
    times=frozenset(
        {
            "closed_on_is_not_when_the_hold_ended",
            "hold_did_not_end_at_its_expiry",
            "hold_was_used_after_its_expiry",
        }
    ),
)
