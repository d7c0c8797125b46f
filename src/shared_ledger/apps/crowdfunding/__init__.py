"""Satoshi Spark: crowdfunding over Bitcoin Lightning, in five contexts that only talk by messages.

An example of domain-driven design on the shared ledger. Read ``messages`` first, on which every
conversation is; then a context, each in a few files: its ``model`` (what may happen), ``commands``
(what it does), ``queries`` (what it shows), ``store`` (where it keeps that) and ``routes``.
``docs/satoshi-spark.md`` draws the states.
"""

from pathlib import Path

from shared_ledger.apps.crowdfunding import running
from shared_ledger.apps.crowdfunding.accounting.operations import CROWDFUNDING, SparkOperation
from shared_ledger.apps.crowdfunding.auth import routes as auth
from shared_ledger.apps.crowdfunding.bitcoin import dev_routes as dev
from shared_ledger.apps.crowdfunding.bitcoin import figures as bitcoin_figures
from shared_ledger.apps.crowdfunding.bitcoin import routes as bitcoin
from shared_ledger.apps.crowdfunding.contexts import NAMES, TABLES
from shared_ledger.apps.crowdfunding.crowdfunding import routes as crowdfunding
from shared_ledger.apps.crowdfunding.dashboard import routes as dashboard
from shared_ledger.apps.crowdfunding.dashboard import store as dashboard_store
from shared_ledger.apps.crowdfunding.dashboard.rebuilding import rebuild
from shared_ledger.service import Service

__all__ = ["CROWDFUNDING", "SERVICE", "SparkOperation"]

_ROUTES = (auth, crowdfunding, bitcoin, dashboard, dev)

SERVICE = Service(
    application=CROWDFUNDING,
    title="Satoshi Spark",
    description="Crowdfunding over Bitcoin Lightning. Amounts are in whole sat, unless a field's "
    "name ends in `_msat`.",
    routers=[routes.router for routes in _ROUTES],
    rights={route: right for routes in _ROUTES for route, right in routes.RIGHTS.items()},
    tags={
        "crowdfunding": "Campaigns, and donations to them.",
        "bitcoin": "Deposits and withdrawals over Lightning.",
        "dashboard": "What somebody sees of his own.",
        "development": "Playing the outside world, with the simulated node.",
    },
    contexts=NAMES,
    message_tables=TABLES,
    projections={dashboard_store.TABLES.prefix: rebuild},
    figures=bitcoin_figures.FIGURES,
    lifespan=running.site,
    registered=running.registered,
    migrations=Path(__file__).parent / "migrations",
)
