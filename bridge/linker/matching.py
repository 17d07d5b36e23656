"""One-to-one pairs of incoming and outgoing rows that share a key, by time. Abstains where two answers are close.

Bounded work whatever the input: of the outgoing rows with an incoming one's key at most `REACH` before it and `REACH`
after it in time are looked at.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bridge.linker.candidates import REACH
from bridge.linker.forest import united
from bridge.linker.offsets import NEVER, Clocks
from bridge.linker.times import OPEN_END, Rows
from bridge.spans import SpanColumns

U64Array = NDArray[np.uint64]
I64Array = NDArray[np.int64]
Mask = NDArray[np.bool_]

WHOLE: Final = 3
"""The incoming span lies in the time of the outgoing one, as exactly as the clocks are known."""
LOOSE: Final = 2
"""The same, give or take the noise."""
BEGUN: Final = 1
"""It began in that time, give or take the noise."""
IN_ORDER: Final = 0
"""One of as many incoming as outgoing spans of a connection that carried one request after another."""
_BLOCK: Final = 1 << 16
_ROUNDS: Final = 4

Allowed = Callable[[Rows, Rows], Mask]
"""(incoming, outgoing), of one shape, to which of these pairs there may be."""


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """Rows of one direction, with their keys and moments."""

    rows: Rows
    keys: U64Array
    at_ns: I64Array
    end_ns: I64Array

    @classmethod
    def of(cls, columns: SpanColumns, clocks: Clocks, rows: Rows, keys: U64Array) -> "Side":
        """Rows by key and moment; those whose moment is not known are left out."""
        at, end = clocks.moments(columns, rows)
        order = np.lexsort((columns.digest[rows], columns.span_id[rows], at, keys))
        order = order[at[order] != NEVER]
        return cls(rows[order], keys[order], at[order], end[order])

    def take(self, at: I64Array | Mask) -> "Side":
        """Rows at these positions."""
        return Side(self.rows[at], self.keys[at], self.at_ns[at], self.end_ns[at])


@dataclass(frozen=True, slots=True, eq=False)
class Edges:
    """Possible pairs, as positions in two sides, and how well each fits: WHOLE, LOOSE or BEGUN."""

    incoming: I64Array
    outgoing: I64Array
    fit: NDArray[np.int8]

    def take(self, at: I64Array | Mask) -> "Edges":
        """Edges at these positions."""
        return Edges(self.incoming[at], self.outgoing[at], self.fit[at])


def sides(
    columns: SpanColumns, clocks: Clocks, incoming: tuple[Rows, U64Array], outgoing: tuple[Rows, U64Array]
) -> tuple[Side, Side]:
    """Both sides, given as rows and keys, without the rows whose key the other one has not."""
    (ins, here), (outs, there) = incoming, outgoing
    mine, other = among(here, there), among(there, here)
    return Side.of(columns, clocks, ins[mine], here[mine]), Side.of(columns, clocks, outs[other], there[other])


def among(values: U64Array, some: U64Array) -> Mask:
    """Which of these values are among some others."""
    if not some.size:
        return np.zeros(values.size, np.bool_)
    ascending = np.sort(some)
    at = np.minimum(np.searchsorted(ascending, values), ascending.size - 1)
    mine: Mask = ascending[at] == values
    return mine


def edges(columns: SpanColumns, clocks: Clocks, incoming: Side, outgoing: Side, allowed: Allowed) -> Edges:
    """Every pair with one key that time and `allowed` permit, among the nearest."""
    parts = [
        _edges(columns, clocks, incoming, outgoing, start, allowed) for start in range(0, incoming.rows.size, _BLOCK)
    ]
    if not parts:
        return Edges(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.int8))
    return Edges(
        np.concatenate([p.incoming for p in parts]),
        np.concatenate([p.outgoing for p in parts]),
        np.concatenate([p.fit for p in parts]),
    )


def _edges(columns: SpanColumns, clocks: Clocks, incoming: Side, outgoing: Side, start: int, allowed: Allowed) -> Edges:
    block = np.arange(start, min(start + _BLOCK, incoming.rows.size))
    keys, at = incoming.keys[block], incoming.at_ns[block]
    low, high = np.searchsorted(outgoing.keys, keys), np.searchsorted(outgoing.keys, keys, side="right")
    position = _place(outgoing, keys, at)[:, None] + np.arange(-REACH, REACH)
    which, column = np.nonzero((position >= low[:, None]) & (position < high[:, None]))
    i, o = block[which], position[which, column]
    senders = columns.sender[incoming.rows[i]], columns.sender[outgoing.rows[o]]
    exact = clocks.tolerance(*senders)
    loose = exact + clocks.noise_ns
    begins, ends = incoming.at_ns[i], incoming.end_ns[i]
    opens, closes = outgoing.at_ns[o], outgoing.end_ns[o]
    ends = np.where(ends == OPEN_END, begins, ends)
    begun = (begins >= opens - loose) & (begins - loose <= closes)
    within = begun & (ends - loose <= closes)
    whole = within & (begins >= opens - exact) & (ends - exact <= closes) & clocks.related(*senders)
    fit = np.where(whole, WHOLE, np.where(within, LOOSE, BEGUN)).astype(np.int8)
    some = np.flatnonzero(begun)
    some = some[allowed(incoming.rows[i[some]], outgoing.rows[o[some]])]
    return Edges(i[some], o[some], fit[some])


def _place(side: Side, keys: U64Array, at: I64Array) -> I64Array:
    """How many of the rows, which are sorted by (key, moment), come before or at each (key, moment)."""
    n = side.keys.size
    late = np.concatenate([np.zeros(n, np.uint8), np.ones(keys.size, np.uint8)])
    order = np.lexsort((late, np.concatenate([side.at_ns, at]), np.concatenate([side.keys, keys])))
    place = np.empty(order.size, np.int64)
    place[order] = np.cumsum(late[order] == 0)
    return place[n:]


def settled(found: Edges, incoming: Side, outgoing: Side, *, in_order: bool) -> Edges:
    """The pairs among possible ones of which each is the only one of both its ends, the best fitting first.

    What is the only one counts among edges that fit as well or better; a pair that is found takes its ends out of the
    others' way. in_order: spans of one connection that are left over are paired in the order they began, where as many
    came in as went out, one after another.
    """
    pairs = []
    for _ in range(_ROUNDS):
        before = found.incoming.size
        for least in (WHOLE, LOOSE, BEGUN):
            fine = found.take(found.fit >= least)
            pair = fine.take(only(fine.incoming) & only(fine.outgoing))
            pairs.append(Edges(pair.incoming, pair.outgoing, np.full(pair.fit.size, least, np.int8)))
            found = _without(found, pair)
        if in_order:
            pair = _ordered(found.take(found.fit >= LOOSE), incoming, outgoing)
            pairs.append(pair)
            found = _without(found, pair)
        if found.incoming.size in (0, before):
            break
    return Edges(
        np.concatenate([p.incoming for p in pairs]),
        np.concatenate([p.outgoing for p in pairs]),
        np.concatenate([p.fit for p in pairs]),
    )


def only(values: I64Array) -> Mask:
    """Which of these positions are there once."""
    once: Mask = (np.bincount(values) == 1)[values] if values.size else np.zeros(0, np.bool_)
    return once


def _without(found: Edges, pair: Edges) -> Edges:
    if not pair.incoming.size:
        return found
    return found.take(~(np.isin(found.incoming, pair.incoming) | np.isin(found.outgoing, pair.outgoing)))


def _ordered(found: Edges, incoming: Side, outgoing: Side) -> Edges:
    """Pairs of spans that can be told apart by nothing but their order."""
    n_in = incoming.rows.size
    label = united(n_in + outgoing.rows.size, found.incoming, n_in + found.outgoing)
    ins, outs = np.unique(found.incoming), np.unique(found.outgoing)
    part_in, part_out = label[ins], label[n_in + outs]
    parts = np.unique(part_in)
    size = np.bincount(np.searchsorted(parts, part_in), minlength=parts.size)
    fair = size == np.bincount(np.searchsorted(parts, part_out), minlength=parts.size)
    fair &= ~_overlap(incoming, ins, part_in, parts) & ~_overlap(outgoing, outs, part_out, parts)
    ins, outs = (s[fair[np.searchsorted(parts, p)]] for s, p in ((ins, part_in), (outs, part_out)))
    # sides are sorted by time, so that the i-th of one goes with the i-th of the other
    ins, outs = ins[np.argsort(label[ins], kind="stable")], outs[np.argsort(label[n_in + outs], kind="stable")]
    codes, wanted = found.incoming * outgoing.rows.size + found.outgoing, ins * outgoing.rows.size + outs
    possible = np.isin(wanted, codes)
    broken = np.unique(label[ins[~possible]])
    kept = ~np.isin(label[ins], broken)
    return Edges(ins[kept], outs[kept], np.full(int(kept.sum()), IN_ORDER, np.int8))


def _overlap(side: Side, positions: I64Array, part: I64Array, parts: I64Array) -> Mask:
    """In which parts a span began before the one before it had ended."""
    by = np.argsort(part, kind="stable")
    positions, part = positions[by], part[by]
    same = part[1:] == part[:-1]
    over = same & (side.at_ns[positions[1:]] < side.end_ns[positions[:-1]])
    mask = np.zeros(parts.size, np.bool_)
    mask[np.searchsorted(parts, part[1:][over])] = True
    return mask
