"""Whose money it is: accounts on the shared ledger, in msat."""
