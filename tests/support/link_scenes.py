"""Small scenes for the linker: rows written down by the columns that matter, and what became of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bridge.linker import Decided, LinkOptions, Links, link
from bridge.spans import Decisions, Direction, Kind, Method, Outcome, SpanColumns

Row = dict[str, int]

MS = 1_000_000
NOON = 1_700_000_000_000 * MS
"""When most scenes play."""

KEEP_ALL = LinkOptions(sampling_rate=1.0)


def server(**columns: int) -> Row:
    """An entry, seen where the request comes in."""
    return {"kind": Kind.ENTRY, "direction": Direction.INCOMING, **columns}


def client(**columns: int) -> Row:
    """An exit, seen where the request goes out."""
    return {"kind": Kind.EXIT, "direction": Direction.OUTGOING, **columns}


def net(number: int) -> Row:
    """The columns of one net id."""
    return {"req_seq": number, "resp_seq": number + 1_000_000}


def columns_of(rows: Sequence[Row]) -> SpanColumns:
    """Rows as a table. Row i has span id i + 1, which its sender sent, and digest i + 1 unless it says otherwise."""
    filled = [{"span_id": i + 1, "digest": i + 1, **row} for i, row in enumerate(rows)]
    for row in filled:
        row.setdefault("sent_span_id", row["span_id"])
    dtypes = SpanColumns.dtypes()
    return SpanColumns(**{name: np.array([r.get(name, 0) for r in filled], dtype) for name, dtype in dtypes.items()})


@dataclass(frozen=True)
class Scene:
    """Rows that were linked."""

    columns: SpanColumns
    links: Links

    @property
    def parents(self) -> list[int]:
        """Row of each row's parent, -1 at a root."""
        return self.links.parent.tolist()

    @property
    def methods(self) -> list[Method]:
        return [Method(m) for m in self.links.decisions.method.tolist()]

    @property
    def outcomes(self) -> list[Outcome]:
        return [Outcome(o) for o in self.links.decisions.outcome.tolist()]

    @property
    def exported_parents(self) -> list[int]:
        """Exported parent span id of each row."""
        return self.links.decisions.parent_span_id.tolist()

    @property
    def traces(self) -> list[tuple[int, int]]:
        """Exported trace id of each row."""
        return pairs(self.links.decisions, "trace")

    @property
    def ebpf_traces(self) -> list[tuple[int, int]]:
        return pairs(self.links.decisions, "ebpf_trace")

    @property
    def span_links(self) -> set[tuple[int, tuple[int, int], int]]:
        """(row that carries it, trace id, span id) of each span link."""
        table = self.links.span_links
        return set(zip(table.row.tolist(), pairs(table, "trace"), table.span_id.tolist(), strict=True))

    def count(self, name: str) -> int:
        return self.links.counts.get(name, 0)


def pairs(table: object, name: str) -> list[tuple[int, int]]:
    """(upper, lower half) of the ids in columns name_hi and name_lo."""
    return list(zip(getattr(table, f"{name}_hi").tolist(), getattr(table, f"{name}_lo").tolist(), strict=True))


def scene(*rows: Row, options: LinkOptions = KEEP_ALL) -> Scene:
    """These rows, linked."""
    columns = columns_of(rows)
    return Scene(columns, link(columns, options))


def scene_after(
    *left: Sequence[Row], now: Sequence[Row], options: LinkOptions = KEEP_ALL, then: LinkOptions | None = None
) -> Scene:
    """Rows `now`, linked (under `then`) after the others left, which each were linked apart and left one after another.

    Rows are numbered in the order given, those that left first.
    """
    rows = [row for part in left for row in part]
    columns = columns_of([*rows, *now])
    decisions, order, start = [], [], 0
    for number, part in enumerate(left):
        stop = start + len(part)
        decisions.append(link(columns.take(np.arange(start, stop)), options).decisions)
        order += [number] * len(part)
        start = stop
    decided = Decided(np.arange(start), Decisions.concatenate(decisions), np.array(order, np.int64))
    return Scene(columns, link(columns, then or options, decided))
