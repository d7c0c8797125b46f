"""Content: creators pay for what they publish, and readers for what they read.

An example of an application on the shared ledger: its operations and rules (``operations``), its
tables, what can be done (``content``), and its routes. Everything else comes from the service.
"""

from pathlib import Path

from shared_ledger.apps.content import routes
from shared_ledger.apps.content.operations import CONTENT, ContentOperation
from shared_ledger.service import Service

__all__ = ["CONTENT", "SERVICE", "ContentOperation"]

SERVICE = Service(
    application=CONTENT,
    title="Content",
    description="Creators pay for what they publish, and readers for what they read.",
    routers=[routes.rewards, routes.publishing],
    rights=routes.RIGHTS,
    tags={
        "rewards": "Credits for nothing, once.",
        "content": "Publishing and reading.",
    },
    migrations=Path(__file__).parent / "migrations",
)
