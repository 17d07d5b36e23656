"""Spans as columns: the values every other part of the bridge hands around. Pure: numpy and nothing else.

A span is never an object here. A `SpanBatch` is columns of what linking needs beside the spans' own bytes; a
`Decisions` table says what became of rows; a `LinkedSpans` joins the two for an exporter. Tables are frozen, their
arrays read-only and equal in length, checked once when a table is made.
"""

from bridge.spans.batch import Context, PayloadBlock, PayloadFormat, SpanBatch
from bridge.spans.columns import SCHEMA_VERSION, Direction, Encoding, Kind, SpanColumns, Table
from bridge.spans.ids import derive_span_ids, text_hash
from bridge.spans.links import (
    NO_CLOCKS,
    ClockOffsets,
    Decisions,
    Departure,
    LinkedSpans,
    Method,
    Outcome,
    RowClocks,
    SpanLinks,
)

__all__ = [
    "NO_CLOCKS",
    "SCHEMA_VERSION",
    "ClockOffsets",
    "Context",
    "Decisions",
    "Departure",
    "Direction",
    "Encoding",
    "Kind",
    "LinkedSpans",
    "Method",
    "Outcome",
    "PayloadBlock",
    "PayloadFormat",
    "RowClocks",
    "SpanBatch",
    "SpanColumns",
    "SpanLinks",
    "Table",
    "derive_span_ids",
    "text_hash",
]
