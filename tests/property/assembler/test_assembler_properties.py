"""What leaves when, and as what: the assembler against `link` over everything it should know."""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.linker import Decided, LinkOptions, WindowOptions
from bridge.linker.groups import Groups, PlainGroups
from bridge.linker.link import link_by_keys
from bridge.spans import Kind, Outcome
from tests.support.assembling import Place, Row, Run, carried_by, decision, decisions_of
from tests.support.link_rows import random_rows
from tests.support.link_scenes import columns_of

WINDOW = 100
INDEXES = pytest.mark.parametrize("groups", [Groups, PlainGroups])


@dataclass(frozen=True)
class Event:
    """Rows that come at a time, or a tick where there are none."""

    at: int
    rows: tuple[Row, ...] = ()


@dataclass(frozen=True)
class Story:
    """Rows that come over some time between ticks that go on until all is forgotten."""

    seed: int
    span: int
    most: int
    step: int

    @property
    def options(self) -> LinkOptions:
        random = Random(self.seed)
        return LinkOptions(sampling_rate=random.choice([0.0, 0.5, 1.0]), use_app_trace_id=random.random() < 0.7)

    def events(self) -> Iterator[Event]:
        random = Random(self.seed)
        rows = random_rows(random, random.randint(1, self.most))
        batches: dict[int, list[Row]] = {}
        for row in rows:
            batches.setdefault(random.randrange(1, self.span), []).append(row)
        come = [Event(at, tuple(batch)) for at, batch in batches.items()]
        ticks = [Event(at) for at in range(self.step, self.span + 5 * WINDOW + 2 * self.step, self.step)]
        yield from sorted(come + ticks, key=lambda event: event.at)

    def run(self, groups: type[PlainGroups] = Groups, *, restarts: int = 0) -> Iterator[tuple[Run, Event, set[Place]]]:
        """Play it; yield after every tick, with the rows that left in it. restarts: bit i: restart before tick i."""
        run, ticks = Run(self.options, WindowOptions(WINDOW), groups), 0
        for event in self.events():
            if event.rows:
                run.add(event.rows, event.at)
                continue
            if restarts >> ticks & 1:
                run.restart(event.at)
            ticks += 1
            before = set(run.left)
            run.tick(event.at)
            yield run, event, set(run.left) - before


def stories(span: int) -> st.SearchStrategy[Story]:
    return st.builds(
        Story, st.integers(0, 2**64 - 1), st.just(span), st.integers(2, 16), st.sampled_from([30, 60, 100, 170])
    )


def expected(run: Run, event: Event, left: set[Place]) -> dict[Place, tuple[dict[str, float], frozenset[object]]]:
    """Decisions and span links of rows that leave, by `link` over them and all that left within `late_window`."""
    known = [
        place
        for place in run.remembered(event.at)
        if place not in left and run.left[place].decision["outcome"] != Outcome.FOLDED
    ]
    places = known + sorted(left)
    columns = columns_of([run.batches[number - 1][0][row] for number, row in places])
    order = np.array([run.left[place].tick for place in known], np.int64)
    decided = Decided(np.arange(len(known)), decisions_of([run.left[place].decision for place in known]), order)
    links = link_by_keys(columns, run.link_options, decided)
    carried = carried_by(links.span_links)
    found = [(decision(links.decisions, i), carried.get(i, frozenset())) for i in range(len(places))]
    return dict(list(zip(places, found, strict=True))[len(known) :])


@INDEXES
@settings(deadline=None, max_examples=60)
@given(story=stories(4 * WINDOW), restarts=st.integers(0, 2**32 - 1))
def test_decisions_are_those_of_link_over_all_that_is_known(
    groups: type[PlainGroups], story: Story, restarts: int
) -> None:
    """The rows it looks up are all that matter: linking with everything remembered says the same. Every row leaves
    once (`Run.tick` sees to that), none before it waited a window, and in the end nothing is kept."""
    run = None
    for run, event, left in story.run(groups, restarts=restarts):
        got = {place: (run.left[place].decision, run.left[place].links) for place in left}
        assert got == expected(run, event, left)
        for number, row in left:
            rows, came = run.batches[number - 1]
            assert rows[row]["kind"] == Kind.ORDINARY or event.at >= came + WINDOW
    assert run is not None
    assert not run.waiting
    assert run.assembler.retained == 0


@settings(deadline=None, max_examples=60)
@given(story=stories(4 * WINDOW), restarts=st.integers(1, 2**32 - 1))
def test_a_restart_changes_nothing(story: Story, restarts: int) -> None:
    """After restarts, with what a store keeps, the same rows leave in the same ticks as the same."""
    for (run, _, left), (again, _, same) in zip(story.run(), story.run(restarts=restarts), strict=True):
        assert left == same
        assert {p: run.left[p] for p in left} == {p: again.left[p] for p in same}


@settings(deadline=None, max_examples=60)
@given(story=stories(4 * WINDOW))
def test_both_indexes_let_the_same_go(story: Story) -> None:
    """The compiled index and the plain one lead to equal departures."""
    for (plain, _, left), (fast, _, same) in zip(story.run(PlainGroups), story.run(Groups), strict=True):
        assert left == same
        assert {p: plain.left[p] for p in left} == {p: fast.left[p] for p in same}


@INDEXES
@settings(deadline=None, max_examples=60)
@given(story=stories(WINDOW), cuts=st.integers(0, 2**32 - 1), early=st.booleans())
def test_batches_and_ticks_do_not_matter(groups: type[PlainGroups], story: Story, cuts: int, early: bool) -> None:
    """Rows that come within one window, however cut into batches, are decided as one `link` over all of them, whether
    the last tick forces them out or they leave by themselves."""
    rows = random_rows(Random(story.seed), story.most)
    run = Run(story.options, WindowOptions(WINDOW), groups)
    start = 0
    for stop in range(1, len(rows) + 1):
        if cuts >> stop & 1 or stop == len(rows):
            at = stop * WINDOW // (len(rows) + 1)
            run.add(rows[start:stop], at)
            run.tick(at)
            start = stop
    if early:
        run.tick(WINDOW, force=True)
        assert not run.waiting
    for at in range(WINDOW, 3 * WINDOW, 30):
        run.tick(at)
    places = sorted(run.left)
    assert len(places) == len(rows)
    columns = columns_of(rows)
    decisions = link_by_keys(columns, story.options).decisions
    assert [run.left[place].decision for place in places] == [decision(decisions, i) for i in range(len(rows))]


@settings(deadline=None, max_examples=40)
@given(story=stories(2 * WINDOW))
def test_rows_with_a_common_key_leave_together(story: Story) -> None:
    """Of rows that waited at once and share a thread trace id or a net id either all leave in a tick or none."""
    for run, event, left in story.run():
        came = [(number, at) for number, (_, at) in enumerate(run.batches, 1) if at <= event.at]
        here = {(n, row) for n, _ in came for row in range(len(run.batches[n - 1][0]))}
        waited = here - {place for place, gone in run.left.items() if gone.tick < run.ticks}
        for key in ("thread_trace_id", "net"):
            groups: dict[object, set[bool]] = {}
            for number, row in waited:
                columns = run.batches[number - 1][0][row]
                value = _key(columns, key)
                if value and columns["kind"] != Kind.ORDINARY and not columns["faults"]:
                    groups.setdefault(value, set()).add((number, row) in left)
            assert all(len(answers) == 1 for answers in groups.values()), key


def _key(columns: Row, key: str) -> object:
    if key != "net":
        return columns[key]
    net = (columns["req_seq"], columns["resp_seq"])
    return net if any(net) else 0


def test_no_rows() -> None:
    """Batches without rows and ticks without batches do nothing."""
    run = Run(LinkOptions(), WindowOptions(WINDOW))
    run.add([], 5)
    assert len(run.tick(10).departure) == 0
    run.restart(20)
    assert len(run.tick(30, force=True).departure) == 0
    assert (run.assembler.waiting, run.assembler.retained) == (0, 0)
