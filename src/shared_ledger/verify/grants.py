"""Grants against the entries that gave and burned them, and burns against both."""

from __future__ import annotations

from shared_ledger.verify.part import Part

GRANTS = Part(
    # Grants beside their entries, and what entries burned beside both.
    rows="""
    given as materialized (
        select id, entry_id, app, owner_id, asset, amount, remaining, priority, granted_on,
            expires_on, expired
        from {grants}
        where {range}
    ),
    entry as (
        select id as entry_id, owner_id, asset, app, operation::text as operation, amount,
            created_on, coalesce(effective_on, created_on) as took_effect_on, held_after,
            expiring_after, reverses, hold_id, expires_on, priority
        from {entries}
        where {range}
    ),
    giving as materialized (
        select given.*, entry.app as by, operation, entry.amount as gain, created_on,
            entry.expires_on as until, entry.priority as said, reverses
        from given
        left join entry using (owner_id, asset, entry_id)
    ),
    burned as materialized (
        select burns.entry_id, grant_id, burns.amount, given.owner_id, given.asset,
            given.entry_id as given_by, given.app as given_app, given.expires_on as until
        from {burns} as burns
        join given on given.id = grant_id
    ),
    paying as materialized (
        select burned.*, app, operation, entry.amount as moved, created_on, took_effect_on,
            reverses, hold_id, reverses is not null and entry.amount > 0 as returns
        from burned
        left join entry using (owner_id, asset, entry_id)
    ),
    net as materialized (
        select owner_id, asset, entry_id, operation, moved, returns, sum(amount) as burned
        from paying
        where operation is not null
        group by owner_id, asset, entry_id, operation, moved, returns
    )
    """,
    questions={
        "remaining_differs_from_burns": """
            select owner_id, asset, entry_id,
                amount - burned - reserved as expected, remaining as found
            from (
                select given.*, coalesce(burned, 0) as burned, coalesce(reserved, 0) as reserved
                from given
                left join (
                    select grant_id as id, sum(amount) as burned from burned group by grant_id
                ) as burns using (id)
                left join (
                    select owner_id, asset, id, sum(piece) as reserved
                    from (
                        select owner_id, asset,
                            unnest(grant_ids) as id, unnest(grant_amounts) as piece
                        from {holds}
                        where {range} and state = 'open'
                    ) as pieces
                    group by owner_id, asset, id
                ) as holds using (owner_id, asset, id)
            ) as given
            where remaining <> amount - burned - reserved
        """,
        "expired_differs_from_entries": """
            select owner_id, asset, entry_id, coalesce(gone, 0) as expected, expired as found
            from given
            left join (
                select grant_id as id, sum(amount) as gone
                from paying
                where operation = 'EXPIRY'
                group by grant_id
            ) as expiries using (id)
            where expired <> coalesce(gone, 0)
        """,
        "grant_without_its_entry": """
            select owner_id, asset, entry_id, entry_id as expected, null::bigint as found
            from giving
            where operation is null
        """,
        # A transfer gives what it took: many grants, each with its own expiry and application.
        "grant_differs_from_its_entry": """
            select owner_id, asset, entry_id,
                field || ' ' || coalesce(should_be, 'none') as expected,
                field || ' ' || is_now as found
            from giving
            cross join lateral (
                values ('granted_on', created_on::text, granted_on::text),
                    ('app', case when operation <> 'TRANSFER' then by else app end, app),
                    (
                        'expires_on',
                        case when operation <> 'TRANSFER' then until else expires_on end::text,
                        expires_on::text
                    ),
                    (
                        'priority',
                        case when operation <> 'TRANSFER' then said else priority end::text,
                        priority::text
                    ),
                    (
                        'amount',
                        case when operation <> 'TRANSFER' then gain else amount end::text,
                        amount::text
                    )
            ) as compared (field, should_be, is_now)
            where operation is not null and should_be is distinct from is_now
        """,
        "grants_are_more_than_their_entry": """
            select owner_id, asset, entry_id, greatest(gain, 0) as expected, sum(amount) as found
            from giving
            where operation is not null
            group by owner_id, asset, entry_id, gain
            having sum(amount) > greatest(gain, 0)
        """,
        "grant_of_what_gives_none": """
            select owner_id, asset, entry_id, null::text as expected, operation as found
            from giving
            where reverses is not null or operation in ('REVERSAL', 'EXPIRY')
        """,
        # When the clock was set back, the source of a transfer may have what has expired for the
        # destination, of which it then expires at once.
        "grant_expires_before_it_was_given": """
            select owner_id, asset, entry_id, granted_on as expected, expires_on as found
            from giving
            where expires_on <= granted_on and operation is distinct from 'TRANSFER'
        """,
        "entry_expires_without_a_grant": """
            select owner_id, asset, entry_id, amount as expected, null::bigint as found
            from entry
            left join (
                select distinct owner_id, asset, entry_id, true as is_there from given
            ) as given using (owner_id, asset, entry_id)
            where (expires_on is not null or priority is not null) and is_there is null
        """,
        "burn_without_its_entry": """
            select owner_id, asset, entry_id, entry_id as expected, null::bigint as found
            from paying
            where operation is null
        """,
        # Only the reversal of a spend gives back; all of it may have paid a debt again.
        "burn_has_the_wrong_sign": """
            select owner_id, asset, entry_id, 0 as expected, amount as found
            from paying
            where case when returns then amount > 0 else amount <= 0 end
        """,
        "burned_more_than_was_moved": """
            select owner_id, asset, entry_id, abs(moved) as expected, abs(burned) as found
            from net
            where abs(burned) > abs(moved)
        """,
        "expiry_differs_from_burns": """
            select owner_id, asset, entry_id, -amount as expected, coalesce(burned, 0) as found
            from entry
            left join (select owner_id, asset, entry_id, burned from net) as net
                using (owner_id, asset, entry_id)
            where operation = 'EXPIRY' and coalesce(burned, 0) <> -amount
        """,
        "expiry_is_of_neither_grant_nor_hold": """
            select owner_id, asset, entry_id, null::bigint as expected, amount as found
            from entry
            where operation = 'EXPIRY' and (amount > 0 or (amount = 0) <> (hold_id is not null))
        """,
        "expiry_has_another_application_than_its_grant": """
            select owner_id, asset, entry_id, given_app as expected, app as found
            from paying
            where operation = 'EXPIRY' and app <> given_app
        """,
        "expired_before_its_time": """
            select owner_id, asset, entry_id, until as expected, took_effect_on as found
            from paying
            where operation = 'EXPIRY' and took_effect_on < until
        """,
        # What a hold reserves does not expire before it ends.
        "burned_after_it_had_expired": """
            select owner_id, asset, entry_id, until as expected, created_on as found
            from paying
            where operation <> 'EXPIRY' and hold_id is null and moved < 0 and created_on >= until
        """,
        "burned_before_it_was_given": """
            select owner_id, asset, entry_id, given_by as expected, entry_id as found
            from paying
            where operation is not null and entry_id < given_by
        """,
        # A gain burns what it gave itself, for a debt, and nothing else.
        "gain_took_of_another_grant": """
            select owner_id, asset, entry_id, entry_id as expected, given_by as found
            from paying
            where moved > 0 and not returns and given_by <> entry_id
        """,
        "given_back_more_than_was_taken": """
            select owner_id, asset, spend as entry_id, 0 as expected, sum(amount) as found
            from (
                select owner_id, asset, grant_id, amount,
                    case when returns then reverses else entry_id end as spend
                from paying
                where operation is not null
            ) as paid
            group by owner_id, asset, spend, grant_id
            having sum(amount) < 0
        """,
        # What is left that expires is reserved: a spend takes others only when no more is free.
        "spent_others_before_what_expires": """
            select owner_id, asset, entry_id, -amount as expected, coalesce(burned, 0) as found
            from entry
            left join (select owner_id, asset, entry_id, burned from net) as net
                using (owner_id, asset, entry_id)
            where amount < 0 and operation <> 'EXPIRY' and hold_id is null
                and expiring_after > coalesce(held_after, 0)
                and coalesce(burned, 0) < -amount
        """,
    },
    times=frozenset(
        {
            "grant_expires_before_it_was_given",
            "expired_before_its_time",
            "burned_after_it_had_expired",
        }
    ),
)
