"""What docs/linking.md says, in plain Python: an object per span, loops, no numpy. Slow, and meant to be read.

`oracle` answers the question `bridge.linker.link` answers; it shares no code with it.
"""

import hashlib
from collections import Counter
from dataclasses import dataclass, field

from bridge.linker import Decided, LinkOptions
from bridge.spans import Decisions, Direction, Encoding, Kind, Method, Outcome, SpanColumns
from tests.support.link_oracle_pairs import Clocks, Pairing, entry_by_request, find_pairs

MASK = 2**64 - 1
REACH = 8
YES, UNKNOWN, NO = 0, 1, 2


@dataclass(eq=False)
class Span:
    """One row: what it says, and what is found out about it."""

    row: int
    says: dict[str, int]
    given: dict[str, int] | None = None
    order: int = 0
    original: "Span | None" = None
    parent: "Span | None" = None
    strength: int = 0
    method: int = Method.NONE
    header: "tuple[int, int] | None" = None
    names: int = 0
    named: "Span | None" = None
    names_ordinary: bool = False
    encode: int = Encoding.ABSENT
    ebpf: tuple[int, int] = (0, 0)
    exported: tuple[int, int] = (0, 0)
    exported_encode: int = Encoding.ABSENT
    exported_parent: int = 0
    exported_method: int = Method.NONE
    keep: bool = False
    fragments: "list[Span]" = field(default_factory=list)

    def __getattr__(self, name: str) -> int:
        try:
            return self.says[name]
        except KeyError:
            raise AttributeError(name) from None

    @property
    def is_new(self) -> bool:
        return self.given is None

    @property
    def is_espan(self) -> bool:
        return self.kind != Kind.ORDINARY

    @property
    def takes_part(self) -> bool:
        folded = self.given is not None and self.given["outcome"] == Outcome.FOLDED
        return self.is_espan and not self.faults and not folded and self.original is self

    @property
    def left_key(self) -> tuple[int, ...]:
        """Which of the rows that left left first."""
        assert self.given is not None
        return (self.order, self.given["ebpf_trace_hi"], self.given["ebpf_trace_lo"], self.span_id, self.digest)

    @property
    def net_id(self) -> tuple[int, int] | None:
        return (self.req_seq, self.resp_seq) if (self.req_seq or self.resp_seq) and not self.faults else None

    @property
    def process(self) -> tuple[int, int] | None:
        return (self.sender, self.pid) if self.pid else None

    @property
    def thread(self) -> tuple[int, int, int] | None:
        thread = self.tid_usr or self.tid
        return (
            (self.sender, self.pid, thread) if thread and self.ktime and self.kind in (Kind.ENTRY, Kind.EXIT) else None
        )

    @property
    def length(self) -> int | None:
        return self.end_ns - self.start_ns if self.start_ns and self.end_ns > self.start_ns else None

    @property
    def own_trace(self) -> tuple[int, int]:
        return (self.trace_hi, self.trace_lo)

    @property
    def app_trace(self) -> tuple[int, int]:
        return (self.app_trace_hi, self.app_trace_lo)

    @property
    def root(self) -> "Span":
        top = self
        while top.parent is not None:
            top = top.parent
        return top


@dataclass(frozen=True)
class Answer:
    """What the oracle says on n rows; names as in `Links`."""

    parent: list[int]
    root: list[int]
    decisions: list[dict[str, int]]
    span_links: set[tuple[int, int, int, int]]
    counts: dict[str, int]


def oracle(columns: SpanColumns, options: LinkOptions, decided: Decided | None = None) -> Answer:
    """Parents, roots, decisions (without confidence), span links (row, trace, span id) and counts."""
    spans = _spans(columns, decided)
    counts: Counter[str] = Counter()
    _mark_copies(spans, counts)
    part = [s for s in spans if s.takes_part]
    in_full = {s: client for s in part if (client := _by_seq(s, part, options))}
    pairing, clocks = find_pairs(part, in_full, options.clock_slack_ns, counts)
    for span in part:
        if span.is_new:
            span.parent, span.strength, span.method = _find_parent(span, part, pairing, clocks, options)
    _break_loops(part, counts)
    _find_fragments(part, pairing, clocks, options, counts)
    for span in part:
        counts["seq_against_header"] += span.is_new and span.method == Method.SEQ and _headers_differ(span)
    own = [s for s in spans if s.is_espan and s.is_new and s.original is s]
    for span in own:
        counts["late_children"] += span.parent is not None and not span.parent.is_new
    links = _name_ebpf_traces(own)
    predecessors: list[tuple[Span, Span]] = []
    _read_headers(part, [s for s in spans if not s.is_espan], options)
    for span in sorted(own, key=_depth):
        _export(span)
        if span.header is not None and span.parent is not None and _exported(span.parent) != span.exported:
            predecessors.append((span, span.parent))
    _sample(part, own, options)
    if options.app_trace_scope == "trace":
        _widen(own)
    links |= {(span.row, *_exported(above), above.span_id) for span, above in predecessors}
    return Answer(
        parent=[top.parent.row if (top := s.original or s).parent else -1 for s in spans],
        root=[(s.original or s).root.row for s in spans],
        decisions=[_decision(s) for s in spans],
        span_links=links,
        counts={name: count for name, count in counts.items() if count},
    )


def _spans(columns: SpanColumns, decided: Decided | None) -> list[Span]:
    names = SpanColumns.dtypes()
    spans = [Span(row, {name: int(getattr(columns, name)[row]) for name in names}) for row in range(len(columns))]
    if decided is not None:
        for position, row in enumerate(decided.rows.tolist()):
            fields = [name for name in Decisions.dtypes() if name != "confidence"]
            spans[row].given = {name: int(getattr(decided.decisions, name)[position]) for name in fields}
            spans[row].order = int(decided.order[position])
    return spans


# Copies


def _mark_copies(spans: list[Span], counts: Counter[str]) -> None:
    """The first of equal spans takes part: one that left, else that of the smallest sender."""
    first: dict[tuple[int, int], Span] = {}
    ids: set[int] = set()

    def rank(span: Span) -> tuple[bool, bool, int, int, int, int]:
        folded = span.given is not None and span.given["outcome"] == Outcome.FOLDED
        return (span.is_new, folded, 0, span.sender, span.service, span.row)

    for span in sorted(spans, key=rank):
        if not span.is_espan:
            span.original = span
            continue
        span.original = first.setdefault((span.span_id, span.digest), span)
        if span.original is span:
            counts["id_conflicts"] += span.is_new and span.span_id in ids
            ids.add(span.span_id)


# Pair and assign


def _find_parent(
    span: Span, part: list[Span], pairing: Pairing, clocks: Clocks, options: LinkOptions
) -> tuple[Span | None, int, int]:
    """(parent, strength of the edge: its confidence in hundredths, method)."""
    if span in pairing:
        pair = pairing[span]
        return pair.client, round(pair.confidence * 100), pair.method
    if span.kind == Kind.ENTRY:
        return None, 0, Method.NONE

    def inside(exit_: Span, entry: Span) -> bool:
        return _containment(exit_, entry, False, options) == YES

    found = entry_by_request(span, part, clocks, Kind.ENTRY, inside)
    if isinstance(found, Span):
        return found, 95, Method.REQUEST_ID
    found = _by_thread_id(span, part, options)
    if found:
        return found, 90, Method.THREAD
    found = _by_timeline(span, part)
    return (found, 80, Method.THREAD) if found else (None, 0, Method.NONE)


def _headers_differ(span: Span) -> bool:
    return span.parent is not None and len({span.app_trace, span.parent.app_trace} - {(0, 0)}) == 2


def _by_seq(span: Span, part: list[Span], options: LinkOptions) -> Span | None:
    if span.direction != Direction.INCOMING or span.net_id is None:
        return None
    clients = [c for c in part if c.direction == Direction.OUTGOING and c.net_id == span.net_id]
    clients = [c for c in clients if c.stream_id == span.stream_id]
    at_port = [c for c in clients if c.src_port and (c.src_ip, c.src_port) == (span.dst_ip, span.dst_port)]
    return _best(span, at_port or clients, "start_ns", whole=True, options=options)


def _by_thread_id(span: Span, part: list[Span], options: LinkOptions) -> Span | None:
    if not span.thread_trace_id:
        return None
    entries = [c for c in part if c.kind == Kind.ENTRY and c.thread_trace_id == span.thread_trace_id]
    home = [e for e in entries if e.process is not None and e.process == span.process]
    return _best(span, home or entries, "ktime" if home else "start_ns", whole=False, options=options)


def _by_timeline(span: Span, part: list[Span]) -> Span | None:
    if span.kind != Kind.EXIT or span.thread is None:
        return None
    begun = [e for e in part if e.kind == Kind.ENTRY and e.thread == span.thread and e.ktime <= span.ktime]
    still_open = [e for e in begun if e.length is None or e.ktime + e.length >= span.ktime]
    return max(still_open, key=lambda e: (e.ktime, e.span_id, e.digest), default=None)


def _best(span: Span, candidates: list[Span], clock: str, *, whole: bool, options: LinkOptions) -> Span | None:
    """The best of the `REACH` candidates that began before or with the span and the `REACH` that began after it."""
    now = span.says[clock]

    def age(other: Span) -> tuple[int, int, int]:
        return (other.says[clock], other.span_id, other.digest)

    def rank(other: Span) -> tuple[int, ...]:
        return (_containment(span, other, whole, options), abs(other.says[clock] - now), *age(other))

    ordered = sorted(candidates, key=age)
    before = [c for c in ordered if c.says[clock] <= now]
    after = [c for c in ordered if c.says[clock] > now]
    return min(before[-REACH:] + after[:REACH], key=rank, default=None)


def _containment(span: Span, other: Span, whole: bool, options: LinkOptions) -> int:
    """YES, UNKNOWN or NO: whether the span lies in the time of the other; begin and end (`whole`), or its begin."""
    if span.sender == other.sender and span.ktime and other.ktime:
        begin, other_begin, slack = span.ktime, other.ktime, 0
    else:
        begin, other_begin, slack = span.start_ns, other.start_ns, options.clock_slack_ns
    if not begin or not other_begin:
        return UNKNOWN
    last = begin + (span.length or 0) if whole else begin
    early = begin < other_begin - slack
    late = other.length is not None and last > other_begin + other.length + slack
    return NO if early or late else YES


# Loops


def _break_loops(part: list[Span], counts: Counter[str]) -> None:
    for span in part:
        loop = _loop_from(span)
        if loop:
            weakest = min(loop, key=lambda s: (s.strength, s.start_ns, s.ktime, s.span_id, s.digest))
            weakest.parent, weakest.strength, weakest.method = None, 0, Method.NONE
            counts["loops_broken"] += 1


def _loop_from(span: Span) -> list[Span]:
    """The spans of the loop that the way up from here ends in, if it does not end at a root."""
    way: list[Span] = []
    at: Span | None = span
    while at is not None:
        if at in way:
            return way[way.index(at) :]
        way.append(at)
        at = at.parent
    return []


def _depth(span: Span) -> int:
    depth = 0
    while span.parent is not None:
        span, depth = span.parent, depth + 1
    return depth


# Traces


def _find_fragments(
    part: list[Span], pairing: Pairing, clocks: Clocks, options: LinkOptions, counts: Counter[str]
) -> None:
    """A root that left whose parent, as found now, is new belongs to that parent's root."""
    for span in part:
        if span.given is not None and not span.given["ebpf_parent_id"]:
            found, _, _ = _find_parent(span, part, pairing, clocks, options)
            if found is not None and found.is_new:
                found.fragments.append(span)
    for span in part:
        counts["late_parents"] += bool(span.fragments)


def _name_ebpf_traces(own: list[Span]) -> set[tuple[int, int, int, int]]:
    """Set the eBPF trace ids; returns the span links of late parents to their fragments."""
    links = set()
    for root in own:
        if root.parent is not None:
            continue
        fragments = _fragments_of(root, own)
        root.ebpf = _ebpf_of(fragments[0]) if fragments else _md5(root)
    for span in own:
        span.ebpf = _ebpf_of(span.root)
        for fragment in span.fragments:
            if _ebpf_of(fragment) != span.ebpf:
                links.add((span.row, *_exported(fragment), fragment.span_id))
    return links


def _fragments_of(root: Span, own: list[Span]) -> list[Span]:
    """Roots that left and belong under this one, the first that left first."""
    found = [f for s in own if s.root is root for f in s.fragments]
    return sorted(found, key=lambda f: f.left_key)


def _ebpf_of(span: Span) -> tuple[int, int]:
    return span.ebpf if span.given is None else (span.given["ebpf_trace_hi"], span.given["ebpf_trace_lo"])


def _exported(span: Span) -> tuple[int, int]:
    return span.exported if span.given is None else (span.given["trace_hi"], span.given["trace_lo"])


def _exported_encode(span: Span) -> int:
    return span.exported_encode if span.given is None else span.given["encode"]


def _md5(root: Span) -> tuple[int, int]:
    low, high = root.net_id or (root.span_id, root.start_ns)
    digest = hashlib.md5(
        low.to_bytes(8, "little") + (high & MASK).to_bytes(8, "little"), usedforsecurity=False
    ).digest()
    return int.from_bytes(digest[8:], "little"), int.from_bytes(digest[:8], "little")


def _read_headers(part: list[Span], ordinary: list[Span], options: LinkOptions) -> None:
    if not options.use_app_trace_id:
        return
    for span in part:
        span.header, span.names, span.encode = _header(span)
    named = {(*s.header, s.names) for s in part if s.header and s.names}
    for span in part:
        ids = (*span.own_trace, span.sent_span_id)
        if span.header is None and span.own_trace != (0, 0) and span.sent_span_id and ids in named:
            span.header, span.encode = span.own_trace, Encoding.HEX
    left = sorted((s for s in part if s.given), key=lambda s: s.left_key)
    for span in part:
        if span.header is None or not span.names:
            continue
        ids = (*span.header, span.names)
        span.named = next((s for s in left if s.sent_span_id and (*s.own_trace, s.sent_span_id) == ids), None)
        span.names_ordinary = span.named is None and any((*s.own_trace, s.span_id) == ids for s in ordinary)
    for span in part:
        if span.named is not None:
            span.header, span.encode = _exported(span.named), _exported_encode(span.named)


def _header(span: Span) -> tuple[tuple[int, int] | None, int, int]:
    """Trace id, parent span id and encoding that the headers of a span gave it."""
    own_parent = span.parent_id if span.parent_id != span.span_id else 0
    if span.app_trace != (0, 0):
        return span.app_trace, span.app_parent if span.app_parent != span.span_id else 0, span.app_encode
    if span.own_trace != (0, 0) and own_parent:
        return span.own_trace, own_parent, Encoding.HEX
    return None, 0, Encoding.ABSENT


def _export(span: Span) -> None:
    """Set the exported ids of a span whose ancestors have theirs."""
    above = span.parent
    if span.header is not None:
        span.exported, span.exported_encode = span.header, span.encode
    elif above is not None:
        span.exported, span.exported_encode = _exported(above), _exported_encode(above)
    else:
        span.exported = span.ebpf
    stays = above is not None and _exported(above) == span.header
    if above is not None and span.names_ordinary and above.names != span.names:
        stays = False
    if span.header is not None and span.names and not stays:
        span.exported_parent, span.exported_method = span.names, Method.HEADER
    elif above is not None:
        span.exported_parent, span.exported_method = above.span_id, span.method


def _widen(own: list[Span]) -> None:
    """Give new traces the one header trace id that is found in them, where there is but one."""
    for top in [s for s in own if s.parent is None]:
        members = [s for s in own if s.root is top]
        fragments = _fragments_of(top, own)
        seen = {(s.exported, s.exported_encode) for s in members if s.exported_encode}
        seen |= {(_exported(f), _exported_encode(f)) for f in fragments}
        if len({ids for ids, _ in seen}) == 1 and (encode := min(code for _, code in seen)):
            for span in [s for s in members if not s.exported_encode]:
                span.exported, span.exported_encode = next(iter(seen))[0], encode


# Sampling


def _sample(part: list[Span], own: list[Span], options: LinkOptions) -> None:
    roots = [s for s in own if s.parent is None]
    left = [s for s in part if s.given is not None]
    for group in _groups(roots + left, own):
        judges = [s for s in group if s.given is not None]
        members = [s for s in own if s.root in group]
        first = min(judges, key=lambda s: s.left_key, default=None)
        keep = _was_kept(first) if first else _verdict(group, members, options)
        for root in group:
            if root.is_new:
                fragments = _fragments_of(root, own)
                root.keep = _was_kept(fragments[0]) if fragments else keep
    for span in own:
        span.keep = span.root.keep if span.root.is_new else _was_kept(span.root)


def _was_kept(span: Span) -> bool:
    return span.given is not None and span.given["outcome"] == Outcome.EXPORT


def _groups(tops: list[Span], own: list[Span]) -> list[list[Span]]:
    """Topmost spans whose traces share a verdict: by header trace ids, fragments taken over, and left spans named."""

    def ties(top: Span) -> set[tuple[int, ...]]:
        below = [s for s in own if s.root is top]
        ids: set[tuple[int, ...]] = {_exported(s) for s in [top, *below] if _exported_encode(s)}
        ids |= {(s.named.row,) for s in below if s.named is not None}
        ids |= {(f.row,) for f in _fragments_of(top, own)[:1] if top.is_new}
        return ids | {(top.row,)}

    groups = [([top], ties(top)) for top in tops]
    while True:
        pair = next(((a, b) for i, a in enumerate(groups) for b in groups[:i] if a[1] & b[1]), None)
        if pair is None:
            return [members for members, _ in groups]
        a, b = pair
        groups = [g for g in groups if g is not a and g is not b] + [(a[0] + b[0], a[1] | b[1])]


def _verdict(group: list[Span], members: list[Span], options: LinkOptions) -> bool:
    if options.sampling_flags == "honour":
        undecided = options.datadog_reject == "undecided"
        if any(s.app_flag < 0 and not (undecided and s.app_encode == Encoding.DEC) for s in members):
            return False
        if any(s.app_flag > 0 for s in members):
            return True
    speaker = min(group, key=lambda r: (r.header is None, r.start_ns, r.span_id, r.digest))
    return sum(speaker.exported) * 1111111111111111111 % 2**64 < options.sampling_rate * 2**64


# The answer


def _decision(span: Span) -> dict[str, int]:
    if span.given is not None:
        return span.given
    blank = dict.fromkeys((name for name in Decisions.dtypes() if name != "confidence"), 0)
    if not span.is_espan:
        return blank | {
            "outcome": Outcome.PASS,
            "span_id": span.span_id,
            "trace_hi": span.trace_hi,
            "trace_lo": span.trace_lo,
            "parent_span_id": span.parent_id,
        }
    if span.original is not None and span.original is not span:
        parentless = dict.fromkeys(("parent_span_id", "ebpf_parent_id", "method"), 0)
        return _decision(span.original) | parentless | {"outcome": Outcome.FOLDED}
    return {
        "outcome": Outcome.EXPORT if span.keep else Outcome.SAMPLED_OUT,
        "span_id": span.span_id,
        "trace_hi": span.exported[0],
        "trace_lo": span.exported[1],
        "parent_span_id": span.exported_parent,
        "ebpf_trace_hi": span.ebpf[0],
        "ebpf_trace_lo": span.ebpf[1],
        "ebpf_parent_id": span.parent.span_id if span.parent else 0,
        "method": span.exported_method,
        "encode": span.exported_encode,
    }
