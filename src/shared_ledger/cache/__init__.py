"""Balances in Redis: what was read from PostgreSQL once need not be read again for some seconds.

It spares PostgreSQL; it does not make a single balance faster. Nothing depends on it: without Redis
every balance is read from PostgreSQL, and nobody is told of a failure but the log and the metrics.

What is promised, ``ttl_s`` being how long a value lives at most (the same in all processes):

- *Within one ledger*, whatever Redis does: who was answered a posting, or a balance, never gets an
  older balance after that. (A caller's own transaction may be seen later than its commit, if that
  takes longer than ``BLOCK_S`` or Redis evicts what blocks the account.)
- *Between ledgers that reach the same Redis*, in one process or in many, the same. A posting is
  answered after its accounts are forgotten. Whoever reads PostgreSQL tells Redis which version of
  the account he saw before he answers, so that no older one is kept after that.
- *For all others* a balance is at most ``ttl_s`` old: after postings by programs that do not know
  of the cache, such as the command line; by a process that could not reach Redis, until it can
  again; or by one that was killed between its commit and telling Redis, and answered nobody.

How it is kept, for each account in one key:

- A reader who finds nothing leaves a *lease* with a token of his own, reads PostgreSQL, and may
  keep what he read only if the lease is still his. Whoever posts removes values and leases, so that
  what was read before a posting is not kept after it, even if Redis evicted something in between.
- Two readers may hold the lease and read at once. The one without it does not keep his value, but
  writes its version into the other's lease, which then keeps no older one.
- A transaction of the caller's own (``post_in``) *blocks* the accounts right before it commits, for
  ``BLOCK_S``: nothing is kept of them until then.
- No value outlives the time at which something of the account expires, measured from before it was
  read, by Redis's clock alone.
- The name of a key holds which book it is, and which run of Redis: one that was started again from
  an old snapshot, or a replica that took its place, begins with nothing. A value is also compared
  with the owner and asset that were asked for.

A call that fails or takes longer than ``CALL_TIMEOUT_S`` ends the use of Redis. From then on it is
tried once in ``RETRY_S`` by a thread of its own, which blocks the accounts that were posted to in
the meantime (the first ``MAX_OWED`` of them) before anybody uses Redis again; and this ledger uses
no value that was read before that.

What is here, from the outside inwards::

    balances      the balances of one book, as a reader and its writers use them
    link          a Redis that may go away and come back
    connection    one connection; nothing else knows the library
    scripts       what Redis does in one step
    address       what a URL of Redis is, and how long a value may live
    counts        what is measured
"""

from shared_ledger.cache.address import MAX_TTL_S, checked_redis_url, checked_ttl
from shared_ledger.cache.counts import CacheCounts

# ``Cache`` is imported from ``balances``, because that needs the package ``redis``.
__all__ = ["MAX_TTL_S", "CacheCounts", "checked_redis_url", "checked_ttl"]
