"""Step 1 of docs/linking.md on traffic: connections, hosts with clocks of their own, and what goes wrong."""

from collections import Counter
from random import Random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.linker import LinkOptions, Links, link
from bridge.spans import Method, SpanColumns
from tests.property.linker.test_link_properties import compare, decide_some
from tests.support.link_scenes import columns_of
from tests.support.link_traffic import Trouble, traffic

SEEDS = st.integers(0, 2**32 - 1)
OPTIONS = LinkOptions(sampling_rate=1.0)
SHARES = st.sampled_from([0.0, 0.1, 0.4, 1.0])
ANY_TROUBLE = st.builds(
    Trouble,
    skew_ms=st.sampled_from([0, 5, 200]),
    zero=SHARES,
    half=SHARES,
    loss=SHARES,
    drop=st.sampled_from([0.0, 0.1, 0.4]),
    late_ms=st.sampled_from([0, 3]),
)


def parents(columns: SpanColumns, links: Links) -> dict[int, int]:
    """Span id of the parent of each row that has one."""
    rows = np.flatnonzero(links.parent >= 0)
    return dict(zip(columns.span_id[rows].tolist(), columns.span_id[links.parent[rows]].tolist(), strict=True))


def in_part(links: Links) -> np.ndarray:
    """Rows that were paired by less than both numbers."""
    return np.flatnonzero((links.parent >= 0) & (links.decisions.confidence < 1.0))


@settings(deadline=None, max_examples=120)
@given(SEEDS, ANY_TROUBLE)
def test_traffic_is_paired_as_the_page_says(seed: int, trouble: Trouble) -> None:
    """The oracle, which was written from docs/linking.md, finds the same pairs."""
    columns = columns_of(traffic(Random(seed), 5, 5, trouble).rows)
    compare(columns, OPTIONS)


@settings(deadline=None, max_examples=60)
@given(SEEDS, ANY_TROUBLE, st.integers(0, 2**64 - 1))
def test_what_left_is_in_the_way(seed: int, trouble: Trouble, mask: int) -> None:
    """The same where some of it left before."""
    columns = columns_of(traffic(Random(seed), 5, 5, trouble).rows)
    compare(columns, OPTIONS, decide_some(columns, OPTIONS, mask))


@settings(deadline=None, max_examples=60)
@given(SEEDS, ANY_TROUBLE)
def test_order_of_rows_means_nothing(seed: int, trouble: Trouble) -> None:
    """Rows in another order are paired alike, and teach the same clocks."""
    rows = traffic(Random(seed), 12, 8, trouble).rows
    other = [*rows]
    Random(seed).shuffle(other)
    one, two = columns_of(rows), columns_of(other)
    first, second = link(one, OPTIONS), link(two, OPTIONS)
    assert parents(one, first) == parents(two, second)
    assert first.counts == second.counts
    for name, column in first.clocks.hosts.items():
        assert column.tolist() == getattr(second.clocks.hosts, name).tolist()


@settings(deadline=None, max_examples=100)
@given(SEEDS, ANY_TROUBLE)
def test_pairs_in_part_are_one_to_one_and_in_time(seed: int, trouble: Trouble) -> None:
    """No client has two servers, and no server began before its client or after its end, as far as clocks can tell."""
    columns = columns_of(traffic(Random(seed), 12, 8, trouble).rows)
    links = link(columns, OPTIONS)
    rows = in_part(links)
    assert set(links.decisions.method[rows].tolist()) <= {Method.SEQ}
    assert max(Counter(links.parent[links.parent >= 0].tolist()).values(), default=1) == 1
    clocks, clients = links.clocks, links.parent[rows]
    begins, _ = clocks.moments(columns, rows)
    opens, closes = clocks.moments(columns, clients)
    # clocks may have been learnt after a pair was made
    give = (
        np.maximum(clocks.tolerance(columns.sender[rows], columns.sender[clients]), clocks.slack_ns) + clocks.noise_ns
    )
    assert (begins >= opens - give).all()
    assert (begins <= closes + give).all()


@settings(deadline=None, max_examples=60)
@given(SEEDS, st.sampled_from([0, 200]), st.sampled_from([0, 3]), st.sampled_from(["zero", "half", "loss"]))
def test_nothing_is_lost_of_few_bad_numbers(seed: int, skew_ms: int, late_ms: int, bad: str) -> None:
    """Lost responses and missing numbers cost no pair, however far the clocks are apart, and make no wrong one."""
    trouble = Trouble(skew_ms=skew_ms, late_ms=late_ms, **{bad: 0.1})  # type: ignore[arg-type]  # shares are floats
    made = traffic(Random(seed), 20, 10, trouble)
    columns = columns_of(made.rows)
    assert parents(columns, link(columns, OPTIONS)) == made.truth


@settings(deadline=None, max_examples=60)
@given(SEEDS, st.sampled_from([0, 200]))
def test_clocks_are_within_their_uncertainty(seed: int, skew_ms: int) -> None:
    """The offset found between two hosts is the true one, give or take what is said."""
    made = traffic(Random(seed), 20, 10, Trouble(skew_ms=skew_ms))
    columns = columns_of(made.rows)
    hosts = link(columns, OPTIONS).clocks.hosts
    for sender, reference, offset, give in zip(
        hosts.sender.tolist(),
        hosts.reference.tolist(),
        hosts.offset_ns.tolist(),
        hosts.uncertainty_ns.tolist(),
        strict=True,
    ):
        assert abs(offset - (made.skew_ns[sender] - made.skew_ns[reference])) <= give


def test_one_number_needs_an_address() -> None:
    """Chance meetings of one number make no pairs: nothing else of these spans fits."""
    n = 2000
    numbers = np.arange(1, n + 1)
    columns = SpanColumns.from_columns(
        2 * n,
        kind=np.repeat([1, 2], n),
        direction=np.repeat([1, 2], n),
        req_seq=np.tile(numbers, 2),
        resp_seq=np.arange(1, 2 * n + 1) + n,
        src_ip=np.full(2 * n, 7),
        src_port=np.arange(1, 2 * n + 1),
        dst_ip=np.full(2 * n, 7),
        dst_port=np.arange(1, 2 * n + 1)[::-1] + 20_000,
        start_ns=np.full(2 * n, 10**18),
        end_ns=np.full(2 * n, 10**18 + 10**9),
        span_id=np.arange(1, 2 * n + 1),
        digest=np.arange(1, 2 * n + 1),
    )
    assert (link(columns, OPTIONS).parent < 0).all()
