"""How fast the ledger is on this machine: ``shared-ledger bench``."""
