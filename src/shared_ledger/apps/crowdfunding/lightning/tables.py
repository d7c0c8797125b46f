"""The tables of the simulated node, which are all that it is; they live in the book's schema.

The engine says where they are, as for the tables of messages.
"""

from __future__ import annotations

from typing import Literal, get_args

import sqlalchemy as sa

PaymentState = Literal["in_flight", "succeeded", "failed"]
Outcome = Literal["succeed", "fail", "hang"]
"""How a payment goes: to its payee, back to the payer, or neither until it is told so."""
Lost = Literal["request", "answer"]
"""What is lost of ``pay`` on its way: then the node never hears of it, or does it unanswered."""

metadata = sa.MetaData()

_IDENTIFIER = sa.Text(collation="C")

node = sa.Table(
    "crowdfunding_sim_node",
    metadata,
    sa.Column("id", sa.SmallInteger, primary_key=True, autoincrement=False),
    sa.Column("key", sa.LargeBinary, nullable=False),
    sa.Column("outsider_key", sa.LargeBinary, nullable=False),
    sa.Column("settle_index", sa.BigInteger, nullable=False, server_default="0"),
    sa.CheckConstraint("id = 1", name="crowdfunding_sim_node_only"),
)
"""One row: the private keys of the node and of everybody else, and how many were settled."""

invoices = sa.Table(
    "crowdfunding_sim_invoices",
    metadata,
    sa.Column("payment_hash", _IDENTIFIER, primary_key=True),
    sa.Column("payment_request", sa.Text, nullable=False),
    sa.Column("preimage", sa.LargeBinary, nullable=False),
    sa.Column("is_own", sa.Boolean, nullable=False),
    sa.Column("amount_msat", sa.BigInteger),
    sa.Column("expires_on", sa.DateTime(timezone=True), nullable=False),
    sa.Column("received_msat", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("settle_index", sa.BigInteger, unique=True),
    sa.CheckConstraint("amount_msat > 0", name="crowdfunding_sim_invoices_amount"),
    sa.CheckConstraint(
        "(settle_index is null) = (received_msat = 0) and (is_own or settle_index is null)",
        name="crowdfunding_sim_invoices_settled",
    ),
)
"""What the node asks for (``is_own``), and what outsiders do, whom it plays as well.

``settle_index`` is an own one's place among the settled.
"""

payments = sa.Table(
    "crowdfunding_sim_payments",
    metadata,
    sa.Column("payment_hash", _IDENTIFIER, primary_key=True),
    sa.Column("amount_msat", sa.BigInteger, nullable=False),
    sa.Column("fee_msat", sa.BigInteger, nullable=False),
    sa.Column("state", _IDENTIFIER, nullable=False, server_default="in_flight"),
    sa.Column("outcome", _IDENTIFIER, nullable=False),
    sa.Column("reason", sa.Text),
    sa.Column("resolves_on", sa.DateTime(timezone=True)),
    sa.CheckConstraint(
        f"state in {get_args(PaymentState)}", name="crowdfunding_sim_payments_state"
    ),
    sa.CheckConstraint(f"outcome in {get_args(Outcome)}", name="crowdfunding_sim_payments_outcome"),
    sa.CheckConstraint(
        "(outcome = 'hang') = (resolves_on is null)", name="crowdfunding_sim_payments_resolved"
    ),
)
"""What the node pays; each takes its ``outcome`` at ``resolves_on``, whoever looks after that."""

plans = sa.Table(
    "crowdfunding_sim_plans",
    metadata,
    sa.Column("payment_hash", _IDENTIFIER, primary_key=True),
    sa.Column("outcome", _IDENTIFIER, nullable=False),
    sa.Column("lost", _IDENTIFIER),
    sa.Column("fee_msat", sa.BigInteger),
    sa.Column("delay_s", sa.Double, nullable=False),
    sa.Column("reason", sa.Text),
    sa.CheckConstraint(f"outcome in {get_args(Outcome)}", name="crowdfunding_sim_plans_outcome"),
    sa.CheckConstraint(f"lost in {get_args(Lost)}", name="crowdfunding_sim_plans_lost"),
    sa.CheckConstraint("fee_msat >= 0", name="crowdfunding_sim_plans_fee"),
    sa.CheckConstraint("delay_s >= 0", name="crowdfunding_sim_plans_delay"),
)
"""How payments are to go, where somebody said so beforehand."""
