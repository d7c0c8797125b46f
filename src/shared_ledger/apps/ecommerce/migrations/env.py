"""Alembic's environment for the e-commerce application."""

from shared_ledger.apps.ecommerce.operations import ECOMMERCE
from shared_ledger.apps.ecommerce.tables import metadata
from shared_ledger.migrations.environment import run_application

run_application(ECOMMERCE, target_metadata=metadata, beside_book=True)
