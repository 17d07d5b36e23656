"""Chains of exits below entries, and the moves between them.

`Chains` is the compiled twin where it could be built and `PlainChains` elsewhere: far slower, but the same answers, bit
for bit. What both promise is written at the methods of `PlainChains`.

Bounds, whatever comes: an exit looks at `ACTIVE` open entries and remembers `RIVALS` of them; an entry exchanges exits
with `PARTNERS` others, and only while all of them together have at most `MERGED` exits; a search keeps `BEAM` answers.
"""

from dataclasses import dataclass, field
from math import exp
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from bridge.linker.times import OPEN_END
from bridge.linker.timing.model import BEGUN, BINS, CALLED, ENDED, GOLDEN, KIND, SUB_BITS, Model
from bridge.linker.timing.scene import ACTIVE, Scene

F64Array = NDArray[np.float64]
I32Array = NDArray[np.int32]
U64Array = NDArray[np.uint64]

DEEP: Final = 16
"""Calls after which a history is told by its latest ones alone."""
WAITING: Final = 12
"""Calls under way at once that a chain keeps track of."""
RIVALS: Final = 6
BEAM: Final = 16
MERGED: Final = 128
PARTNERS: Final = 3
VOTES: Final = 6
"""Different entries that one exit's votes are counted for."""
MARGIN: Final = 12.0
"""Log likelihood that a move may lose at first sight and still be tried together with others."""
HOPELESS: Final = 16.0
"""Log likelihood behind the best answer at which a search gives another one up."""

TOO_LONG: Final = -1e9

_MASK: Final = (1 << 64) - 1


def _mix(z: int) -> int:
    """`bridge.spans.ids.mix` of one number."""
    z = z + GOLDEN & _MASK
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    z = (z ^ z >> 27) * 0x94D049BB133111EB & _MASK
    return z ^ z >> 31


def _event(what: int, operation: int) -> int:
    return _mix(operation + what & _MASK) & ~KIND & _MASK


def _bin(delay_ns: int) -> int:
    d = (max(delay_ns, 0) >> 6) + 8
    top = d.bit_length() - 1
    return min((top - SUB_BITS << SUB_BITS) + (d >> top - SUB_BITS & 7), BINS - 1)


@dataclass(slots=True)
class _State:
    """Where a chain stands: its latest event, its history, and the calls under way as (end, operation, kind of end)."""

    at: int
    event: int
    former: int
    recent: int
    whole: int
    depth: int = 0
    waiting: list[tuple[int, int, int]] = field(default_factory=list)

    def copy(self) -> "_State":
        return _State(self.at, self.event, self.former, self.recent, self.whole, self.depth, self.waiting.copy())

    def settle(self, now: int) -> None:
        """Let calls end that have by now."""
        when, operation, kind, i = -1, 0, 0, 0
        while i < len(self.waiting):
            if self.waiting[i][0] > now:
                i += 1
                continue
            if self.waiting[i][0] > when:
                when, operation, kind = self.waiting[i]
            last = self.waiting.pop()
            if i < len(self.waiting):
                self.waiting[i] = last
        if when >= self.at:
            self.at, self.event = when, _event(ENDED, operation) | kind
        self.event = self.event | 1 if self.waiting else self.event & ~1


class PlainChains:
    """Who owns which exit of a scene, and how likely that is under a model. Method by method as `solving` uses them."""

    owner: I32Array
    """Shape (exits,): position of the entry each exit is with at present, -1 for none."""
    voters: I32Array
    """Shape (exits * VOTES,): entries that each exit was with at counts, in order of appearance, then -1."""
    votes: I32Array
    """How often."""

    def __init__(self, scene: Scene, start: int) -> None:
        """`start` seeds what chance decides."""
        self._scene = scene
        self._e_start, self._e_end = scene.entry_start.tolist(), scene.entry_end.tolist()
        self._e_op, self._e_line = scene.entry_operation.tolist(), scene.entry_thread.tolist()
        self._x_start, self._x_end = scene.exit_start.tolist(), scene.exit_end.tolist()
        self._x_op, self._x_line = scene.exit_operation.tolist(), scene.exit_thread.tolist()
        self._fixed, self._vague = scene.fixed.tolist(), scene.vague.tolist()
        self.owner = scene.owner.copy()
        self._chains: list[list[int]] = [[] for _ in self._e_start]
        self._rivals: list[list[tuple[int, float]]] = [[] for _ in self._x_start]
        n = len(self._x_start)
        self.votes, self.voters = np.zeros(n * VOTES, np.int32), np.full(n * VOTES, -1, np.int32)
        self._random = _mix(start)

    def model(self, model: Model) -> None:
        """Believe this from now on."""
        used = model.keys != 0
        self._table: dict[int, float] = dict(zip(model.keys[used].tolist(), model.values[used].tolist(), strict=True))
        self._densities: list[list[float]] = model.densities.tolist()
        self._floor = model.floor
        self._agree: list[float] = model.agree.tolist()
        self._differ: list[float] = model.differ.tolist()
        self._null: list[float] = model.null.tolist()

    # --- the model ---------------------------------------------------------------------------------------------------

    def _look(self, key: int) -> float | None:
        return self._table.get(_mix(key & _MASK) | 1)

    def _chance(self, s: _State, symbol: int) -> float:
        total = 0.0
        for history in (s.whole, s.recent, s.event):
            known = self._look(history + (symbol + 1) * GOLDEN)
            if known is not None:
                return total + known
            total += self._look(history) or 0.0
        return total + self._floor

    def _step(self, s: _State, symbol: int, delay_ns: int) -> float:
        """Log of the chance of this symbol next, times the density of its delay."""
        chance = self._chance(s, symbol)
        row = self._look(s.event ^ _mix(symbol + 77))
        densities = self._densities[(s.event & KIND) + 1 if row is None else int(row)]
        return chance + densities[_bin(delay_ns)]

    def _begin(self, e: int) -> _State:
        event = _event(BEGUN, self._e_op[e])
        recent = _mix(event)
        return _State(self._e_start[e], event, event, recent, _mix(recent))

    def _take(self, s: _State, x: int) -> None:
        operation = self._x_op[x]
        s.at, s.event = self._x_start[x], _event(CALLED, operation) | 5
        s.depth += 1
        s.whole = _mix((s.whole if s.depth <= DEEP else s.former) ^ _mix(operation + 7))
        s.recent = _mix(s.former ^ _mix(operation + 11))
        s.former = operation
        if len(s.waiting) < WAITING:
            s.waiting.append((self._x_end[x], operation, 6 if self._vague[x] else 2))

    def _call(self, s: _State, e: int, x: int) -> float:
        """Of a state that is settled at the exit's begin."""
        step = self._step(s, self._x_op[x], self._x_start[x] - s.at)
        return step + (self._agree[x] if self._e_line[e] == self._x_line[x] else self._differ[x])

    def _finish(self, s: _State, e: int) -> float:
        if self._e_end[e] == OPEN_END:
            return 0.0
        s.settle(self._e_end[e])
        return self._step(s, 1 if s.waiting else 0, self._e_end[e] - s.at)

    def _score(self, e: int, exits: list[int]) -> float:
        s, total = self._begin(e), 0.0
        for x in exits:
            s.settle(self._x_start[x])
            total += self._call(s, e, x)
            self._take(s, x)
        return total + self._finish(s, e)

    def scores(self) -> F64Array:
        """Log likelihood of the chain of each entry; `TOO_LONG` for chains longer than `MERGED`."""
        return np.array([self._score(e, c) if len(c) <= MERGED else TOO_LONG for e, c in enumerate(self._chains)])

    def put(self, owner: I32Array) -> None:
        """Let exits be with these entries."""
        self.owner[:] = owner
        self._chains = [[] for _ in self._e_start]
        for x, e in enumerate(owner.tolist()):
            if e >= 0:
                self._chains[e].append(x)

    # --- forward in time ---------------------------------------------------------------------------------------------

    def forward(self, assign: bool) -> None:
        """Go through the exits of each process in order of time.

        assign: each goes to the entry after whose latest event it fits best. Else find for each exit that is not fixed
        its rivals: other open entries to which it could go, alone or together with all that follows it.
        """
        if assign:
            self._chains = [[] for _ in self._e_start]
        scene = self._scene
        for p in range(scene.entries_of.size - 1):
            entries, exits = scene.entries_of[p : p + 2].tolist(), scene.exits_of[p : p + 2].tolist()
            self._forward(range(*entries), range(*exits), assign)

    def _forward(self, entries: range, exits: range, assign: bool) -> None:
        active: list[tuple[int, _State]] = []
        ahead = dict.fromkeys(entries, 0)
        e = entries.start
        for x in exits:
            now = self._x_start[x]
            while e < entries.stop and self._e_start[e] <= now:
                if len(active) == ACTIVE:
                    active = [a for a in active if self._e_end[a[0]] >= self._e_start[e]]
                active = [*active[-ACTIVE + 1 :], (e, self._begin(e))]
                e += 1
            active = [a for a in active if self._e_end[a[0]] >= now]
            scores = []
            for f, s in active:
                s.settle(now)
                scores.append(0.0 if self._fixed[x] else self._call(s, f, x))
            if assign:
                self._assign(x, [f for f, _ in active], scores)
            own = next((i for i, (f, _) in enumerate(active) if f == self.owner[x]), -1)
            if own >= 0:
                ahead[active[own][0]] += 1
            if not assign and not self._fixed[x]:
                self._rivals[x] = self._rivals_of(x, active, ahead, own, scores)
            if own >= 0:
                self._take(active[own][1], x)

    def _assign(self, x: int, entries: list[int], scores: list[float]) -> None:
        if not self._fixed[x]:
            best, top = -1, self._null[x]
            for f, score in zip(entries, scores, strict=True):
                if score > top:
                    best, top = f, score
            self.owner[x] = best
        if self.owner[x] >= 0:
            self._chains[self.owner[x]].append(x)

    def _next(self, e: int, ahead: dict[int, int]) -> int:
        chain = self._chains[e]
        return chain[ahead[e]] if ahead[e] < len(chain) else -1

    def _follow(self, s: _State, e: int, x: int) -> float:
        """Score of the exit that comes next, or of the end where that is -1."""
        s = s.copy()
        if x < 0:
            return self._finish(s, e)
        s.settle(self._x_start[x])
        return self._call(s, e, x)

    def _rivals_of(
        self, x: int, active: list[tuple[int, _State]], ahead: dict[int, int], own: int, scores: list[float]
    ) -> list[tuple[int, float]]:
        """The best `RIVALS` others and what moving there would gain, best first."""
        mine = scores[own] if own >= 0 else self._null[x]
        leave = -mine
        if own >= 0:
            e, now = active[own]
            then = now.copy()
            self._take(then, x)
            following = self._next(e, ahead)
            leave += self._follow(now, e, following) - self._follow(then, e, following)
        found: list[tuple[int, float]] = []
        for i, (f, s) in enumerate(active):
            if i == own or scores[i] < mine - 3 * MARGIN:
                continue
            then = s.copy()
            self._take(then, x)
            following = self._next(f, ahead)
            old = self._follow(s, f, following)
            gain = scores[i] + self._follow(then, f, following) - old + leave
            if own >= 0:
                gain = max(gain, scores[i] - mine - old + self._follow(active[own][1], active[own][0], following))
            if gain >= -MARGIN:
                found.append((f, gain))
        return sorted(found, key=lambda rival: -rival[1])[:RIVALS]

    # --- moves -------------------------------------------------------------------------------------------------------

    def improve(self, heat: float, voting: bool) -> int:
        """Share out the exits of each entry and its closest rivals anew; return how many times that changed anything.

        heat 0: where it is better. Above: by chance, in proportion to exp(score / heat). voting: count where exits are.
        """
        moved = 0
        for x in range(len(self._x_start)):
            if self.owner[x] < 0 and not self._fixed[x]:
                moved += self._adopt(x)
        for e in range(len(self._e_start)):
            moved += self._compare(e, heat)
        if voting:
            self._count()
        return moved

    def _adopt(self, x: int) -> int:
        """An exit without an entry goes where it adds most, if that is more than it costs to have none."""
        best, top = -1, self._null[x]
        for f, _ in self._rivals[x]:
            chain = self._chains[f]
            if len(chain) >= MERGED:
                continue
            gain = -self._score(f, chain) + self._score(f, sorted([*chain, x]))
            if gain > top:
                best, top = f, gain
        if best < 0:
            return 0
        self._chains[best] = sorted([*self._chains[best], x])
        self.owner[x] = best
        return 1

    def _compare(self, e: int, heat: float) -> int:
        partners: dict[int, float] = {}
        for x in self._chains[e]:
            for f, gain in self._rivals[x]:
                if f == e:
                    continue
                if f not in partners and len(partners) == PARTNERS:
                    worst = list(partners)[-1]
                    if gain <= partners[worst]:
                        continue
                    del partners[worst]
                elif gain <= partners.get(f, -np.inf):
                    continue
                partners.pop(f, None)
                better = [p for p in partners.items() if p[1] >= gain]
                partners = dict([*better, (f, gain), *(p for p in partners.items() if p[1] < gain)])
        closest = list(partners)
        moved = sum(self._share([e, f], heat) for f in closest)
        return moved + (self._share([e, *closest[:2]], heat) if len(closest) > 1 else 0)

    def _share(self, group: list[int], heat: float) -> int:
        merged = sorted(x for e in group for x in self._chains[e])
        if not merged or len(merged) > MERGED:
            return 0
        before = 0.0
        for e in group:
            before += self._score(e, self._chains[e])
        beam: list[tuple[float, list[_State], tuple[int, ...]]] = [(0.0, [self._begin(e) for e in group], ())]
        for x in merged:
            beam = self._grown(beam, group, x)
        scores = []
        for score, states, _ in beam:
            for s, e in zip(states, group, strict=True):
                score += self._finish(s, e)  # summed in the order the kernel does
            scores.append(score)
        best = int(np.argmax(scores))
        if heat > 0:
            best = self._draw(scores, best, heat)
        elif scores[best] <= before + 1e-9:
            return 0
        for e in group:
            self._chains[e] = []
        for x, choice in zip(merged, beam[best][2], strict=True):
            self.owner[x] = group[choice] if choice < len(group) else -1
            if choice < len(group):
                self._chains[group[choice]].append(x)
        return 1

    def _grown(
        self, beam: list[tuple[float, list[_State], tuple[int, ...]]], group: list[int], x: int
    ) -> list[tuple[float, list[_State], tuple[int, ...]]]:
        """The best answers with one exit more."""
        now, found = self._x_start[x], []
        for g, (score, states, _) in enumerate(beam):
            for t, e in enumerate(group):
                if (self._fixed[x] and self.owner[x] != e) or not self._e_start[e] <= now <= self._e_end[e]:
                    continue
                states[t].settle(now)
                found.append((score + self._call(states[t], e, x), g, t))
            if not self._fixed[x]:
                found.append((score + self._null[x], g, len(group)))
        found.sort(key=lambda one: -one[0])
        grown = []
        for score, g, t in found[:BEAM]:
            if score <= found[0][0] - HOPELESS:
                break
            states = [s.copy() for s in beam[g][1]]
            if t < len(group):
                self._take(states[t], x)
            grown.append((score, states, (*beam[g][2], t)))
        return grown

    def _draw(self, scores: list[float], best: int, heat: float) -> int:
        weights = [exp((score - scores[best]) / heat) for score in scores]
        total = 0.0
        for weight in weights:
            total += weight
        self._random = self._random + 1 & _MASK
        left = float(_mix(self._random) >> 11) / 9007199254740992.0 * total
        for g, weight in enumerate(weights):
            left -= weight
            if left < 0:
                return g
        return len(weights) - 1

    def _count(self) -> None:
        for x, e in enumerate(self.owner.tolist()):
            if e < 0 or self._fixed[x]:
                continue
            for k in range(x * VOTES, (x + 1) * VOTES):
                if self.voters[k] in (e, -1):
                    self.voters[k] = e
                    self.votes[k] += 1
                    break

    # --- what there is to learn from --------------------------------------------------------------------------------

    def record(self) -> tuple[U64Array, I32Array, I32Array]:
        """Each step of each chain: event, recent and whole history before it as (3, n); symbol; bin of its delay."""
        steps: list[tuple[int, int, int, int, int]] = []

        def note(s: _State, symbol: int, now: int) -> None:
            steps.append((s.event, s.recent, s.whole, symbol, _bin(now - s.at)))

        for e, chain in enumerate(self._chains):
            s = self._begin(e)
            for x in chain:
                s.settle(self._x_start[x])
                note(s, self._x_op[x], self._x_start[x])
                self._take(s, x)
            if self._e_end[e] != OPEN_END:
                s.settle(self._e_end[e])
                note(s, 1 if s.waiting else 0, self._e_end[e])
        noted = np.array([step[:3] for step in steps], np.uint64).reshape(-1, 3).T.copy()
        rest = np.array([step[3:] for step in steps], np.int32).reshape(-1, 2)
        return noted, rest[:, 0].copy(), rest[:, 1].copy()


if TYPE_CHECKING:
    Chains = PlainChains
else:
    try:
        from bridge.linker.timing._chains import Chains
    except ImportError:  # not built
        Chains = PlainChains
