"""The command ``shared-ledger``."""


def main() -> None:
    """Run the command line."""
