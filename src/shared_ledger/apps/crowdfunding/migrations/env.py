"""Alembic's environment for Satoshi Spark; its contexts' tables are made together."""

from shared_ledger.apps.crowdfunding.accounting.operations import CROWDFUNDING
from shared_ledger.apps.crowdfunding.tables import metadata
from shared_ledger.migrations.environment import run_application

run_application(CROWDFUNDING, target_metadata=metadata, beside_book=True)
