"""A shop: what is ordered is paid for when it is shipped.

An order reserves stock and credits, the shipment takes the credits, a cancellation gives both back,
and a refund goes back to the credits that paid. Its operations and rules are in ``operations``,
what can be done in ``products`` and ``orders``, and what they share of the stock in ``stock``.
"""

from pathlib import Path

from shared_ledger.apps.ecommerce import routes
from shared_ledger.apps.ecommerce.operations import ECOMMERCE, EcommerceOperation
from shared_ledger.service import Service

__all__ = ["ECOMMERCE", "SERVICE", "EcommerceOperation"]

SERVICE = Service(
    application=ECOMMERCE,
    title="E-commerce",
    description="A shop: what is ordered is paid for when it is shipped, and can be refunded.",
    routers=[routes.selling, routes.buying],
    rights=routes.RIGHTS,
    tags={
        "products": "What is sold, and how many there are of it.",
        "orders": "Ordering, shipping, cancelling, refunding.",
    },
    migrations=Path(__file__).parent / "migrations",
)
