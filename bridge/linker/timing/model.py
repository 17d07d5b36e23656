"""What timing believes about processes: which call comes next, and after how long. Learnt from the rows themselves.

An entry's exits in order are its *chain*. Each step of a chain (the entry's begin, its calls, its end) depends on the
latest *event* before it: the entry began, a call began, or a call ended. A model says how likely each symbol is to
come next (0: the end; 1: the end while calls are under way; 2 and up: a call of that operation) and how long after the
event.

- What comes next is told from the whole history, else from the last two calls, else from the event alone:
  interpolated absolute discounting (Ney, Essen, Kneser, 1994) with a discount of one, so that what was seen once
  counts as not seen. Steps are learnt from the chains they are used on: this is what keeps a wrong chain from vouching
  for itself.
- How long after is a smoothed histogram over bins of an eighth of an octave.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bridge.linker.times import OPEN_END
from bridge.linker.timing.scene import Scene
from bridge.spans.ids import mix

F64Array = NDArray[np.float64]
I32Array = NDArray[np.int32]
I64Array = NDArray[np.int64]
U64Array = NDArray[np.uint64]

BINS: Final = 256
SUB_BITS: Final = 3
BEGUN: Final = 1000003
ENDED: Final = 2000003
CALLED: Final = 3000017
KIND: Final = 7
GOLDEN: Final = 0x9E3779B97F4A7C15
FLOOR: Final = float(np.log(1 / 64))
"""Of a symbol that its process never showed after an event."""

_WIDTH_NS: Final = 64.0 * 2.0 ** (np.arange(BINS) >> SUB_BITS)
_KERNEL: Final = np.exp(-0.5 * (np.arange(-6, 7) / 1.5) ** 2) / np.exp(-0.5 * (np.arange(-6, 7) / 1.5) ** 2).sum()
_PRIOR: Final = 8.0
"""How many observations the histogram of all events of a kind counts for in that of one pair."""
_LEAST: Final = 3
"""Observations a pair needs for a histogram of its own."""
_PAIRS: Final = 8192
"""Most pairs that get one."""
_OFFSETS: Final = 32
"""Events on either side of a call that are looked at for the first model."""
_SAMPLE: Final = 32_768
"""Calls and ends that are looked at for it, evenly spread."""
_UNSEEN: Final = 1e-3
"""Share of exits that have no entry, before any was seen."""


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """Tables for `Chains`. keys and values: an open-addressing hash table, whose size is a power of two."""

    keys: U64Array
    values: F64Array
    densities: F64Array
    """Shape (rows, BINS): log density per ns. Row 0: all delays; 1 + kind of event; then pairs of event and symbol."""
    floor: float
    agree: F64Array
    """Per exit: what it counts if it and its entry ran on one thread; then if they did not."""
    differ: F64Array
    null: F64Array
    """Per exit: log density of being there without an entry."""


def bins_of(delay_ns: I64Array) -> I64Array:
    """The bin of each delay: octaves of (ns >> 6) + 8, each cut in 8."""
    d = (np.maximum(delay_ns, 0) >> 6) + 8
    top = np.frexp(d.astype(np.float64))[1].astype(np.int64) - 1
    return np.minimum(((top - SUB_BITS) << SUB_BITS) + ((d >> (top - SUB_BITS)) & 7), BINS - 1)


def table(keys: U64Array, values: F64Array) -> tuple[U64Array, F64Array]:
    """An open-addressing table of these keys, of which the lowest bit does not count; the first of equal ones stays."""
    keys, first = np.unique(keys | np.uint64(1), return_index=True)
    values = values[first]
    size = 1 << (2 * keys.size + 2).bit_length()
    slots, stored = np.zeros(size, np.uint64), np.zeros(size, np.float64)
    place, left = (keys & np.uint64(size - 1)).astype(np.int64), np.arange(keys.size)
    while left.size:
        free = left[slots[place[left]] == 0]
        _, one = np.unique(place[free], return_index=True)
        put = free[one]
        slots[place[put]], stored[place[put]] = keys[put], values[put]
        left = left[slots[place[left]] != keys[left]]
        place[left] = np.where(slots[place[left]] != 0, (place[left] + 1) & (size - 1), place[left])
    return slots, stored


def learnt(
    noted: U64Array, symbol: I32Array, bins: I32Array, agree: F64Array, differ: F64Array, null: F64Array
) -> Model:
    """A model of the steps that were recorded; noted: shape (3, n), keys of event, recent and whole history."""
    lower = np.full(symbol.size, np.exp(FLOOR))
    keys: list[U64Array] = []
    values: list[F64Array] = []
    for context in noted:
        lower = _chances(context, symbol, lower, keys, values)
    densities = _densities(noted[0], symbol, bins, keys, values)
    return Model(*table(np.concatenate(keys), np.concatenate(values)), densities, FLOOR, agree, differ, null)


def _chances(
    context: U64Array, symbol: I32Array, lower: F64Array, keys: list[U64Array], values: list[F64Array]
) -> F64Array:
    """Add one order of history; lower, and what comes back: the chance of each step by shorter, by this history."""
    pair, first, of_pair, count = np.unique(
        _then(context, symbol),
        return_index=True,
        return_inverse=True,
        return_counts=True,
    )
    known, of_context = np.unique(context, return_inverse=True)
    inside = of_context[first]
    total, kinds = np.bincount(inside, count), np.bincount(inside)
    chance = (count - 1) / total[inside] + (kinds / total)[inside] * lower[first]
    keys += [pair, mix(known)]
    values += [np.log(chance), np.log(kinds / total)]
    steps: F64Array = chance[of_pair]
    return steps


def _densities(
    event: U64Array, symbol: I32Array, bins: I32Array, keys: list[U64Array], values: list[F64Array]
) -> F64Array:
    kind = (event & np.uint64(KIND)).astype(np.int64)
    pair, of_pair, count = np.unique(_pair(event, symbol), return_inverse=True, return_counts=True)
    kind_of = np.zeros(pair.size, np.int64)
    kind_of[of_pair] = kind
    by_kind = _histogram(kind, bins, KIND + 1)
    every = _shares(_smooth(by_kind.sum(0)[None] + 0.02))
    by_kind = _shares(_smooth(by_kind) + 2 * every)
    row = np.full(pair.size, -1)
    own = _most_frequent(count)
    row[own] = np.arange(own.size)
    mine = row[of_pair] >= 0
    by_pair = _histogram(row[of_pair][mine], bins[mine], own.size)
    by_pair = _shares(_smooth(by_pair) + _PRIOR * by_kind[kind_of[own]])
    keys.append(pair[own])
    values.append(KIND + 2 + np.arange(own.size, dtype=np.float64))
    return _log_density(np.concatenate([every, by_kind, by_pair]))


def _most_frequent(count: I64Array) -> I64Array:
    """Positions of pairs that get a histogram of their own."""
    frequent = np.flatnonzero(count >= _LEAST)
    return frequent[np.argsort(-count[frequent], kind="stable")[:_PAIRS]]


def _then(context: U64Array, symbol: I32Array) -> U64Array:
    return mix(context + (symbol.astype(np.uint64) + np.uint64(1)) * np.uint64(GOLDEN))


def _pair(event: U64Array, symbol: I32Array) -> U64Array:
    return mix(event ^ mix(symbol.astype(np.uint64) + np.uint64(77)))


def _histogram(row: I64Array, bins: NDArray[np.integer], rows: int, weights: F64Array | None = None) -> F64Array:
    return np.bincount(row * BINS + bins, weights, rows * BINS).reshape(rows, BINS).astype(np.float64)


def _smooth(histograms: F64Array) -> F64Array:
    reach = _KERNEL.size // 2
    padded = np.pad(histograms, ((0, 0), (reach, reach)))
    out = np.zeros_like(histograms)
    for i, weight in enumerate(_KERNEL):
        out += weight * padded[:, i : i + BINS]
    return out


def _shares(histograms: F64Array) -> F64Array:
    shares: F64Array = histograms / histograms.sum(axis=1, keepdims=True)
    return shares


def _log_density(shares: F64Array) -> F64Array:
    density: F64Array = np.log(np.maximum(shares, 1e-12) / _WIDTH_NS)
    return density


def event_keys(what: int, operation: I32Array, kind: int | I64Array) -> U64Array:
    """Keys of events, as chains make them: what happened with which operation, and the `KIND` bits.

    1: calls are under way; 2: a call ended; 4: a call began; 6: a call ended, when is not known exactly.
    """
    return mix(operation.astype(np.uint64) + np.uint64(what)) & ~np.uint64(KIND) | np.asarray(kind, np.uint64)


def first_model(scene: Scene, agree: F64Array, differ: F64Array, null: F64Array) -> Model:
    """A model from which events come before which calls more often than after them, whoever's they are.

    What causes a call comes before it at some typical distance, on top of events that have nothing to do with it; those
    are as frequent after it (the convolution of Aguilera et al., SOSP 2003, with the future as the background).
    """
    near = _neighbours(scene)
    symbols = int(scene.exit_operation.max(initial=1)) + 1
    pair, of_pair, count = np.unique(near.event * symbols + near.symbol, return_inverse=True, return_counts=True)
    event, symbol = near.events[pair // symbols], (pair % symbols).astype(np.int32)
    own = _most_frequent(count)
    row = np.full(pair.size, -1)
    row[own] = np.arange(own.size)
    mine = row[of_pair] >= 0
    sign = np.where(near.before, 1.0, -1.0)
    excess = np.maximum(_smooth(_histogram(row[of_pair[mine]], near.bins[mine], own.size, sign[mine])), 0)
    event, symbol = event[own], symbol[own]
    seen = np.bincount(near.event[near.before], minlength=near.events.size)[pair[own] // symbols] / _OFFSETS
    chance = np.minimum(excess.sum(1) / np.maximum(seen, 1), 1) * 0.9 + 0.002
    chance /= np.maximum(np.bincount(pair[own] // symbols, chance, near.events.size)[pair[own] // symbols], 1)
    broad = np.where(np.arange(BINS) < 26 << SUB_BITS, 1.0, 1e-3)
    broad /= broad.sum()
    densities = _log_density(np.concatenate([np.tile(broad, (KIND + 2, 1)), _shares(excess + 2 * broad + 1e-9)]))
    keys: list[U64Array] = []
    values: list[F64Array] = []
    rows = KIND + 2 + np.arange(own.size, dtype=np.float64)
    for waiting in (0, 1):
        some = event | np.uint64(waiting)
        keys += [_then(some, symbol), _then(some, np.ones(own.size, np.int32)), _pair(some, symbol)]
        values += [np.log(chance), np.full(own.size, np.log(0.02)), rows]
    return Model(*table(np.concatenate(keys), np.concatenate(values)), densities, FLOOR, agree, differ, null)


@dataclass(frozen=True, slots=True, eq=False)
class _Near:
    """Pairs of an event and a call (or an entry's end) near each other in one process."""

    events: U64Array
    """Keys of events."""
    event: I64Array
    """Per pair: position in `events`."""
    symbol: I32Array
    bins: NDArray[np.uint8]
    before: NDArray[np.bool_]
    """Whether the event came first."""


def _neighbours(scene: Scene) -> _Near:
    exits, entries = np.arange(scene.exit_start.size), -1 - np.arange(scene.entry_start.size)
    of_exit, of_entry = scene.exit_process, scene.entry_process
    at = np.concatenate([scene.entry_start, scene.exit_start, scene.exit_end])
    events, event = np.unique(
        np.concatenate(
            [
                event_keys(BEGUN, scene.entry_operation, 0),
                event_keys(CALLED, scene.exit_operation, 5),
                event_keys(ENDED, scene.exit_operation, np.where(scene.vague != 0, 6, 2)),
            ]
        ),
        return_inverse=True,
    )
    process = np.concatenate([of_entry, of_exit, of_exit])
    whose = np.concatenate([entries, exits, exits])
    order = np.lexsort((at, process))
    at, event, process, whose = at[order], event[order], process[order], whose[order]
    closed = np.flatnonzero(scene.entry_end != OPEN_END)
    then = np.concatenate([scene.exit_start, scene.entry_end[closed]])
    some = slice(None, None, max(1, -(-then.size // _SAMPLE)))
    then = then[some]
    symbol = np.concatenate([scene.exit_operation, np.zeros(closed.size, np.int32)])[some]
    of = np.concatenate([of_exit, of_entry[closed]])[some]
    who = np.concatenate([exits, entries[closed]])[some]
    place = _places(process, at, of, then)
    parts: list[tuple[I64Array, I32Array, NDArray[np.uint8]]] = []
    for offset in range(-_OFFSETS, _OFFSETS):
        there = np.clip(place + offset, 0, at.size - 1)
        ok = (there == place + offset) & (process[there] == of) & (whose[there] != who)
        there = there[ok]
        parts.append((event[there], symbol[ok], bins_of(np.abs(then[ok] - at[there])).astype(np.uint8)))
    before = np.repeat(np.arange(2 * _OFFSETS) < _OFFSETS, [part[0].size for part in parts])
    found, symbols, bins = (np.concatenate(column) for column in zip(*parts, strict=True))
    return _Near(events, found, symbols, bins, before)


def _places(process: I64Array, at: I64Array, of: I64Array, then: I64Array) -> I64Array:
    """How many of the events, which are sorted, are of an earlier process or not later."""
    late = np.concatenate([np.zeros(at.size, np.uint8), np.ones(then.size, np.uint8)])
    order = np.lexsort((late, np.concatenate([at, then]), np.concatenate([process, of])))
    place = np.empty(order.size, np.int64)
    place[order] = np.cumsum(late[order] == 0)
    return place[at.size :]
