"""All tables of Satoshi Spark in one place, for its migrations. Each is its context's alone."""

from __future__ import annotations

import sqlalchemy as sa

from shared_ledger.apps.crowdfunding.contexts import METADATA
from shared_ledger.apps.crowdfunding.lightning.tables import metadata as lightning

metadata = sa.MetaData()

for _each in (*METADATA, lightning):
    for _table in _each.sorted_tables:
        _table.to_metadata(metadata)
