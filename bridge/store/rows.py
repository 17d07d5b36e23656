"""Batches and departures as bytes, and back.

The order of names below is the format. A column that comes later is added at the end of a *new* version; what was
written under an older one is read with that column 0.
"""

import struct
from collections.abc import Iterator
from operator import attrgetter
from typing import Any, TypeVar
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from bridge.spans import (
    NO_CLOCKS,
    ClockOffsets,
    Context,
    Decisions,
    Departure,
    PayloadBlock,
    PayloadFormat,
    RowClocks,
    SpanColumns,
    SpanLinks,
    Table,
)
from bridge.store.packing import (
    Damaged,
    compress,
    decompress,
    decompress_all,
    lengths_of,
    pack_arrays,
    sections,
    unpack_arrays,
)

T = TypeVar("T", bound=Table)

# fmt: off
SPAN_COLUMNS: dict[int, tuple[str, ...]] = {
    1: (
        "kind", "direction", "req_seq", "resp_seq", "thread_trace_id", "pid", "tid", "tid_usr", "ktime", "start_ns",
        "end_ns", "src_ip", "src_port", "dst_ip", "dst_port", "app_trace_hi", "app_trace_lo", "app_parent", "app_flag",
        "app_encode", "trace_hi", "trace_lo", "sent_span_id", "span_id", "parent_id", "sender", "service", "digest",
        "faults",
    ),
    2: (
        "kind", "direction", "req_seq", "resp_seq", "thread_trace_id", "pid", "tid", "tid_usr", "ktime", "start_ns",
        "end_ns", "src_ip", "src_port", "dst_ip", "dst_port", "app_trace_hi", "app_trace_lo", "app_parent", "app_flag",
        "app_encode", "trace_hi", "trace_lo", "sent_span_id", "span_id", "parent_id", "sender", "service", "digest",
        "faults", "request_id", "stream_id",
    ),
}
DECISION_COLUMNS: dict[int, tuple[str, ...]] = {
    1: (
        "outcome", "span_id", "trace_hi", "trace_lo", "parent_span_id", "ebpf_trace_hi", "ebpf_trace_lo",
        "ebpf_parent_id", "method", "confidence", "encode",
    ),
}
DECISION_COLUMNS[2] = DECISION_COLUMNS[1]  # clocks of hosts follow the links from here on
# fmt: on
_SPAN_COLUMNS_OF = {version: attrgetter(*names) for version, names in SPAN_COLUMNS.items()}
DECISIONS_VERSION = 2
CLOCKS_SINCE = 2
LINK_COLUMNS = ("row", "trace_hi", "trace_lo", "span_id")
CLOCK_COLUMNS = ("reference", "offset_ns", "uncertainty_ns")

_ALIKE = {"ebpf_trace_hi": "trace_hi", "ebpf_trace_lo": "trace_lo", "ebpf_parent_id": "parent_span_id"}
"""Columns that differ from another one in few rows: what is packed is the exclusive or of the two."""
_RUNS = ("trace_hi", "trace_lo")
"""Columns in which neighbours are mostly equal: what is packed is the exclusive or with the row before."""
_PAYLOAD_HEAD = struct.Struct("<B")
_EXPORTED = struct.Struct("<I")
_CHECKSUM = struct.Struct("<I")


def pack_columns(columns: SpanColumns, version: int) -> bytes:
    """The columns of a batch, compressed."""
    return compress(pack_arrays(_SPAN_COLUMNS_OF[version](columns)))


def unpack_columns(data: bytes, version: int) -> SpanColumns:
    """The columns of a batch written under this version. Raises Damaged."""
    names, dtypes = SPAN_COLUMNS[version], SpanColumns.dtypes()
    arrays, _ = unpack_arrays(decompress(data), [dtypes[name] for name in names])
    return _table(SpanColumns, dict(zip(names, arrays, strict=True)), arrays[0].size)


def pack_payload(block: PayloadBlock) -> bytes:
    """The bytes of a batch's spans in a section of their own, behind what surrounds them."""
    lengths = block.offsets[1:] - block.offsets[:-1]
    around = [part for c in block.contexts for part in (c.resource_spans, c.scope_spans)]
    sizes = np.array([len(part) for part in around], np.int64)
    heads = pack_arrays([lengths, block.context, sizes])
    data = memoryview(block.data)[int(block.offsets[0]) : int(block.offsets[-1])]
    return sections(b"".join((_PAYLOAD_HEAD.pack(block.format), heads, *around)), data)


def unpack_payload(data: bytes) -> PayloadBlock:
    """The block that was packed, its data beginning at offset 0. Raises Damaged."""
    sections = decompress_all(data)
    try:
        raw = sections[0]
        payload_format = PayloadFormat(_PAYLOAD_HEAD.unpack_from(raw)[0])
        (lengths, context, sizes), at = unpack_arrays(raw, (np.int64, np.uint32, np.int64), _PAYLOAD_HEAD.size)
        ends = [at, *(at + np.cumsum(sizes)).tolist()]
        contexts = tuple(_contexts(raw, ends))
        # earlier versions wrote one section, of which the spans are the rest
        _, spans = sections if len(sections) > 1 else (raw, raw[ends[-1] :])
        offsets = np.zeros(lengths.size + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        if int(offsets[-1]) != len(spans):
            raise Damaged("payload is longer or shorter than its spans")
        return PayloadBlock(payload_format, spans, offsets, contexts, context)
    except (struct.error, ValueError, IndexError) as exc:
        raise Damaged(str(exc)) from exc


def _contexts(raw: bytes, ends: list[int]) -> Iterator[Context]:
    """Contexts, their two parts one after another, cut at these places; a resource of several scopes is kept once."""
    if len(ends) % 2 == 0:
        raise Damaged("a resource without a scope")
    last = b""
    for start, middle, end in zip(ends[:-1:2], ends[1::2], ends[2::2], strict=True):
        resource = raw[start:middle]
        if resource != last:
            last = resource
        yield Context(last, raw[middle:end])


def pack_departure(departure: Departure, version: int = DECISIONS_VERSION) -> bytes:
    """What leaves in one tick, compressed."""
    decisions = dict(departure.decisions.items())
    for name, other in _ALIKE.items():
        decisions[name] = decisions[name] ^ getattr(departure.decisions, other)
    for name in _RUNS:
        decisions[name] = np.concatenate((decisions[name][:1], decisions[name][1:] ^ decisions[name][:-1]))
    arrays: list[NDArray[Any]] = [departure.batch, departure.row]
    arrays += [decisions[name] for name in DECISION_COLUMNS[version]]
    arrays += [getattr(departure.links, name) for name in LINK_COLUMNS]
    if version >= CLOCKS_SINCE:
        arrays += [getattr(departure.clocks.offsets, name) for name in CLOCK_COLUMNS] + [departure.clocks.of_row]
    return compress(pack_arrays(arrays))


def unpack_departure(data: bytes, version: int) -> Departure:
    """The departure written under this version. Raises Damaged."""
    names, dtypes, links = DECISION_COLUMNS[version], Decisions.dtypes(), SpanLinks.dtypes()
    wanted: list[np.dtype[Any]] = [np.dtype(np.int64), np.dtype(np.uint32)]
    wanted += [dtypes[name] for name in names] + [links[name] for name in LINK_COLUMNS]
    clocks = ClockOffsets.dtypes()
    own = len(wanted)
    if version >= CLOCKS_SINCE:
        wanted += [*(clocks[name] for name in CLOCK_COLUMNS), np.dtype(np.uint32)]
    arrays, _ = unpack_arrays(decompress(data), wanted)
    arrays, told = arrays[:own], arrays[own:]
    batch, row = arrays[:2]
    decisions = dict(zip(names, arrays[2:], strict=False))
    for name in _RUNS:
        decisions[name] = np.bitwise_xor.accumulate(decisions[name])
    for name, other in _ALIKE.items():
        decisions[name] = decisions[name] ^ decisions[other]
    linked = dict(zip(LINK_COLUMNS, arrays[2 + len(names) :], strict=True))
    table = _table(Decisions, decisions, batch.size)
    return Departure(batch, row, table, SpanLinks(**linked), _clocks(told, batch.size))


def _clocks(arrays: list[NDArray[Any]], rows: int) -> RowClocks:
    if not arrays:
        return NO_CLOCKS
    *columns, of_row = arrays
    try:
        clocks = RowClocks(ClockOffsets(**dict(zip(CLOCK_COLUMNS, columns, strict=True))), of_row)
    except ValueError as exc:
        raise Damaged(str(exc)) from exc
    if of_row.size not in (0, rows):
        raise Damaged(f"clocks of {of_row.size} rows where {rows} leave")
    return clocks


def pack_counts(numbers: NDArray[np.int64], counts: NDArray[np.int64], exported: int) -> bytes:
    """How many rows of which batches leave in a tick, and how many of all are for exporters, with a CRC-32.

    Small enough to be read for every tick at a start. What reads the first two alone finds them as ever.
    """
    data = pack_arrays([numbers, counts]) + _EXPORTED.pack(exported)
    return data + _CHECKSUM.pack(crc32(data))


def unpack_counts(data: bytes) -> tuple[NDArray[np.int64], NDArray[np.int64], int | None]:
    """Numbers of batches, ascending, how many rows of each left, and how many are for exporters. Raises Damaged.

    None for the last in ticks that earlier bridges wrote. Those have no checksum either: what cannot be is damage.
    """
    n = lengths_of(data, 2)
    if n[0] != n[1] or n[0] > len(data):  # no two numbers are alike, so that each takes a byte at least
        raise Damaged("counts of a tick: more than their bytes hold")
    (numbers, counts), end = unpack_arrays(data, (np.int64, np.int64))
    rest = len(data) - end
    if rest not in (0, _EXPORTED.size, _EXPORTED.size + _CHECKSUM.size):
        raise Damaged(f"counts of a tick: {rest} bytes behind them")
    if rest > _EXPORTED.size and _CHECKSUM.unpack(data[-_CHECKSUM.size :])[0] != crc32(data[: -_CHECKSUM.size]):
        raise Damaged("counts of a tick are not those that were written")
    if (np.diff(numbers) <= 0).any() or (numbers < 0).any() or (counts <= 0).any():
        raise Damaged("counts of a tick: not of ascending batches, or of no rows")
    exported = _EXPORTED.unpack_from(data, end)[0] if rest else None
    return numbers, counts, exported


def _table(cls: type[T], columns: dict[str, NDArray[Any]], n: int) -> T:
    missing = {name: np.zeros(n, dtype) for name, dtype in cls.dtypes().items() if name not in columns}
    try:
        return cls(**columns, **missing)
    except ValueError as exc:
        raise Damaged(str(exc)) from exc
