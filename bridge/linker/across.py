"""Stage *pair*, all of it: incoming spans under outgoing ones, by the strongest evidence there is.

Numbers that match in full need no clock (`pairing`). They teach the clocks (`offsets`) by which the rows that are left
over are paired: by one number, by the addresses of their connection, by request id. Each of these stages is one to one,
needs time, and abstains where two answers are close.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bridge.linker.matching import BEGUN, IN_ORDER, LOOSE, WHOLE, Edges, Side, among, edges, settled, sides
from bridge.linker.offsets import NEVER, Clocks, PairTimes, clocks_of, times_of_pairs, way_of
from bridge.linker.ordered import guessed_pairs
from bridge.linker.pairing import pair
from bridge.linker.request_ids import pair_by_request_id
from bridge.linker.times import OPEN_END, Rows
from bridge.spans import Direction, Method, SpanColumns, Table
from bridge.spans.columns import F32, I64, U8
from bridge.spans.ids import combine

U64Array = NDArray[np.uint64]
I64Array = NDArray[np.int64]
Mask = NDArray[np.bool_]

Keyed = tuple[Rows, U64Array]
"""Rows, each with a key."""
_IN_FULL: Final = 1.0
_BY_NUMBER: Final = {WHOLE: 0.99, LOOSE: 0.98, BEGUN: 0.95}
_BY_ADDRESS: Final = {WHOLE: 0.95, LOOSE: 0.9, BEGUN: 0.8, IN_ORDER: 0.8}
_BY_REQUEST_ID: Final = 0.9


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Held(Table):
    """Edges that were found before, among rows that are linked now, and stay where numbers in full say nothing else."""

    row: I64
    parent: I64
    """Row of the outgoing span, or of an exit's entry; -1 where it was found that thread evidence is wrong."""
    method: U8
    confidence: F32
    yields: U8
    """1 where what a thread says, or an id that goes with it, comes before this edge: it was found when the entry that
    is named so had not come yet."""

    def staying(self, rows: I64Array) -> "Held":
        """The same, but of these rows none yields."""
        return replace(self, yields=np.where(np.isin(self.row, rows), 0, self.yields).astype(np.uint8))


@dataclass(slots=True, eq=False)
class Pairs:
    """Outgoing row of each incoming one, -1 for none; all of shape (n,)."""

    parent: Rows
    method: NDArray[np.uint8]
    confidence: NDArray[np.float32]
    clocks: Clocks
    times: PairTimes
    """Of this window's pairs: what a later window's clocks may be learnt from, too."""
    end_ns: I64Array
    """Ends of all rows, on their own clocks; of a client that took the next response for its own the repaired one."""
    searched: bool = True
    """Whether more than numbers in full was looked at."""
    counts: dict[str, int] = field(default_factory=dict)


def pair_across(
    columns: SpanColumns,
    sound: Mask,
    new: Mask,
    *,
    slack_ns: int,
    seen: PairTimes | None = None,
    held: Held | None = None,
    repair: bool = False,
) -> Pairs:
    """Pairs among the `sound` rows, those of rows that left included: these stand in the others' way.

    new: rows that have not left; only these are counted.
    seen: pairs of earlier windows. held: what takes the place of all that numbers in full do not say, where that was
    looked for before, among more rows than these. repair: end clients of held pairs that took a neighbour's response.
    """
    work = _Work(columns, sound, new, slack_ns)
    pairs = work.in_full(seen)
    if held is not None:
        work.keep(held)
        if repair:
            work.repair()
    else:
        work.in_part()
    return pairs


class _Work:
    """What is paired so far, and what is left."""

    def __init__(self, columns: SpanColumns, sound: Mask, new: Mask, slack_ns: int) -> None:
        self._columns, self._sound, self._new, self._slack_ns = columns, sound, new, slack_ns
        self._of_servers: dict[str, U64Array] = {}

    def in_full(self, seen: PairTimes | None) -> Pairs:
        columns, n = self._columns, len(self._columns)
        parent = pair(columns, self._sound, self._sound, slack_ns=self._slack_ns)
        servers = np.flatnonzero(parent >= 0)
        clients = parent[servers]
        times = times_of_pairs(columns, clients, servers)
        self._seen = times if seen is None or not len(seen) else PairTimes.concatenate([seen, times])
        clocks = clocks_of(self._seen, slack_ns=self._slack_ns)
        self._guesses = PairTimes.zeros(0)
        method, confidence = np.zeros(n, np.uint8), np.zeros(n, np.float32)
        method[servers], confidence[servers] = Method.SEQ, _IN_FULL
        self._taken = np.zeros(n, np.bool_)
        self._taken[clients] = True
        self._pairs = Pairs(parent, method, confidence, clocks, times, columns.end_ns)
        self._clocks = clocks
        self._pairs.counts["seq_against_time"] = self._against_time(clients, servers)
        return self._pairs

    def keep(self, held: Held) -> None:
        pairs = self._pairs
        pairs.searched = False
        new = (pairs.parent[held.row] < 0) & (held.parent >= 0)
        new &= self._sound[held.row] & self._sound[held.parent]
        rows = held.row[new]
        pairs.parent[rows], pairs.method[rows] = held.parent[new], held.method[new]
        pairs.confidence[rows] = held.confidence[new]

    def in_part(self) -> None:
        columns = self._columns
        if self._left_over():
            self._by_number(columns.req_seq, self._one_request)
            self.repair()
            self._by_number(columns.resp_seq, self._request_missed)
            self._by_address()
        if columns.request_id.any():
            self._by_request_id()

    def _left_over(self) -> bool:
        """Note the rows that numbers did not join in full and that say where their connection is; whether there are
        any of both directions."""
        columns = self._columns
        open_ = self._sound & (self._pairs.parent < 0)
        self._incoming = np.flatnonzero(open_ & (columns.direction == Direction.INCOMING) & (columns.dst_port != 0))
        free = self._sound & ~self._taken
        self._outgoing = np.flatnonzero(free & (columns.direction == Direction.OUTGOING) & (columns.src_port != 0))
        if not (self._incoming.size and self._outgoing.size):
            return False
        here, there = self._connections(self._incoming, self._outgoing)
        self._incoming, self._outgoing = self._incoming[among(here, there)], self._outgoing[among(there, here)]
        return self._incoming.size > 0

    def _by_number(self, number: U64Array, allowed: Callable[[Rows, Rows], Mask]) -> None:
        """Pair by one of the two numbers and the address of the connection."""
        incoming, outgoing = self._incoming[number[self._incoming] != 0], self._outgoing[number[self._outgoing] != 0]
        if not (incoming.size and outgoing.size):
            return
        here, there = self._connections(incoming, outgoing)
        keyed = (incoming, combine((here, number[incoming]))), (outgoing, combine((there, number[outgoing])))
        self._learn_from_order(*keyed)
        self._match(*keyed, allowed, _BY_NUMBER, "pairs_by_one_number")

    def _by_address(self) -> None:
        """Pair by the address of the connection alone, where numbers are missing."""
        incoming, outgoing = self._incoming, self._outgoing
        if not (incoming.size and outgoing.size):
            return
        here, there = self._connections(incoming, outgoing)
        keyed = (incoming, here), (outgoing, there)
        self._learn_from_order(*keyed)
        self._match(*keyed, self._numbers_missing, _BY_ADDRESS, "pairs_by_address", connections=True)

    def _by_request_id(self) -> None:
        columns = self._columns
        named = self._sound & (columns.request_id != 0)
        incoming = np.flatnonzero(named & (self._pairs.parent < 0) & (columns.direction == Direction.INCOMING))
        outgoing = np.flatnonzero(named & ~self._taken & (columns.direction == Direction.OUTGOING))
        servers, clients = pair_by_request_id(columns, self._clocks, incoming, outgoing)
        self._take(servers, clients, Method.REQUEST_ID, _BY_REQUEST_ID)

    # --- which pairs there may be -------------------------------------------------------------------------------------

    def _request_missed(self, incoming: Rows, outgoing: Rows) -> Mask:
        """One side has no number of the request, or the client has that of another request of the connection.

        A client whose request has a number of its own waited for a response that was not this one.
        """
        columns = self._columns
        asked, answered = columns.req_seq[outgoing], columns.req_seq[incoming]
        missed: Mask = (asked == 0) | (answered == 0)
        doubtful = np.flatnonzero(~missed)
        if doubtful.size:
            missed[doubtful] = self._known_of_servers("req_seq", outgoing[doubtful])
        return missed & self._one_request(incoming, outgoing)

    def _numbers_missing(self, incoming: Rows, outgoing: Rows) -> Mask:
        fine = self._one_request(incoming, outgoing)
        for number in (self._columns.req_seq, self._columns.resp_seq):
            here, there = number[incoming], number[outgoing]
            fine &= (here == there) | (here == 0) | (there == 0)
        return fine

    def _one_request(self, incoming: Rows, outgoing: Rows) -> Mask:
        """Not of two streams, nor with two trace ids in the headers: both sides see the same ones."""
        columns = self._columns
        here, there = columns.stream_id[incoming], columns.stream_id[outgoing]
        same: Mask = (here == there) | (here == 0) | (there == 0)
        return same & ~headers_differ(columns, incoming, outgoing)

    def _known_of_servers(self, number: str, clients: Rows) -> Mask:
        """Whether this number of each client is that of an incoming span of its connection, too."""
        columns = self._columns
        if number not in self._of_servers:
            some = np.flatnonzero(self._sound & (columns.direction == Direction.INCOMING) & (columns.dst_port != 0))
            here = self._connections(some, some)[0]
            self._of_servers[number] = np.unique(combine((here, getattr(columns, number)[some])))
        there = self._connections(clients, clients)[1]
        return among(combine((there, getattr(columns, number)[clients])), self._of_servers[number])

    # --- pairs --------------------------------------------------------------------------------------------------------

    def _connections(self, incoming: Rows, outgoing: Rows) -> tuple[U64Array, U64Array]:
        """The client's end of the connection. The server's may differ, behind a virtual ip."""
        columns = self._columns
        here = combine((columns.dst_ip[incoming], columns.dst_port[incoming].astype(np.uint64)))
        there = combine((columns.src_ip[outgoing], columns.src_port[outgoing].astype(np.uint64)))
        return here, there

    def _match(
        self,
        incoming: Keyed,
        outgoing: Keyed,
        allowed: Callable[[Rows, Rows], Mask],
        confidence: dict[int, float],
        name: str,
        *,
        connections: bool = False,
    ) -> None:
        columns, counts = self._columns, self._pairs.counts
        ins, outs = sides(columns, self._clocks, incoming, outgoing)
        found = edges(columns, self._clocks, ins, outs, allowed)
        if connections:
            found = self._by_known_way(found, ins, outs)
        pairs = settled(found, ins, outs, in_order=connections)
        paired = int(self._new[ins.rows[pairs.incoming]].sum())
        counts[name] = counts.get(name, 0) + paired
        if connections:
            counts["pairs_ambiguous"] = int(self._new[ins.rows[np.unique(found.incoming)]].sum()) - paired
        of_fit = np.zeros(WHOLE + 1, np.float32)
        of_fit[list(confidence)] = list(confidence.values())
        self._take(ins.rows[pairs.incoming], outs.rows[pairs.outgoing], Method.SEQ, of_fit[pairs.fit])

    def _learn_from_order(self, incoming: Keyed, outgoing: Keyed) -> None:
        """Learn the clocks of hosts that no pairs connect from spans that are left over, in their order."""
        columns = self._columns
        servers, clients = guessed_pairs(columns, incoming, outgoing)
        strange = ~self._clocks.related(columns.sender[clients], columns.sender[servers])
        if not strange.any():
            return
        guessed = times_of_pairs(columns, clients[strange], servers[strange])
        self._guesses = PairTimes.concatenate([self._guesses, guessed])
        self._clocks = clocks_of(self._seen, guesses=self._guesses, slack_ns=self._slack_ns)
        self._pairs.clocks = self._clocks

    def _by_known_way(self, found: Edges, ins: Side, outs: Side) -> Edges:
        """Without the pairs one end of which could be in another pair whose way, from the address that the client
        asked to the one that the server has, is that of pairs that numbers joined."""
        columns = self._columns
        incoming, outgoing = ins.rows[found.incoming], outs.rows[found.outgoing]
        known = among(way_of(columns, outgoing, incoming), self._seen.way)
        has_better = np.isin(found.incoming, found.incoming[known]) | np.isin(found.outgoing, found.outgoing[known])
        return found.take(known | ~has_better)

    def _take(self, servers: Rows, clients: Rows, method: Method, confidence: NDArray[np.float32] | float) -> None:
        pairs = self._pairs
        pairs.parent[servers], pairs.method[servers], pairs.confidence[servers] = clients, method, confidence
        self._taken[clients] = True
        self._incoming = self._incoming[pairs.parent[self._incoming] < 0]
        self._outgoing = self._outgoing[~self._taken[self._outgoing]]

    def repair(self) -> None:
        """End a client that plainly took the response of a neighbour when its own server's response has come."""
        columns = self._columns
        in_part = (self._pairs.parent >= 0) & (self._pairs.confidence < _IN_FULL)
        servers = np.flatnonzero(in_part & (columns.direction == Direction.INCOMING))
        clients = self._pairs.parent[servers]
        here, there = columns.resp_seq[servers], columns.resp_seq[clients]
        differ = (here != 0) & (there != 0) & (here != there)
        servers, clients = servers[differ], clients[differ]
        if not servers.size:
            return
        neighbours = self._known_of_servers("resp_seq", clients)
        servers, clients = servers[neighbours], clients[neighbours]
        _, answered = self._clocks.moments(columns, servers)
        begun, ended = self._clocks.moments(columns, clients)
        late = (answered < ended) & (ended != OPEN_END)
        ends, clients = columns.end_ns.copy(), clients[late]
        ends[clients] = columns.start_ns[clients] + np.maximum(answered - begun, 1)[late]
        self._pairs.end_ns = ends
        self._pairs.counts["responses_repaired"] = int(np.count_nonzero(late & self._new[servers]))

    def _against_time(self, clients: Rows, servers: Rows) -> int:
        """How many of these pairs no clocks of their hosts can explain."""
        columns, slack = self._columns, self._slack_ns
        # most pairs agree as they stand: only those that do not need clocks
        after = columns.start_ns[servers] - columns.start_ns[clients]
        suspect = np.flatnonzero(self._new[servers] & ((after < -slack) | (after > slack)))
        clients, servers = clients[suspect], servers[suspect]
        begins, _ = self._clocks.moments(columns, servers)
        opens, closes = self._clocks.moments(columns, clients)
        known = (begins != NEVER) & (opens != NEVER)
        known &= (after[suspect] < -slack) | (columns.start_ns[servers] - slack > columns.end_ns[clients])
        clients, servers = clients[known], servers[known]
        begins, opens, closes = begins[known], opens[known], closes[known]
        off = self._clocks.tolerance(columns.sender[clients], columns.sender[servers]) + slack
        return int(np.count_nonzero((begins < opens - off) | (begins - off > closes)))


def headers_differ(columns: SpanColumns, incoming: Rows, outgoing: Rows) -> Mask:
    """Whether two spans of one request have trace ids of two traces in their headers."""
    differ = np.zeros(incoming.size, np.bool_)
    high, low = columns.app_trace_hi, columns.app_trace_lo
    if not (low.any() or high.any()):
        return differ
    both = np.flatnonzero((high[incoming] | low[incoming]) != 0)
    both = both[(high[outgoing[both]] | low[outgoing[both]]) != 0]
    here, there = incoming[both], outgoing[both]
    differ[both] = (high[here] != high[there]) | (low[here] != low[there])
    return differ
