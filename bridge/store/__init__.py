"""Keeps batches, decisions and cursors in an SQLite file, so that nothing acknowledged is ever lost.

One row a batch and one a tick, packed and compressed; rows are written once and deleted, never updated. One task
writes, and commits together whatever came while it was busy. docs/decisions/0003-store.md says why it is so. Where
several processes take spans in, each appends to a file of its own (docs/decisions/0004-workers.md).
"""

from bridge.store.ingest import IngestStore
from bridge.store.space import Limits
from bridge.store.sqlite import SqliteStore

__all__ = ["IngestStore", "Limits", "SqliteStore"]
