"""The contexts of Satoshi Spark, all of them: here alone they are named together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shared_ledger.apps.crowdfunding.accounting import store as accounting_store
from shared_ledger.apps.crowdfunding.accounting.commands import accounting
from shared_ledger.apps.crowdfunding.accounting.store import SparkLedger
from shared_ledger.apps.crowdfunding.auth import store as auth_store
from shared_ledger.apps.crowdfunding.auth.commands import AUTH
from shared_ledger.apps.crowdfunding.bitcoin import store as bitcoin_store
from shared_ledger.apps.crowdfunding.bitcoin.commands import BITCOIN
from shared_ledger.apps.crowdfunding.crowdfunding import store as crowdfunding_store
from shared_ledger.apps.crowdfunding.crowdfunding.commands import CROWDFUNDING
from shared_ledger.apps.crowdfunding.dashboard import store as dashboard_store
from shared_ledger.apps.crowdfunding.dashboard.projections import DASHBOARD
from shared_ledger.messages import Context, MessageTables

NAMES = ("auth", "accounting", "bitcoin", "crowdfunding", "dashboard")
STORES = (auth_store, accounting_store, bitcoin_store, crowdfunding_store, dashboard_store)
METADATA = [store.metadata for store in STORES]
TABLES: Sequence[MessageTables] = [store.TABLES for store in STORES]


def contexts(ledger: SparkLedger) -> Sequence[Context[Any]]:
    """Make them, in the order of ``NAMES``."""
    return [AUTH, accounting(ledger), BITCOIN, CROWDFUNDING, DASHBOARD]
