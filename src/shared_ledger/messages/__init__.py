"""Messages between contexts: nothing is lost, nothing happens twice, each key in its order.

What is here, in the order of a message's life::

    message        commands and events, and how they are written down
    aggregate      what a context's model is made of; it raises events
    unit_of_work   aggregates, messages and entries commit together
    repository     aggregates in one table each
    outbox         what was told, in the transaction that changed what it tells of
    relay          publishes an outbox, in order
    transport      from outboxes to inboxes: in one database, or another
    jetstream      from outboxes to inboxes over NATS, if it is installed
    inbox          what was told to a context, once, and in which order it is handled
    handlers       what a context does with it
    worker         has it handled: effect and mark in one transaction
    dead_letters   what was tried often enough
    running        relays and workers of a process
    lag            how far behind all of it is

and, for these, ``tables``, ``retries``, ``failures``, ``bell``, ``notices``, ``listener``,
``errors`` and ``faults``; for NATS ``delivery``, ``streams`` and ``nats_address``.
"""

from shared_ledger.messages.aggregate import Aggregate, Repository
from shared_ledger.messages.dead_letters import DeadLetter
from shared_ledger.messages.errors import (
    ConcurrentChange,
    DeadLetterNotFound,
    HandlerTimedOut,
    InvalidMessage,
    TransportUnavailable,
    UnknownMessage,
    UnreadableMessage,
)
from shared_ledger.messages.handlers import Context, Handler, handles
from shared_ledger.messages.inbox import Inbox
from shared_ledger.messages.lag import Lag, lag_of
from shared_ledger.messages.message import Catalogue, Command, Envelope, Event, Message
from shared_ledger.messages.outbox import TransactionalOutbox
from shared_ledger.messages.relay import Relay
from shared_ledger.messages.repository import TableRepository
from shared_ledger.messages.retries import Retries, retried
from shared_ledger.messages.running import running
from shared_ledger.messages.tables import MessageTables, message_tables
from shared_ledger.messages.transport import InProcess, Transport
from shared_ledger.messages.unit_of_work import Source, UnitOfWork
from shared_ledger.messages.worker import Worker

__all__ = [
    "Aggregate",
    "Catalogue",
    "Command",
    "ConcurrentChange",
    "Context",
    "DeadLetter",
    "DeadLetterNotFound",
    "Envelope",
    "Event",
    "Handler",
    "HandlerTimedOut",
    "InProcess",
    "Inbox",
    "InvalidMessage",
    "Lag",
    "Message",
    "MessageTables",
    "Relay",
    "Repository",
    "Retries",
    "Source",
    "TableRepository",
    "TransactionalOutbox",
    "Transport",
    "TransportUnavailable",
    "UnitOfWork",
    "UnknownMessage",
    "UnreadableMessage",
    "Worker",
    "handles",
    "lag_of",
    "message_tables",
    "retried",
    "running",
]
