"""The second look: what no key says about rows that wait, found among more rows than those of one group.

Most rows are told by keys alone (`groups`), and cost a glance at their marks here. The others are *open*: incoming and
outgoing ones without a partner by numbers in full whose connection or request id was seen from the other side, too,
exits whose thread names no entry or one that was over, and exits of processes whose threads serve several requests at
once. Half a window after they came, in beats of an eighth of a window, they are looked at among what came around them,
younger rows included, by the same pure functions that `link` consists of. What is found is held until the rows leave,
and unites their groups.

Decided against: keys for connections and processes, by which open rows would wait together. All that passes through a
process would be one group.
"""

from collections import Counter
from collections.abc import Collection
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bridge.linker.across import Held, pair_across
from bridge.linker.groups import ENTRY, EXIT, INCOMING, MET, NAMED, OUTGOING, PARENTED, PlainGroups
from bridge.linker.held_edges import HeldEdges, SlotEdges
from bridge.linker.inside import ASTRAY, Looked, look_inside, process_keys, sound_rows
from bridge.linker.keys import NET, group_keys
from bridge.linker.matching import among
from bridge.linker.offsets import PairTimes, times_of_pairs
from bridge.linker.open_rows import OpenRows
from bridge.linker.options import LinkOptions
from bridge.linker.pairing import pair
from bridge.linker.slots import I32Array
from bridge.linker.threads import overlapping
from bridge.linker.waiting import Checks, WaitingRows
from bridge.spans import Direction, Kind, SpanColumns
from bridge.spans.ids import combine

I64Array = NDArray[np.int64]
U64Array = NDArray[np.uint64]
Mask = NDArray[np.bool_]

BEATS: Final = 8
"""Beats in a window."""
MAX_ROWS: Final = 100_000
"""Rows of processes with open exits that are looked at in one beat: of more the open ones that are due, then those
nearest to them in time."""
FEW_ROWS: Final = 1_000
"""Up to so many rows, young exits are looked at whenever they began."""
MOST_NOTED: Final = 1_024
"""Of entries that come together so many are looked at for whether threads are crowded: those that are will be again."""
MAX_SEEN: Final = 4_096
"""Pairs that are remembered, to learn clocks from."""
MAX_SEEN_OF_HOSTS: Final = 64
"""Of two hosts: clocks drift, and what two said to each other long ago speaks against what they say now."""
LONG: Final = 3
"""Windows for which it is known that threads told nothing: a row that came at the end of one may wait for another one,
and be asked for by a row that is looked at half a window later."""
_SAMPLE: Final = 256
_COUNTED: Final = ("pairs_by_one_number", "pairs_by_address", "pairs_ambiguous", "responses_repaired")
_CROWDED: Final = 0.02
_TIME_BITS: Final = np.uint64(38)
_PROCESS: Final = ("sender", "pid", "service")
_OF_KIND: Final = np.zeros(256, np.uint8)
_OF_KIND[[Kind.ENTRY, Kind.EXIT]] = ENTRY, EXIT
_OF_DIRECTION: Final = np.zeros(256, np.uint8)
_OF_DIRECTION[[Direction.INCOMING, Direction.OUTGOING]] = INCOMING, OUTGOING


def kinds_of(columns: SpanColumns) -> NDArray[np.uint8]:
    """What rows are, as bits for `PlainGroups.add`. Rows with faults are entries or not, and nothing else."""
    kinds: NDArray[np.uint8] = _OF_KIND[columns.kind] | _OF_DIRECTION[columns.direction]
    if columns.request_id.any():
        kinds |= (columns.request_id != 0).view(np.uint8) * np.uint8(NAMED)
    if columns.faults.any():
        kinds[columns.faults != 0] &= np.uint8(ENTRY)
    return kinds


class SecondLook:
    """Looks at rows that wait, beat by beat, and holds the edges that it finds."""

    def __init__(self, rows: WaitingRows, groups: PlainGroups, options: LinkOptions, window_ns: int) -> None:
        self._rows, self._groups = rows, groups
        self._budget = options.timing_budget // BEATS
        self._options = replace(options, timing_budget=self._budget)
        self._every_ns, self._delay_ns, self._window_ns = max(1, window_ns // BEATS), window_ns // 2, window_ns
        self._young, self._due = Checks(), Checks()
        self._open = OpenRows(rows, groups)
        self._held = HeldEdges()
        self._seen = PairTimes.zeros(0)
        self._astray: dict[int, int] = {}
        """Processes whose threads tell nothing, or told nothing lately, and when they were last seen not to."""
        self._astray_since_ns = 0
        """Those that were seen after this tell nothing now."""
        self.counts: Counter[str] = Counter()
        """What was counted since this was cleared."""

    def limit_timing(self, effort: float) -> None:
        """Let timing look at this share of its budget from the next beat on."""
        budget = int(self._budget * effort)
        if budget != self._options.timing_budget:
            self._options = replace(self._options, timing_budget=budget)

    # --- when --------------------------------------------------------------------------------------------------------

    def beat_of(self, arrival_ns: int) -> int:
        """The first beat that sees a row."""
        return -(-arrival_ns // self._every_ns) * self._every_ns

    @property
    def next_ns(self) -> int | None:
        """Time of the first beat that has something to do."""
        first = [self.beat_of(self._young.first_ns)] if self._young.first_ns is not None else []
        if self._due.first_ns is not None:
            first.append(self.beat_of(self._due.first_ns + self._delay_ns))
        return min(first, default=None)

    def push(self, arrival_ns: I64Array, slots: I32Array) -> None:
        """Add rows in order of arrival."""
        self._young.push(arrival_ns, slots)
        self._due.push(arrival_ns, slots)

    def beat(self, now_ns: int, *, last: bool = False) -> None:
        """Look at what is due. last: everything is."""
        self._open.add(self._young.pop(None if last else now_ns))
        due = self._due.pop(None if last else now_ns - self._delay_ns)
        if now_ns // self._every_ns % (BEATS // 2) == 0:
            self._open.prune()
        self._look_across(due)
        self._look_inside(now_ns, due)

    # --- what is held ------------------------------------------------------------------------------------------------

    def held(self, slots: I32Array) -> Held:
        """The edges of rows that leave, which are forgotten here; rows are positions in `slots`."""
        held = self._held.among(slots)
        self._held.drop(slots)
        return held

    def _hold(self, edges: SlotEdges) -> None:
        if edges.child.size:
            self._held.put(edges)
            linked = edges.parent >= 0
            self._groups.unite(edges.child[linked], edges.parent[linked])

    # --- across processes --------------------------------------------------------------------------------------------

    def _look_across(self, due: I32Array) -> None:
        """Pair rows that numbers in full did not: incoming ones that are due, or were."""
        slots, marks = self._open.candidates()
        incoming = marks & INCOMING != 0
        if not incoming.any() or incoming.all():
            return
        ripe = incoming & self._ripe(slots)
        if not ripe.any():
            return
        columns = self._rows.take(slots).columns
        open_ = self._groups.met(np.ascontiguousarray(group_keys(columns)[:, NET])) == 0
        slots, ripe, columns = slots[open_], ripe[open_], columns.take(open_)
        if not ripe.any():
            return
        self._learn_clocks(due)
        pairs = pair_across(columns, sound_rows(columns), ripe, slack_ns=self._options.clock_slack_ns, seen=self._seen)
        self.counts.update({name: pairs.counts.get(name, 0) for name in _COUNTED})
        found = np.flatnonzero(ripe & (pairs.parent >= 0) & (pairs.confidence < 1.0))
        clients = slots[pairs.parent[found]]
        stays = np.zeros(found.size, np.uint8)
        self._hold(SlotEdges(slots[found], clients, pairs.method[found], pairs.confidence[found], stays))
        self._open.close(np.concatenate([slots[found], clients]))

    def _learn_clocks(self, due: I32Array) -> None:
        """Remember some pairs in full of rows that are due."""
        marks = self._groups.marks(due)
        met = due[(marks & MET != 0) & (marks & INCOMING != 0)]
        if not met.size:
            return
        some = met[:: -(-met.size // _SAMPLE)].copy()
        columns = self._rows.take(self._groups_of(some)[: BEATS * MAX_SEEN]).columns
        sound = sound_rows(columns)
        parent = pair(columns, sound, sound, slack_ns=self._options.clock_slack_ns)
        servers = np.flatnonzero(parent >= 0)
        seen = PairTimes.concatenate([self._seen, times_of_pairs(columns, parent[servers], servers)])
        self._seen = seen.take(_newest(combine((seen.client, seen.server)))[-MAX_SEEN:])

    def _groups_of(self, slots: I32Array) -> I32Array:
        """All rows of the groups of these rows."""
        members: I32Array = self._groups.due(slots, 0, 1 << 62, 1 << 62, 1 << 30, force=True)[0]
        return members

    # --- inside a process --------------------------------------------------------------------------------------------

    def astray(self, columns: SpanColumns) -> NDArray[np.intp]:
        """Rows whose thread says nothing: no key of it is to join them with others.

        They are those of processes in which entries began, a window ago or less, while another one of their thread was
        open, or in which threads turned out to be wrong.
        """
        return self._of(columns, self._astray_now())

    def _astray_now(self) -> list[int]:
        return [process for process, at in self._astray.items() if at > self._astray_since_ns]

    @staticmethod
    def _of(columns: SpanColumns, processes: Collection[int]) -> NDArray[np.intp]:
        """Rows of these processes."""
        if not processes:
            return np.empty(0, np.intp)
        process = process_keys(columns.sender, columns.pid, columns.service)
        return np.flatnonzero(among(process, np.array(list(processes), np.uint64)))

    def note_crowds(self, now_ns: int, columns: SpanColumns, lines: U64Array, ends: I64Array) -> None:
        """Note processes in which entries that just came began while another one of their thread was open.

        lines, ends: of each row, as `row_keys` has them.
        """
        entries = np.flatnonzero((lines != 0) & (columns.kind == Kind.ENTRY))[-MOST_NOTED:]
        if entries.size < 2:
            return
        lines, at = lines[entries], columns.ktime[entries]
        since = at - at.min()
        coarse = (since >> max(int(since.max()).bit_length() - int(_TIME_BITS), 0)).astype(np.uint64)
        order = np.argsort(lines >> _TIME_BITS << _TIME_BITS | coarse)
        behind = np.flatnonzero(overlapping(lines[order], at[order], ends[entries][order]))
        if not behind.size:
            return
        # what was sent again does not overlap with itself
        rows, ahead = entries[order[behind + 1]], entries[order[behind]]
        other = (columns.span_id[rows] != columns.span_id[ahead]) | (columns.digest[rows] != columns.digest[ahead])
        crowded = order[behind + 1][other]
        if crowded.size:
            process = process_keys(columns.sender[entries], columns.pid[entries], columns.service[entries])
            self._note_astray(now_ns, process[crowded], process, _CROWDED)

    def _note_astray(self, now_ns: int, odd: U64Array, process: U64Array, share: float) -> None:
        """Note processes of which more than this share of rows is odd."""
        suspects, often = np.unique(odd, return_counts=True)
        rows = np.bincount(np.searchsorted(suspects, process[np.isin(process, suspects)]), minlength=suspects.size)
        self._astray.update(dict.fromkeys(suspects[(often > share * rows) & (suspects != 0)].tolist(), now_ns))

    def _column(self, slots: I32Array, name: str) -> NDArray[np.generic]:
        return self._rows.columns(slots, (name,))[name]

    def _look_inside(self, now_ns: int, due: I32Array) -> None:
        """Find the entries of exits for which threads do not tell."""
        exits = self._open_exits(now_ns, due)
        if not exits.size:
            return
        mine, served = self._processes_of(exits)
        exits = exits[served]
        if not exits.size:
            return
        mine = self._nearest(mine, exits)
        here = np.isin(exits, mine)
        self.counts["timing_skipped"] += int(np.count_nonzero(~here))
        exits = exits[here]
        others = np.setdiff1d(self._groups_of(mine), mine)[: 2 * MAX_ROWS]
        slots = np.concatenate([mine, others])
        self._decide(now_ns, slots, mine.size, np.isin(slots, exits))

    def _decide(self, now_ns: int, slots: I32Array, n: int, due: Mask) -> None:
        """Find edges of the first n rows and hold those of ripe ones; the others call them, or are called by them."""
        columns = self._rows.take(slots).columns
        ripe, alone = np.zeros(slots.size, np.bool_), np.zeros(slots.size, np.bool_)
        ripe[:n] = self._ripe(slots[:n])
        alone[self._of(columns, self._astray)] = True
        near = _near(columns, due, n, self._every_ns)
        found = look_inside(
            Looked(columns, ripe, near, alone), self._held.among(slots), seen=self._seen, options=self._options
        )
        process = process_keys(columns.sender, columns.pid, columns.service)
        self._note_astray(now_ns, process[found.doubted], process[found.asked], ASTRAY)
        parent = np.where(found.edges.parent >= 0, slots[found.edges.parent], -1).astype(np.int32)
        edges = found.edges
        self._hold(SlotEdges(slots[edges.row], parent, edges.method, edges.confidence, edges.yields))
        self.counts.update(found.counts)

    def _open_exits(self, now_ns: int, due: I32Array) -> I32Array:
        marks = self._groups.marks(due)
        exits = marks & EXIT != 0
        named = (marks & NAMED != 0) & (marks & OUTGOING != 0) & (marks & ENTRY == 0)
        open_ = (exits | named) & (marks & PARENTED == 0)
        self._astray_since_ns = now_ns - self._window_ns
        self._astray = {key: at for key, at in self._astray.items() if at > now_ns - LONG * self._window_ns}
        if astray := self._astray_now():
            rest = np.flatnonzero(exits & ~open_)
            open_[rest[among(self._process(due[rest]), np.array(astray, np.uint64))]] = True
        slots: I32Array = due[open_]
        some: I32Array = slots[~self._held.has(slots)]
        return some

    def _process(self, slots: I32Array) -> U64Array:
        values = self._rows.columns(slots, _PROCESS)
        return process_keys(*(values[name] for name in _PROCESS))  # type: ignore[arg-type]  # a column has the dtype of its name

    def _processes_of(self, exits: I32Array) -> tuple[I32Array, Mask]:
        """Waiting entries and exits of those processes of these exits that have both, and which exits are of these."""
        marks = self._groups.marks(np.arange(self._rows.top, dtype=np.int32))
        slots = np.flatnonzero(marks & (ENTRY | EXIT) != 0).astype(np.int32)
        entry = marks[slots] & ENTRY != 0
        process, wanted = self._process(slots), self._process(exits)
        mine = (process != 0) & among(process, np.unique(wanted))
        served = np.unique(process[mine & entry])
        return slots[mine & among(process, served)], among(wanted, served)

    def _nearest(self, slots: I32Array, exits: I32Array) -> I32Array:
        """Of many rows those nearest in time to these exits."""
        if slots.size <= MAX_ROWS:
            return slots
        start: I64Array = self._column(slots, "start_ns").astype(np.int64)
        due: I64Array = self._column(exits, "start_ns").astype(np.int64)
        low, high = int(due.min()), int(due.max())
        apart = np.maximum(np.maximum(low - start, start - high), 0)
        apart[np.isin(slots, exits)] = -1
        near: I32Array = np.sort(slots[np.argpartition(apart, MAX_ROWS)[:MAX_ROWS]])
        return near

    def _ripe(self, slots: I32Array) -> Mask:
        """Which of these rows are due, or were."""
        waiting = np.zeros(self._rows.top, np.bool_)
        for part in self._due.parts():
            waiting[part] = True
        return ~waiting[slots]


def _newest(hosts: U64Array) -> NDArray[np.intp]:
    """Positions, ascending, of the last `MAX_SEEN_OF_HOSTS` of each value."""
    last_first = hosts.size - 1 - np.argsort(hosts[::-1], kind="stable")
    of_one = hosts[last_first]
    first = np.ones(hosts.size, np.bool_)
    first[1:] = of_one[1:] != of_one[:-1]
    starts = np.flatnonzero(first)
    place = np.arange(hosts.size) - np.repeat(starts, np.diff(starts, append=hosts.size))
    newest: NDArray[np.intp] = np.sort(last_first[place < MAX_SEEN_OF_HOSTS])
    return newest


def _near(columns: SpanColumns, due: Mask, n: int, most_ns: int) -> Mask:
    """Rows that began while the requests of the due exits may have been going on: rivals for the same entries.

    Only the first n rows may be.
    """
    start = columns.start_ns
    near = np.zeros(start.size, np.bool_)
    near[:n] = True
    if n > FEW_ROWS:
        lengths = np.sort((columns.end_ns - start)[columns.kind == Kind.ENTRY])
        margin = min(2 * max(int(lengths[lengths.size * 99 // 100]), 0), most_ns)
        near &= (start >= start[due].min() - margin) & (start <= start[due].max() + margin)
    return near
