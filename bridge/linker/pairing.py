"""Stage *pair*: the parent of an incoming span is the outgoing span with its net id. Keyed by net id alone."""

import numpy as np
from numpy.typing import NDArray

from bridge.linker.candidates import Keyed, choose
from bridge.linker.joining import match
from bridge.linker.times import Rows, containment
from bridge.spans import Direction, SpanColumns
from bridge.spans.ids import combine

U64Array = NDArray[np.uint64]


def pair(columns: SpanColumns, children: NDArray[np.bool_], parents: NDArray[np.bool_], *, slack_ns: int) -> Rows:
    """Row of the outgoing span that each incoming one belongs to, -1 for none; shape (n,).

    children, parents: which rows may be either. A net id of (0, 0) is no evidence. Of several outgoing spans the one
    whose client endpoint is the incoming span's peer is taken, of several such (or none) the one whose time holds the
    incoming span's. Sequence numbers that match in full need no clocks to agree: a single candidate is taken as it is.
    """
    n = len(columns)
    parent = np.full(n, -1, np.int64)
    net = (columns.req_seq | columns.resp_seq) != 0
    incoming = np.flatnonzero(children & net & (columns.direction == Direction.INCOMING))
    outgoing = np.flatnonzero(parents & net & (columns.direction == Direction.OUTGOING))
    if not incoming.size or not outgoing.size:
        return parent
    keys, candidate_keys = _net(columns, incoming), _net(columns, outgoing)
    found, several = match(candidate_keys, keys)
    parent[incoming] = np.where(found >= 0, outgoing[found], -1)
    if several.any():
        candidates = Keyed(outgoing, candidate_keys)
        parent[incoming[several]] = _closest(columns, incoming[several], keys[several], candidates, slack_ns)
    return parent


def _closest(columns: SpanColumns, children: Rows, keys: U64Array, candidates: Keyed, slack_ns: int) -> Rows:
    def fit(inner: Rows, outer: Rows) -> NDArray[np.int8]:
        return containment(columns, inner, outer, slack_ns=slack_ns, whole=True)

    few = candidates.among(keys)
    chosen = choose(columns, children, keys, few, columns.start_ns, fit)
    client = columns.src_port[few.rows] != 0
    by_endpoint = Keyed(
        few.rows[client],
        combine((few.keys[client], *_endpoint(columns.src_ip, columns.src_port, few.rows[client]))),
    )
    peers = combine((keys, *_endpoint(columns.dst_ip, columns.dst_port, children)))
    better = choose(columns, children, peers, by_endpoint, columns.start_ns, fit)
    return np.where((better >= 0) & (columns.dst_port[children] != 0), better, chosen)


def _net(columns: SpanColumns, rows: Rows) -> U64Array:
    numbers = (columns.req_seq[rows], columns.resp_seq[rows])
    if not columns.stream_id.any():
        return combine(numbers)
    return combine((*numbers, columns.stream_id[rows].astype(np.uint64)))


def _endpoint(ip: U64Array, port: NDArray[np.uint16], rows: Rows) -> tuple[U64Array, U64Array]:
    return ip[rows], port[rows].astype(np.uint64)
