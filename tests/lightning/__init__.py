"""Tests against real Lightning nodes: LND on a chain of btcd's, and LNbits. See README.md."""
