"""Alembic's environment for the book itself; an application's calls ``run_application``."""

from shared_ledger.migrations.environment import run_book

run_book()
