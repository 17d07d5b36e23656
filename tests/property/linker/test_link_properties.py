"""`link` says what docs/linking.md says (see tests/support/link_oracle.py), in whatever order rows come."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.linker import Decided, LinkOptions, Links, link
from bridge.spans import Decisions, SpanColumns
from tests.support.link_oracle import oracle
from tests.support.link_rows import Row, columns_of, link_options, rows

MASKS = st.integers(0, 2**64 - 1)


def compare(columns: SpanColumns, options: LinkOptions, decided: Decided | None = None) -> Links:
    """Links of the rows, after the oracle said the same."""
    links, said = link(columns, options, decided), oracle(columns, options, decided)
    assert links.parent.tolist() == said.parent
    assert links.root.tolist() == said.root
    got = [decision_of(links, row) for row in range(len(columns))]
    assert got == said.decisions
    assert span_links_of(links) == said.span_links
    assert {name: count for name, count in links.counts.items() if count} == said.counts
    return links


def decision_of(links: Links, row: int) -> dict[str, int]:
    names = [name for name in Decisions.dtypes() if name != "confidence"]
    return {name: int(getattr(links.decisions, name)[row]) for name in names}


def span_links_of(links: Links) -> set[tuple[int, ...]]:
    return set(zip(*(column.tolist() for _, column in links.span_links.items()), strict=True))


def decide_some(columns: SpanColumns, options: LinkOptions, mask: int) -> Decided:
    """The rows of the mask as they were linked by themselves and left, traces in up to four ticks."""
    some = np.array([row for row in range(len(columns)) if mask >> row & 1], np.int64)
    links = link(columns.take(some), options)
    order = np.array([mask >> 2 * int(root) & 3 for root in links.root], np.int64)
    return Decided(some, links.decisions, order)


@settings(deadline=None, max_examples=400)
@given(rows(), link_options)
def test_one_round(spans: list[Row], options: LinkOptions) -> None:
    """Rows linked together."""
    compare(columns_of(spans), options)


@settings(deadline=None, max_examples=60)
@given(rows(60), link_options)
def test_many_candidates(spans: list[Row], options: LinkOptions) -> None:
    """Rows whose keys are shared by more than the sixteen candidates that are looked at."""
    compare(columns_of([row | {"thread_trace_id": 1, "req_seq": 1, "resp_seq": 1} for row in spans]), options)


@settings(deadline=None, max_examples=400)
@given(rows(), link_options, MASKS)
def test_two_rounds(spans: list[Row], options: LinkOptions, mask: int) -> None:
    """Rows that come after others left; what was decided stays."""
    columns = columns_of(spans)
    decided = decide_some(columns, options, mask)
    links = compare(columns, options, decided)
    for name, column in decided.decisions.items():
        assert getattr(links.decisions, name)[decided.rows].tolist() == column.tolist()


@settings(deadline=None, max_examples=200)
@given(rows(16), link_options, MASKS, st.randoms(use_true_random=False))
def test_order_of_rows_means_nothing(spans: list[Row], options: LinkOptions, mask: int, random: Any) -> None:
    """The same rows in another order get the same decisions. Which of fully equal rows is folded is anybody's."""
    columns = columns_of(spans)
    decided = decide_some(columns, options, mask)
    shuffled = list(range(len(spans)))
    random.shuffle(shuffled)
    order = np.array(shuffled, np.int64)
    position = np.argsort(order)
    moved = np.argsort(position[decided.rows])
    again = Decided(position[decided.rows][moved], decided.decisions.take(moved), decided.order[moved])
    one, two = link(columns, options, decided), link(columns.take(order), options, again)
    assert one.counts == two.counts
    assert _meaning(spans, one) == _meaning([spans[row] for row in shuffled], two)


def _meaning(spans: list[Row], links: Links) -> tuple[Counter[Any], Counter[Any]]:
    """Decisions and span links by what rows say, not where they stand."""
    said = [tuple(sorted(row.items())) for row in spans]
    decisions = Counter((row, tuple(decision_of(links, i).values())) for i, row in enumerate(said))
    return decisions, Counter((said[row], *rest) for row, *rest in span_links_of(links))


@settings(deadline=None, max_examples=50)
@given(rows(16), link_options, MASKS)
def test_same_input_same_output(spans: list[Row], options: LinkOptions, mask: int) -> None:
    """Two calls give the same bytes, confidence included, and leave their input alone."""
    columns = columns_of(spans)
    decided = decide_some(columns, options, mask)
    one, two = link(columns, options, decided), link(columns_of(spans), options, decided)
    assert [c.tobytes() for _, c in one.decisions.items()] == [c.tobytes() for _, c in two.decisions.items()]
    assert (one.parent.tobytes(), one.root.tobytes()) == (two.parent.tobytes(), two.root.tobytes())


@pytest.mark.parametrize("n", [0, 1])
def test_few_rows(n: int) -> None:
    """No row and one row are input like any other, left or not."""
    columns = SpanColumns.from_columns(n, kind=np.ones(n), span_id=np.full(n, 7))
    decided = decide_some(columns, LinkOptions(), 1)
    assert len(compare(columns, LinkOptions()).decisions) == n
    assert len(compare(columns, LinkOptions(), decided).decisions) == n
