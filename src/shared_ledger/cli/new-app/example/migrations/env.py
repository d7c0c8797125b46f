"""Alembic's environment for Example."""

from shared_ledger.migrations.environment import run_application

from example.operations import RECORDS
from example.tables import metadata

run_application(RECORDS, target_metadata=metadata, beside_book=True)
