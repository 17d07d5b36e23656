"""The columns linking reads, and the frozen tables they live in."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from enum import IntEnum
from functools import cache
from typing import Annotated, Any, Self, get_args, get_type_hints

import numpy as np
from numpy.typing import NDArray

SCHEMA_VERSION = 2
"""Version of `SpanColumns` as the store writes it; a new column is a new version and a migration."""

U8 = Annotated[NDArray[np.uint8], np.uint8]
I8 = Annotated[NDArray[np.int8], np.int8]
U16 = Annotated[NDArray[np.uint16], np.uint16]
U32 = Annotated[NDArray[np.uint32], np.uint32]
U64 = Annotated[NDArray[np.uint64], np.uint64]
I64 = Annotated[NDArray[np.int64], np.int64]
F32 = Annotated[NDArray[np.float32], np.float32]


class Kind(IntEnum):
    """What a row is. Every kind but ORDINARY is an eSpan; the names are those of `ebpf_span_type`."""

    ORDINARY = 0
    ENTRY = 1
    EXIT = 2
    UNKNOWN = 3


class Direction(IntEnum):
    """`direction` of an eSpan; ABSENT where the key is missing, unreadable, or the row is ordinary."""

    ABSENT = 0
    INCOMING = 1
    OUTGOING = 2
    UNKNOWN = 3


class Encoding(IntEnum):
    """How header ids are written as text: W3C ids in hex, DataDog ids in decimal; ABSENT without header ids."""

    ABSENT = 0
    HEX = 1
    DEC = 2


@cache
def _dtypes(cls: type) -> dict[str, np.dtype[Any]]:
    hints = get_type_hints(cls, include_extras=True)
    return {f.name: np.dtype(get_args(hints[f.name])[1]) for f in fields(cls)}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Table:
    """Columns of equal length: 1-D, one dtype each, read-only. A subclass names them as annotated fields.

    The constructor takes any arrays that have the right dtype already and makes them read-only; a wrong dtype, shape
    or length raises ValueError.
    """

    def __post_init__(self) -> None:
        length = -1
        for name, dtype in self.dtypes().items():
            column: NDArray[Any] = getattr(self, name)
            if column.dtype != dtype or column.ndim != 1:
                raise ValueError(f"{type(self).__name__}.{name}: want 1-D {dtype}, got {column.ndim}-D {column.dtype}")
            if length not in (-1, column.size):
                raise ValueError(f"{type(self).__name__}.{name}: {column.size} rows where others have {length}")
            length = column.size
            column.flags.writeable = False

    @classmethod
    def dtypes(cls) -> dict[str, np.dtype[Any]]:
        """Name and dtype of each column, in order."""
        return _dtypes(cls)  # type: ignore[arg-type]  # mypy takes the instances' __hash__ for the class's

    @classmethod
    def zeros(cls, n: int) -> Self:
        """A table of n rows in which every column is 0, the sentinel for absent throughout."""
        return cls(**{name: np.zeros(n, dtype) for name, dtype in cls.dtypes().items()})

    @classmethod
    def from_columns(cls, n: int, **columns: NDArray[Any]) -> Self:
        """A table of n rows from some columns, converted to their dtype; the others are 0."""
        given = {k: np.asarray(v).astype(cls.dtypes()[k], copy=True) for k, v in columns.items()}
        return cls(**{name: given[name] if name in given else np.zeros(n, d) for name, d in cls.dtypes().items()})

    @classmethod
    def concatenate(cls, tables: Sequence[Self]) -> Self:
        """All rows of the tables, in order; no tables make an empty one."""
        if len(tables) == 1:
            return tables[0]
        if not tables:
            return cls.zeros(0)
        return cls(**{name: np.concatenate([getattr(t, name) for t in tables]) for name in cls.dtypes()})

    def __len__(self) -> int:
        return int(getattr(self, next(iter(self.dtypes()))).size)

    def take(self, rows: NDArray[Any]) -> Self:
        """The rows at these positions (or under this boolean mask), copied, in that order."""
        return type(self)(**{name: column[rows] for name, column in self.items()})

    def items(self) -> Iterator[tuple[str, NDArray[Any]]]:
        """(name, column) pairs in order."""
        for name in self.dtypes():
            yield name, getattr(self, name)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SpanColumns(Table):
    """What linking reads of n spans. 0 means absent in every column unless said otherwise.

    Ids are the bit pattern of the 64-bit number, whatever sign the sender gave it. In a row of kind ORDINARY only
    kind, trace_hi/lo, span_id, parent_id, start_ns, end_ns, sender, service and digest are filled.
    """

    kind: U8
    """A `Kind`."""
    direction: U8
    """A `Direction`."""
    req_seq: U64
    resp_seq: U64
    thread_trace_id: U64
    pid: U64
    """Process id; a pid that is no number is its 64-bit text hash."""
    tid: U64
    tid_usr: U64
    ktime: I64
    """Kernel monotonic ns of the request's last packet, comparable inside one sender only."""
    start_ns: I64
    """Ns since the epoch: the span's own start time, else its `start` attribute (us) times 1000."""
    end_ns: I64
    """Ns since the epoch: the span's own end time, else start plus `duration`."""
    src_ip: U64
    """IPv4 (and IPv4-mapped IPv6) as a number; any other address as the hash of its text."""
    src_port: U16
    dst_ip: U64
    dst_port: U16
    app_trace_hi: U64
    """Trace id found in the request's headers, upper and lower half."""
    app_trace_lo: U64
    app_parent: U64
    """Parent span id found in the request's headers."""
    app_flag: I8
    """Sampling flag of the headers: 1 keep, -1 reject, 0 undecided."""
    app_encode: U8
    """`Encoding` of the header ids, inferred from `app_trace_id` where the sender does not say it."""
    trace_hi: U64
    """The span's own trace id, as its sender set it."""
    trace_lo: U64
    sent_span_id: U64
    """The span id as its sender set it, 0 if it set none."""
    span_id: U64
    """The span's id from here on: the sender's, else derived from its content (see `derive_span_ids`); never 0."""
    parent_id: U64
    """The span's own parent span id, as its sender set it."""
    sender: U64
    """Hash of host.name of the resource, else of the peer's address."""
    service: U64
    """Hash of service.name of the resource."""
    digest: U64
    """64-bit hash of the span's own bytes: equal bytes, equal digest."""
    faults: U32
    """Bit set of `bridge.spans.convention` keys that are missing though required, or unreadable; an eSpan with any
    is a trace of its own."""
    request_id: U64
    """Id in the request's headers that goes from hop to hop; a text is its 64-bit hash."""
    stream_id: U32
    """HTTP/2 stream of the request."""
