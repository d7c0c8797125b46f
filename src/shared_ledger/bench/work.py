"""What is posted in the measurements."""

from __future__ import annotations

import random
from itertools import count

import sqlalchemy as sa

from shared_ledger.book import Posting
from shared_ledger.connections import make_engine
from shared_ledger.operations import SharedOperation
from shared_ledger.schema import book_tables

ACCOUNTS = 10_000
BATCH = 1_000
OPENING = "opening"
HOT = "user-0"
"""The owner of the hot account, and of a tenth of what is stored before."""

Postings = list[Posting[SharedOperation]]


class Work:
    """Makes postings that nobody has made before, to the owners of one crowd."""

    def __init__(self, mark: str, *, crowd: str = "user", seed: int = 1) -> None:
        self._mark = mark
        self._crowd = crowd
        self._numbers = count()
        self._random = random.Random(seed)  # noqa: S311  # Chosen owners, not secrets.

    def one(self, accounts: int = ACCOUNTS) -> Posting[SharedOperation]:
        """Return a credit for one of that many owners."""
        owner = f"{self._crowd}-{self._random.randrange(accounts)}"
        return Posting(SharedOperation.CREDIT_ADD, owner, f"{self._mark}-{next(self._numbers)}")

    def batch(self, size: int = BATCH, accounts: int = ACCOUNTS) -> Postings:
        """Return credits for that many owners."""
        return [self.one(accounts) for _ in range(size)]

    def mixed(self, size: int = BATCH) -> Postings:
        """Return a batch of which every tenth posting is a spend that the owner cannot pay."""
        postings = self.batch(size)
        for index in range(0, size, 10):
            number = next(self._numbers)
            postings[index] = Posting(
                SharedOperation.CREDIT_SPEND, f"poor-{number % ACCOUNTS}", f"{self._mark}-{number}"
            )
        return postings


def opening(crowd: str = "user") -> Postings:
    """Return one credit for each owner of a crowd, so that the accounts exist."""
    return [
        Posting(SharedOperation.CREDIT_ADD, f"{crowd}-{number}", OPENING)
        for number in range(ACCOUNTS)
    ]


def store_entries(url: str, schema: str, entries: int) -> None:
    """Fill a fresh book with that many entries of 10 credits, a millisecond apart.

    A tenth is of the hot account, the others are spread over the other owners.
    """
    tables = book_tables(schema)
    name, accounts = tables.entries.fullname, tables.accounts.fullname
    engine = make_engine(url)
    with engine.begin() as connection:
        connection.execute(
            sa.text(
                f"insert into {name} (id, amount, balance_after, created_on, operation, app, "
                "asset, owner_id, counterparty, nonce) "
                "select n + 1, 10, "
                f"10 * (case when n % 10 = 0 then n / 10 else others / {ACCOUNTS - 1} end + 1), "
                "now() - (:last - n) * interval '1 millisecond', 'CREDIT_ADD', "
                "'shared', 'credits', case when n % 10 = 0 then :hot "
                f"else 'user-' || 1 + others % {ACCOUNTS - 1} end, '@issued', 'stored-' || n "
                "from generate_series(0::bigint, :last) as n "
                "cross join lateral (select n - n / 10 - 1 as others) as counted"
            ),
            {"last": entries - 1, "hot": HOT},
        )
        connection.execute(
            sa.text(
                f"insert into {accounts} (owner_id, asset, posted, floor, changed_on) "
                "select owner_id, asset, sum(amount), 0, max(created_on) "
                f"from {name} group by 1, 2 "
                "union all select '@issued', 'credits', -sum(amount), null, max(created_on) "
                f"from {name}"
            )
        )
        connection.execute(
            sa.text(f"select setval('{schema}.{tables.entry_ids.name}', :last)"),
            {"last": entries},
        )
    engine.dispose()


def tidy(url: str) -> None:
    """Give the planner its statistics, as autovacuum would in a minute."""
    engine = make_engine(url).execution_options(isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sa.text("vacuum analyze"))
    engine.dispose()
