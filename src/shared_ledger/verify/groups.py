"""Reversals against what they take back, groups against their sums, budgets against gains."""

from __future__ import annotations

from shared_ledger.verify.part import Part

REVERSALS = Part(
    rows="""
    reversal as materialized (
        select id, owner_id, asset, app, operation::text as operation, counterparty, amount,
            reverses
        from {entries}
        where {range} and (reverses is not null or operation = 'REVERSAL')
    ),
    undone as materialized (
        select reversal.*, entry.app as its_app, its_operation,
            entry.counterparty as its_counterparty, its_amount, its_reverses,
            known.operation is not null as is_own
        from reversal
        left join (
            select id as reverses, owner_id, asset, app, operation::text as its_operation,
                counterparty, amount as its_amount, reverses as its_reverses
            from {entries}
            where {range}
        ) as entry using (owner_id, asset, reverses)
        left join {operations} as known
            on known.app = reversal.app and known.operation = reversal.operation
    )
    """,
    questions={
        "reversal_without_its_entry": """
            select owner_id, asset, id as entry_id, reverses as expected, null::bigint as found
            from undone
            where its_operation is null
        """,
        # It may be shown as an operation of its application, but for a transfer's.
        "reversal_differs_from_its_entry": """
            select owner_id, asset, id as entry_id,
                field || ' ' || should_be as expected, field || ' ' || is_now as found
            from undone
            cross join lateral (
                values (
                        'operation',
                        case when is_own and its_operation <> 'TRANSFER' then operation
                            else 'REVERSAL' end,
                        operation
                    ),
                    ('app', its_app, app),
                    ('counterparty', its_counterparty, counterparty),
                    ('sign', sign(-its_amount)::text, sign(amount)::text),
                    ('id', greatest(id, reverses + 1)::text, id::text)
            ) as compared (field, should_be, is_now)
            where its_operation is not null and should_be <> is_now
        """,
        "reversal_of_what_cannot_be_reversed": """
            select owner_id, asset, id as entry_id, null::text as expected, its_operation as found
            from undone
            where its_reverses is not null or its_operation in ('REVERSAL', 'EXPIRY')
                or its_amount = 0
        """,
        "reversed_more_than_the_entry": """
            select owner_id, asset, reverses as entry_id,
                abs(its_amount) as expected, sum(abs(amount)) as found
            from undone
            where its_operation is not null
            group by owner_id, asset, reverses, its_amount
            having sum(abs(amount)) > abs(its_amount)
        """,
    },
)

GROUPS = Part(
    # A group is of several owners, so it is looked at in the whole book.
    rows="""
    grouped as materialized (
        select coalesce(group_id, id) as group_id, id, owner_id, asset, app,
            operation::text as operation, amount, nonce, reverses,
            row_number() over (partition by coalesce(group_id, id) order by id) - 1 as number
        from {entries}
        where group_id is not null or operation = 'TRANSFER'
    ),
    transferred as materialized (
        select group_id, asset, owner_id, id, amount from grouped where operation = 'TRANSFER'
    )
    """,
    questions={
        "group_without_its_first_entry": """
            select owner_id, asset, id as entry_id, group_id as expected, id as found
            from grouped
            where number = 0 and id <> group_id
        """,
        # By it a group is found again, when its first nonce is posted again.
        "entry_of_a_group_has_another_nonce": """
            select owner_id, asset, id as entry_id,
                '@' || group_id || '.' || number as expected, nonce as found
            from grouped
            where number > 0 and nonce <> '@' || group_id || '.' || number
        """,
        "transfer_does_not_net_to_zero": """
            select null as owner_id, asset, group_id as entry_id, 0 as expected,
                sum(amount) as found
            from grouped
            where operation = 'TRANSFER' or reverses is not null
            group by asset, group_id
            having sum(amount) <> 0
        """,
        "transfer_is_not_of_two_owners": """
            select null as owner_id, null as asset, group_id as entry_id, 2 as expected,
                count(distinct owner_id) as found
            from grouped
            where operation = 'TRANSFER' or reverses is not null
            group by group_id
            having count(*) <> 2 or count(distinct owner_id) <> 2
        """,
        # Credits keep their expiry, their priority and who gave them.
        "transfer_changed_what_expires": """
            select null as owner_id, asset, group_id as entry_id, sum(taken) as expected,
                sum(given) as found
            from (
                select group_id, transferred.asset, expires_on, priority, app,
                    burns.amount as taken, 0 as given
                from transferred
                join {burns} as burns on entry_id = transferred.id
                join {grants} as grants on grants.id = grant_id
                where transferred.amount < 0
                union all
                select group_id, transferred.asset, expires_on, priority, app, 0, grants.amount
                from transferred
                join {grants} as grants on entry_id = transferred.id
            ) as moved
            group by group_id, asset, expires_on, priority, app
            having sum(taken) <> sum(given)
        """,
        "burn_without_its_grant": """
            select null as owner_id, null as asset, burns.entry_id, grant_id as expected,
                null::bigint as found
            from {burns} as burns
            left join {grants} as grants on grants.id = grant_id
            where grants.id is null
        """,
    },
)

BUDGETS = Part(
    # Gains of the operation, from the budget's first entry on; a reversal gives nothing back, and
    # what one gives under the operation's name is of no budget.
    rows="""
    gain as (
        select app, operation, period, sum(amount) as given
        from (
            select app, operation::text as operation, id, amount,
                to_char(created_on at time zone 'UTC', 'YYYY-MM-DD') as day
            from {entries}
            where amount > 0 and reverses is null
        ) as entry
        join {budgets} as budget using (app, operation)
        where period in ('ever', day) and id > after_id
        group by app, operation, period
    )
    """,
    questions={
        "spent_differs_from_entries": """
            select null as owner_id, null as asset, null as entry_id,
                concat_ws(' ', app, operation, period, coalesce(given, 0)) as expected,
                concat_ws(' ', app, operation, period, spent) as found
            from {budgets}
            left join gain using (app, operation, period)
            where spent <> coalesce(given, 0)
        """,
    },
)
