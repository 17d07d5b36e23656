"""The tables. A row is written once, read, and deleted; none is updated but cursors.

Numbers come from AUTOINCREMENT's book-keeping, so that they go on growing when every row is gone.
"""

from sqlalchemy import BigInteger, Column, Integer, LargeBinary, MetaData, Table, Text

STORE_VERSION = 2
"""Version of these tables. A change that an older bridge cannot read is a new version, with a migration.

2: what is packed says how it is compressed (bridge.store.packing). Rows of version 1 are read as they are.
"""

metadata = MetaData()

store = Table("espan_store", metadata, Column("version", Integer, nullable=False))

batches = Table(
    "batch",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("arrival_ns", BigInteger, nullable=False),
    Column("spans", Integer, nullable=False),
    Column("schema_version", Integer, nullable=False),
    Column("columns", LargeBinary, nullable=False),
    sqlite_autoincrement=True,
)

payloads = Table(
    "payload",
    metadata,
    Column("batch", Integer, primary_key=True, autoincrement=False),
    Column("data", LargeBinary, nullable=False),
)

ticks = Table(
    "tick",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("left_ns", BigInteger, nullable=False),
    Column("version", Integer, nullable=False),
    Column("counts", LargeBinary, nullable=False),
    Column("departure", LargeBinary, nullable=False),
    sqlite_autoincrement=True,
)

cursors = Table(
    "cursor",
    metadata,
    Column("exporter", Text, primary_key=True),
    Column("tick", Integer, nullable=False),
)

numbers = Table("sqlite_sequence", MetaData(), Column("name", Text), Column("seq", Integer))
"""SQLite's own: the largest number ever given in `batch` and `tick`."""
