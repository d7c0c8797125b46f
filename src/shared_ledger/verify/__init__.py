"""Prove that a book agrees with itself.

Everything is read in one snapshot, so others may post meanwhile. The owners are gone through in
ranges, and the database compares: neither side needs more memory for a larger book. What does not
fit in the server's ``work_mem`` is sorted on its disk.

What is checked of every book (``proof``):

- every account against its entries: their sum, the running balance, the order of time;
- every account against its own bounds: what is held, and the floor;
- every system account against the entries that name it as their counterparty;
- all accounts of an asset against each other: their sum is zero;
- what must be unique: entries' ids, nonces, and operations that are allowed once per period.

And of a book that has more than plain postings (``credits``):

- every account against its open holds and its grants, at its end and after each entry;
- every hold against the entries that placed, captured and ended it, and what it reserves;
- every grant against its entry and what was burned of it, and what burned against the entries;
- reversals against what they take back, groups and transfers against their sums;
- budgets against what their operations gave.
"""

from shared_ledger.verify.proof import verify
from shared_ledger.verify.report import Disagreement, Progress, Report

__all__ = ["Disagreement", "Progress", "Report", "verify"]
