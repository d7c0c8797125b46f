"""``python -m shared_ledger.cli``."""

from shared_ledger.cli import main

main()
