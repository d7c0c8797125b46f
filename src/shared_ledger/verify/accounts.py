"""Accounts that have more than plain entries: at their end, and after each entry."""

from __future__ import annotations

from shared_ledger.verify.part import Part

ACCOUNTS = Part(
    # What is held changes by entries that name a hold: placing reserves its amount, a capture takes
    # its own, and the entry that ends it releases what is left. What expires changes by the grants
    # of an entry and by what it burns. Accounts without any of it are left out.
    rows="""
    hold as materialized (
        select id, owner_id, asset, state, amount, amount - captured as rest, expires_on, closed_by,
            (select sum(piece) from unnest(grant_amounts) as reserved (piece)) as reserved
        from {holds}
        where {range}
    ),
    given as materialized (
        select id, entry_id, owner_id, asset, amount, remaining, expires_on
        from {grants}
        where {range}
    ),
    touched as (
        select owner_id, asset from hold
        union
        select owner_id, asset from given
        union
        select owner_id, asset
        from {entries}
        where {range} and (
            held_after is not null or expiring_after is not null
            or effective_on is not null or hold_id is not null
        )
    ),
    reserving as (
        select owner_id, asset, entry.id,
            case
                when entry.id = hold.id then hold.amount
                when entry.id = closed_by or entry.amount = 0 then -(
                    hold.amount + coalesce(
                        sum(entry.amount) over (
                            partition by hold.id
                            order by entry.id
                            rows between unbounded preceding and 1 preceding
                        ), 0
                    )
                )
                else entry.amount
            end as held
        from (
            select owner_id, asset, id, hold_id, amount
            from {entries}
            where {range} and hold_id is not null
        ) as entry
        join hold using (owner_id, asset)
        where hold.id = hold_id
    ),
    expiring as (
        select owner_id, asset, id, sum(amount) as expiring
        from (
            select owner_id, asset, entry_id as id, amount from given
            union all
            select owner_id, asset, burns.entry_id, -burns.amount
            from {burns} as burns
            join given on given.id = grant_id
        ) as moved
        group by owner_id, asset, id
    ),
    running as materialized (
        select owner_id, asset, id, created_on, effective_on,
            coalesce(held_after, 0) as held_after,
            coalesce(expiring_after, 0) as expiring_after,
            coalesce(sum(held) over account, 0) as held,
            coalesce(sum(expiring) over account, 0) as expiring,
            coalesce(effective_on, created_on) as took_effect_on,
            lag(coalesce(effective_on, created_on)) over account as before,
            lead(id) over account is null as is_last
        from (
            select owner_id, asset, id, created_on, effective_on, held_after, expiring_after
            from {entries}
            where {range}
        ) as entry
        join touched using (owner_id, asset)
        left join reserving using (owner_id, asset, id)
        left join expiring using (owner_id, asset, id)
        window account as (partition by owner_id, asset order by id)
    ),
    account as materialized (
        select owner_id, asset, posted::numeric, held::numeric, account.expiring, floor, debt,
            due_on,
            coalesce(in_holds, 0) as in_holds,
            coalesce(reserved, 0) as reserved,
            coalesce(remaining, 0) as remaining,
            least(first_hold, first_grant) as first_due,
            coalesce(held_after, 0) as held_after,
            coalesce(expiring_after, 0) as expiring_after
        from (select * from {accounts} where {range} and left(owner_id, 1) <> '@') as account
        left join (
            select owner_id, asset, sum(rest) as in_holds, sum(reserved) as reserved,
                min(expires_on) as first_hold
            from hold
            where state = 'open'
            group by owner_id, asset
        ) as holding using (owner_id, asset)
        left join (
            select owner_id, asset, sum(remaining) as remaining,
                min(expires_on) filter (where remaining > 0) as first_grant
            from given
            group by owner_id, asset
        ) as granted using (owner_id, asset)
        left join (
            select owner_id, asset, held_after, expiring_after from running where is_last
        ) as last using (owner_id, asset)
        where in_holds is not null or remaining is not null
            or held_after is not null
            or held <> 0 or account.expiring <> 0 or debt <> 0 or due_on is not null
    )
    """,
    questions={
        "held_differs_from_open_holds": """
            select owner_id, asset, null as entry_id, in_holds as expected, held as found
            from account
            where held <> in_holds
        """,
        "held_differs_from_the_last_entry": """
            select owner_id, asset, null as entry_id, held_after as expected, held as found
            from account
            where held <> held_after
        """,
        "expiring_differs_from_grants": """
            select owner_id, asset, null as entry_id,
                remaining + reserved as expected, expiring as found
            from account
            where expiring <> remaining + reserved
        """,
        "expiring_differs_from_the_last_entry": """
            select owner_id, asset, null as entry_id, expiring_after as expected, expiring as found
            from account
            where expiring <> expiring_after
        """,
        # What expires is spent and reserved first, so that the rest alone keeps the floor.
        "what_does_not_expire_is_below_the_floor": """
            select owner_id, asset, null as entry_id,
                least(floor, 0) as expected, posted - expiring - (held - reserved) as found
            from account
            where expiring > 0 and posted - expiring - (held - reserved) < least(floor, 0)
        """,
        # Less debt than is owed is an account below its floor.
        "debt_is_more_than_is_owed": """
            select owner_id, asset, null as entry_id,
                greatest(0, floor - (posted - held)) as expected, debt as found
            from account
            where debt > greatest(0, floor - (posted - held))
        """,
        # Whatever comes in pays the debt first.
        "expiring_while_there_is_debt": """
            select owner_id, asset, null as entry_id, 0 as expected, expiring as found
            from account
            where debt > 0 and expiring > 0
        """,
        "due_on_is_after_an_expiry": """
            select owner_id, asset, null as entry_id, first_due as expected, due_on as found
            from account
            where first_due is not null and (due_on is null or due_on > first_due)
        """,
        "held_after_is_not_the_running_sum": """
            select owner_id, asset, id as entry_id, held as expected, held_after as found
            from running
            where held_after <> held
        """,
        "expiring_after_is_not_the_running_sum": """
            select owner_id, asset, id as entry_id, expiring as expected, expiring_after as found
            from running
            where expiring_after <> expiring
        """,
        "effective_on_runs_backwards": """
            select owner_id, asset, id as entry_id, before as expected, took_effect_on as found
            from running
            where took_effect_on < before
        """,
        "effective_on_is_not_before_created_on": """
            select owner_id, asset, id as entry_id, created_on as expected, effective_on as found
            from running
            where effective_on >= created_on
        """,
    },
    times=frozenset(
        {
            "due_on_is_after_an_expiry",
            "effective_on_runs_backwards",
            "effective_on_is_not_before_created_on",
        }
    ),
)
