"""Keeps batches, decisions and cursors in an SQLite file, so that nothing acknowledged is ever lost.

One row a batch and one a tick, packed and compressed; rows are written once and deleted, never updated. One task
writes, and commits together whatever came while it was busy. docs/decisions/0003-store.md says why it is so.
"""

from bridge.store.sqlite import SqliteStore

__all__ = ["SqliteStore"]
