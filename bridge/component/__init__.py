"""Contracts between the parts of the bridge, and nothing else.

What implements them never imports another implementation; only `bridge.pipeline` knows them all. Every async method
may be cancelled at any await; each contract says what holds then.
"""

from bridge.component.exporter import Body, Exporter
from bridge.component.forwarding import Signal, SignalForwarder
from bridge.component.outbox import Outboxes, OutboxStatus
from bridge.component.receiver import Receiver, SpanConsumer
from bridge.component.store import Arrival, BatchStore, SpanStore, StoredBatch, TickSummary

__all__ = [
    "Arrival",
    "BatchStore",
    "Body",
    "Exporter",
    "OutboxStatus",
    "Outboxes",
    "Receiver",
    "Signal",
    "SignalForwarder",
    "SpanConsumer",
    "SpanStore",
    "StoredBatch",
    "TickSummary",
]
