"""Work is bounded for any input: no stage looks at more than a few candidates a row, and none walks span by span."""

from collections import Counter

import numpy as np
import pytest

from bridge.linker import Assembler, WindowOptions, assigning, candidates, forest, link, pairing
from bridge.spans import SpanColumns
from tests.support.link_scenes import KEEP_ALL, Row, client, columns_of, net, scene, server

MANY = 32_000
ROUNDS = 2 * MANY.bit_length()
"""Doubling takes one or two look-ups a binary digit."""


class Counted(np.ndarray):  # type: ignore[type-arg]  # a plain array that counts how much is taken out of it
    """An int64 column that counts the elements gathered from it."""

    gathered = 0

    def __getitem__(self, key: object) -> object:
        found = super().__getitem__(key)  # type: ignore[index]
        Counted.gathered += np.size(found)
        return found


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of all (child, candidate) pairs that a containment was asked of."""
    shapes: list[tuple[int, ...]] = []
    real = pairing.containment

    def counting(columns: SpanColumns, inner: np.ndarray, outer: np.ndarray, **how: object) -> object:
        shapes.append(inner.shape)
        return real(columns, inner, outer, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(pairing, "containment", counting)
    monkeypatch.setattr(assigning, "containment", counting)
    return shapes


def many(**common: int) -> SpanColumns:
    """Half entries, half exits that all share these columns."""
    n = MANY
    i = np.arange(n)
    columns = {
        "kind": 1 + i % 2,
        "direction": 1 + i % 2,
        "span_id": i + 1,
        "sent_span_id": i + 1,
        "digest": i + 1,
        "start_ns": 1_000_000 + i,
        "end_ns": 1_000_100 + i,
        **{name: np.full(n, value) for name, value in common.items()},
    }
    return SpanColumns.from_columns(n, **columns)


@pytest.mark.parametrize(
    "shared", [{"req_seq": 1, "resp_seq": 2}, {"thread_trace_id": 9}, {"thread_trace_id": 9, "pid": 4}]
)
def test_many_spans_on_one_key(shared: dict[str, int], looked_at: list[tuple[int, ...]]) -> None:
    """32,000 spans on one net id or one thread id: each looks at sixteen candidates, twice at most."""
    links = link(many(**shared), KEEP_ALL)
    assert (links.parent >= 0).sum() == MANY // 2
    assert looked_at
    assert {shape[1] for shape in looked_at} == {2 * candidates.REACH}
    assert sum(shape[0] * shape[1] for shape in looked_at) <= 2 * 2 * candidates.REACH * MANY // 2


def test_many_spans_on_one_timeline() -> None:
    """32,000 spans on one thread of which all entries but the first had ended: exits step back in powers of two."""
    columns = many(tid=7)
    ktime = np.arange(1, MANY + 1)
    ends = np.where(ktime == 1, columns.start_ns + 10 * MANY, columns.start_ns + 1)
    columns = SpanColumns.from_columns(MANY, **{**dict(columns.items()), "ktime": 10 * ktime, "end_ns": ends})
    links = link(columns, KEEP_ALL)
    exits = columns.kind == 2
    assert set(links.parent[exits].tolist()) == {0}
    assert set(links.parent[~exits].tolist()) == {-1}


def test_searching_back_is_doubling() -> None:
    """A search over 32,000 ended entries gathers a few numbers a level for each exit, not one an entry."""
    ends = np.ones(MANY, np.int64).view(Counted)
    n_exits = 50
    Counted.gathered = 0
    found = assigning.latest_open(
        ends, np.full(n_exits, MANY - 1, np.int64), np.zeros(n_exits, np.int64), np.full(n_exits, 5, np.int64)
    )
    assert set(np.asarray(found).tolist()) == {-1}
    # the table is three columns a level; an exit takes one number of each
    assert 0 < Counted.gathered <= 3 * MANY * MANY.bit_length() + n_exits * ROUNDS


def test_roots_of_a_chain() -> None:
    """A chain of 32,000 has one root; nothing recurses."""
    top = forest.roots(np.arange(-1, MANY - 1, dtype=np.int64))
    assert not top.any()


def test_a_loop_of_many() -> None:
    """32,000 spans that form one loop: it is cut once and all hang below one root."""
    n = MANY // 2
    i = np.arange(MANY)
    call = np.where(i % 2 == 0, i // 2, (i // 2 + 1) % n)
    columns = many()
    columns = SpanColumns.from_columns(
        MANY,
        **{**dict(columns.items()), "req_seq": call + 1, "resp_seq": call + MANY, "thread_trace_id": i // 2 + 1},
    )
    links = link(columns, KEEP_ALL)
    assert links.counts["loops_broken"] == 1
    assert np.unique(links.root).size == 1


def ladder(rungs: int) -> list[Row]:
    """Two exits and one entry a level, all with the level's net id and thread id: every child is shared."""
    rows = []
    for level in range(rungs):
        ids = {"thread_trace_id": level + 1, "ktime": 0}
        rows += [client(**ids, **net(level + 1)), client(**ids, **net(level + 1)), server(**ids, **net(level))]
    return rows


@pytest.mark.parametrize("n_spans", [99, 162, 1002])
def test_shared_child_ladder(n_spans: int) -> None:
    """A ladder on which the reference doubles its work a level has one parent a span and one root here."""
    found = scene(*ladder(n_spans // 3))
    assert found.parents.count(-1) == 1
    assert set(found.links.root.tolist()) == {2}
    assert found.count("loops_broken") == 0


def test_what_left_longest_ago_is_forgotten_where_too_much_is_kept() -> None:
    """It is counted; what waits stays, and what left last is still found by late children."""
    second = 10**9
    window = WindowOptions(window_ns=second, late_window_ns=1000 * second, max_retained_spans=8)
    assembler, counts, found = Assembler(KEEP_ALL, window), Counter[str](), dict[int, int]()
    heads = [
        [server(**net(10 * i + j), thread_trace_id=10 * i + j + 1, span_id=10 * i + j + 1) for j in range(4)]
        for i in range(5)
    ]
    late = [[client(**net(900 + 10 * i), thread_trace_id=10 * i + 1, span_id=900 + i)] for i in (4, 0, 1, 2)]
    for i, rows in enumerate([*heads, *late]):
        assembler.add(i, columns_of(rows), i * 2 * second)
        departed = assembler.tick(i * 2 * second + second)
        assert assembler.retained <= window.max_retained_spans + len(rows)
        counts.update(departed.counts)
        for batch, parent in zip(departed.departure.batch, departed.departure.decisions.ebpf_parent_id, strict=True):
            found[int(batch)] = int(parent)
    assert counts["forgotten_early"] > 0
    assert found[5]
    assert not any(found[i] for i in (6, 7, 8))
