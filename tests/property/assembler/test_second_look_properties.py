"""The second look over random rows, and what it keeps, against plain dicts."""

from random import Random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.linker import WindowOptions
from bridge.linker.groups import Groups, PlainGroups
from bridge.linker.held_edges import HeldEdges, SlotEdges
from bridge.linker.keys import row_keys
from bridge.linker.open_rows import OpenRows
from bridge.linker.second_look import kinds_of
from bridge.linker.waiting import Received, WaitingRows
from bridge.spans import Direction, Kind, SpanColumns
from tests.support.assembling import Decision, Run
from tests.support.link_rows import random_rows
from tests.support.link_scenes import columns_of
from tests.support.replaying import IN_PART, replay

WINDOW = WindowOptions(100)


def played(seed: int, groups: type[PlainGroups], restarts: int) -> tuple[Run, list[Decision]]:
    random = Random(seed)
    rows = random_rows(random, random.randint(1, 16))
    at = [random.randrange(1, 300) for _ in rows]
    run, decided, _ = replay(
        rows, at, WINDOW, options=IN_PART, groups=groups, restarts=[i for i in range(64) if restarts >> i & 1]
    )
    return run, decided


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**64 - 1), restarts=st.sampled_from([0, 0, 2**64 - 1, 0x5A5A5A5A]))
def test_rows_leave_once_and_both_indexes_say_the_same(seed: int, restarts: int) -> None:
    """Whatever rows say, restarts in between or not, every row leaves, once (`Run.tick` sees to that), none as its own
    ancestor, and the compiled index leads to the decisions of the plain one."""
    run, decided = played(seed, Groups, restarts)
    plain, same = played(seed, PlainGroups, restarts)
    assert decided == same
    assert {place: left.at for place, left in run.left.items()} == {p: left.at for p, left in plain.left.items()}
    parent = {int(d["span_id"]): int(d["ebpf_parent_id"]) for d in decided}
    for span_id in parent:
        above, steps = span_id, 0
        while above in parent and parent[above] and steps <= len(parent):
            above, steps = parent[above], steps + 1
        ids = [int(d["span_id"]) for d in decided]
        assert steps <= len(parent) or len(set(ids)) < len(ids)


EDGES = st.dictionaries(st.integers(0, 60), st.tuples(st.integers(-1, 60), st.integers(1, 5)), max_size=12)


@settings(deadline=None, max_examples=100)
@given(parts=st.lists(st.tuples(EDGES, st.lists(st.integers(0, 60), unique=True)), max_size=5))
def test_held_edges_are_a_dict(parts: list[tuple[dict[int, tuple[int, int]], list[int]]]) -> None:
    """Edges are found among any rows until these leave; a parent that is not among them is none."""
    held, plain = HeldEdges(), dict[int, tuple[int, int]]()
    for edges, leaving in parts:
        new = {child: edge for child, edge in edges.items() if child not in plain}
        plain |= new
        held.put(
            SlotEdges(
                np.array(list(new), np.int32),
                np.array([parent for parent, _ in new.values()], np.int32),
                np.array([method for _, method in new.values()], np.uint8),
                np.array([method / 8 for _, method in new.values()], np.float32),
                np.array([method % 2 for _, method in new.values()], np.uint8),
            )
        )
        slots = np.array(leaving, np.int32)
        assert held.has(slots).tolist() == [s in plain for s in leaving]
        found = held.among(slots)
        expected = [
            (
                i,
                leaving.index(plain[s][0]) if plain[s][0] in leaving else -1,
                plain[s][1],
                plain[s][1] / 8,
                plain[s][1] % 2,
            )
            for i, s in enumerate(leaving)
            if s in plain
        ]
        columns = (found.row, found.parent, found.method, found.confidence, found.yields)
        assert list(zip(*(c.tolist() for c in columns), strict=True)) == expected
        held.drop(slots)
        for slot in leaving:
            plain.pop(slot, None)
        assert len(held) == len(plain)


def open_row(seed: int) -> dict[str, int]:
    random = Random(seed)
    direction = random.choice([Direction.INCOMING, Direction.OUTGOING])
    end = "dst" if direction == Direction.INCOMING else "src"
    return {
        "kind": Kind.ENTRY if direction == Direction.INCOMING else Kind.EXIT,
        "direction": direction,
        f"{end}_ip": random.choice([1, 2]),
        f"{end}_port": random.choice([0, 1, 2, 3]),
        "req_seq": random.choice([0, 0, 1, 2, 3]),
        "request_id": random.choice([0, 0, 0, 0, 7]),
    }


@settings(deadline=None, max_examples=100)
@given(
    parts=st.lists(st.lists(st.integers(0, 2**32), min_size=1, max_size=5), max_size=5),
    closed=st.integers(0, 2**30),
)
def test_candidates_are_open_rows_with_a_counterpart(parts: list[list[int]], closed: int) -> None:
    """Rows of both directions that no numbers joined and whose client's end of the connection is the same, and those
    with a request id, whenever they came; none that was closed or has met its partner. A row stays a candidate when its
    counterpart is gone."""
    rows, groups, numbers = WaitingRows(), Groups(), set[tuple[int, int]]()
    open_, came, gone = OpenRows(rows, groups), dict[int, dict[str, int]](), set[int]()
    for number, part in enumerate(parts):
        made = [open_row(seed) for seed in part]
        for row in made:  # no copies: of these the index remembers too little
            if (row["direction"], row["req_seq"]) in numbers:
                row["req_seq"] = 0
            numbers.add((row["direction"], row["req_seq"]))
        columns = columns_of(
            [
                {"span_id": (number << 8) + i + 1, "digest": seed, **r}
                for i, (seed, r) in enumerate(zip(part, made, strict=True))
            ]
        )
        slots = put(rows, groups, columns)
        came |= dict(zip(slots.tolist(), made, strict=True))
        open_.add(slots)
        found, _ = open_.candidates()
        assert expected_candidates(came, gone, alone=True) <= set(found.tolist()) <= expected_candidates(came, gone)
        leave = np.array([s for s in found.tolist() if closed >> s & 1], np.int32)
        open_.close(leave)
        gone |= set(leave.tolist())
        if number % 2:
            open_.prune()


def put(rows: WaitingRows, groups: PlainGroups, columns: SpanColumns) -> np.ndarray:
    n = len(columns)
    slots = rows.put(Received(np.zeros(n, np.int64), np.arange(n, dtype=np.uint32), columns, np.zeros(n, np.int64)))
    groups.add(slots, row_keys(columns)[0], kinds_of(columns), np.zeros(n, np.int64), 1 << 20)
    return slots


def expected_candidates(came: dict[int, dict[str, int]], gone: set[int], *, alone: bool = False) -> set[int]:
    """alone: without rows whose counterparts are gone."""
    met = {
        s
        for s, row in came.items()
        if row["req_seq"]
        and any(o["req_seq"] == row["req_seq"] and o["direction"] != row["direction"] for o in came.values())
    }
    return {
        s
        for s, row in came.items()
        if s not in gone | met
        and (
            row["request_id"]
            or any(
                end(o) == end(row)
                and o["direction"] != row["direction"]
                and end(o)[1]
                and (not alone or t not in gone | met)
                for t, o in came.items()
            )
        )
    }


def end(row: dict[str, int]) -> tuple[int, int]:
    side = "dst" if row["direction"] == Direction.INCOMING else "src"
    return row[f"{side}_ip"], row[f"{side}_port"]
