"""The link stage alone: all spans at once, in random order, in this process."""

import time

import numpy as np
from numpy.typing import NDArray

from bridge.cli.call_tree import SERVICES
from bridge.cli.simulation import ROLES, Simulation, Traces
from bridge.linker import LinkOptions, link
from bridge.spans import SpanColumns

START_NS = 1_764_000_000 * 10**9
APART_NS = 10**5
REPEATS = 3


def link_stage(rows: int, threads: str) -> dict[str, float]:
    """CPU seconds of the fastest of some links, and the share of spans whose parent was found."""
    simulation = Simulation(threads=threads)
    numbers = np.arange(rows // len(ROLES), dtype=np.uint64)
    traces = simulation.traces(0, np.uint64(START_NS) + numbers * np.uint64(APART_NS))
    order = np.random.default_rng(0).permutation(traces.span_id.size)
    columns, parents = columns_of(traces).take(order), parents_of(numbers.size)[order]
    place = np.empty_like(order)
    place[order] = np.arange(order.size)
    expected = np.where(parents < 0, -1, place[parents])
    took = []
    for _ in range(REPEATS):
        started = time.process_time()
        links = link(columns, LinkOptions(sampling_rate=1.0))
        took.append(time.process_time() - started)
    return {"cpu_s": min(took), "found": float((links.parent == expected).mean()), "lost": 0}


def columns_of(traces: Traces) -> SpanColumns:
    """The traces' spans as rows, trace by trace, as decoding would give them."""
    n = traces.span_id.shape[1]
    kind = np.tile([1 if role.entry else 2 for role in ROLES], n)
    service = np.tile([SERVICES.index(role.service) + 1 for role in ROLES], n)
    drawn = {
        name: getattr(traces, name).T.reshape(-1)
        for name in ("span_id", "start_ns", "end_ns", "ktime", "req_seq", "resp_seq", "thread_trace_id", "tid")
    }
    port = traces.client_port.T.reshape(-1)
    return SpanColumns.from_columns(
        n * len(ROLES), kind=kind, direction=kind, pid=service + 1000, src_port=port, dst_port=port,
        sent_span_id=drawn["span_id"], sender=service, service=service, digest=drawn["span_id"], **drawn,
    )  # fmt: skip


def parents_of(traces: int) -> NDArray[np.int64]:
    """Row of each row's parent, -1 at roots."""
    of_role = np.tile([role.parent for role in ROLES], traces)
    first = np.repeat(np.arange(traces) * len(ROLES), len(ROLES))
    return np.where(of_role < 0, -1, of_role + first)
