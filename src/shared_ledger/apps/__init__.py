"""The applications that come with the ledger; they use what any application could use."""
