"""What must be true of a book that has more than plain postings.

Where a fact has exceptions, the strictest that is true is asked; ``decide`` and ``hand`` are what
makes it so.
"""

from __future__ import annotations

from shared_ledger.verify.accounts import ACCOUNTS
from shared_ledger.verify.grants import GRANTS
from shared_ledger.verify.groups import BUDGETS, GROUPS, REVERSALS
from shared_ledger.verify.holds import HOLDS

# Entries that plain postings do not write; they write none of these columns.
SPECIAL = """(
    held_after is not null or expiring_after is not null or effective_on is not null
    or group_id is not null or reverses is not null or hold_id is not null
    or expires_on is not null or priority is not null
    or operation in ('TRANSFER', 'REVERSAL', 'EXPIRY')
)"""

# Whether there is anything here to be checked at all.
ANYTHING = f"""
select exists (select from {{holds}}) or exists (select from {{grants}})
    or exists (select from {{burns}}) or exists (select from {{budgets}})
    or exists (
        select from {{accounts}}
        where held <> 0 or expiring <> 0 or debt <> 0 or due_on is not null
    )
    or exists (select from {{entries}} where {SPECIAL})
"""

# Asked of each range of owners, and of the whole book.
BY_OWNERS = (ACCOUNTS, HOLDS, GRANTS, REVERSALS)
WHOLE = (GROUPS, BUDGETS)
