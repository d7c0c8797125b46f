"""Alembic's environment for the content application."""

from shared_ledger.apps.content.operations import CONTENT
from shared_ledger.apps.content.tables import metadata
from shared_ledger.migrations.environment import run_application

run_application(CONTENT, target_metadata=metadata, beside_book=True)
