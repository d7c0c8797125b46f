"""How money comes in and goes out: deposits and withdrawals over Lightning."""
