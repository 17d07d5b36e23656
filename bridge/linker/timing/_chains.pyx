# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The compiled twin of bridge.linker.timing.chains.PlainChains, which says what each method promises."""

from libc.math cimport exp
from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t
from libc.string cimport memmove

import numpy as np

cdef extern from *:
    int clz "__builtin_clzll"(unsigned long long) nogil

cdef enum:  # as in chains.py
    BINS = 256
    SUB_BITS = 3
    DEEP = 16
    WAITING = 12
    ACTIVE = 256
    RIVALS = 6
    BEAM = 16
    MERGED = 128
    GROUP = 3
    PARTNERS = 3
    VOTES = 6

cdef int64_t OPEN_END = 0x7FFFFFFFFFFFFFFF
cdef double MARGIN = 12.0
cdef double HOPELESS = 16.0
cdef double TOO_LONG = -1e9
cdef uint64_t BEGUN = 1000003, ENDED = 2000003, CALLED = 3000017
cdef uint64_t KIND = 7  # bits of an event: 1 calls are under way, 2 a call ended, 4 a call began, 6 one ended at about then


cdef inline uint64_t mix(uint64_t z) noexcept nogil:
    z += <uint64_t> 0x9E3779B97F4A7C15
    z = (z ^ (z >> 30)) * <uint64_t> 0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * <uint64_t> 0x94D049BB133111EB
    return z ^ (z >> 31)


cdef inline uint64_t event_of(uint64_t what, uint64_t operation) noexcept nogil:
    return mix(operation + what) & ~KIND


cdef inline int bin_of(int64_t delay_ns) noexcept nogil:
    cdef uint64_t d = <uint64_t> (delay_ns if delay_ns > 0 else 0)
    d = (d >> 6) + 8
    cdef int top = 63 - clz(d)
    cdef int b = ((top - SUB_BITS) << SUB_BITS) + <int> ((d >> (top - SUB_BITS)) & 7)
    return b if b < BINS else BINS - 1


cdef struct State:
    int64_t at
    uint64_t event, former, recent, whole
    int32_t depth, waiting
    int64_t[WAITING] until
    int32_t[WAITING] what  # twice the operation, and one more where the end is vague


cdef struct Hypothesis:
    double score
    State[GROUP] states


cdef class Chains:
    cdef readonly object owner, votes, voters, best_gap
    cdef readonly int64_t work
    cdef int32_t[:] _p_entry, _p_exit, _e_op, _e_line, _x_op, _x_line, _owner
    cdef int64_t[:] _e_start, _e_end, _x_start, _x_end
    cdef double[:] _agree, _differ, _null
    cdef uint8_t[:] _fixed, _vague
    cdef int32_t[:] _head, _last, _next, _rival, _vote, _voter
    cdef double[:] _gap, _best_gap
    cdef uint64_t[:] _keys
    cdef double[:] _values
    cdef double[:, :] _densities
    cdef uint64_t _mask, _rng
    cdef double _floor
    cdef int _entries, _exits
    cdef State[ACTIVE] _states
    cdef int32_t[ACTIVE] _active, _ahead, _slot  # what is open, by begin: entry, its next exit, where its state is
    cdef int32_t[ACTIVE] _free
    cdef Hypothesis[BEAM] _beam, _grown
    cdef double[BEAM * (GROUP + 1)] _scores
    cdef int32_t[MERGED * BEAM] _back
    cdef uint8_t[MERGED * BEAM] _chose
    cdef int32_t[MERGED] _merged
    cdef int32_t[MERGED + 1] _chain
    cdef bint _recording
    cdef uint64_t[:, :] _noted
    cdef int32_t[:] _symbol, _bin
    cdef int _notes

    def __init__(self, scene, int start):
        self._p_entry, self._p_exit = scene.entries_of, scene.exits_of
        self._e_start, self._e_end, self._e_op, self._e_line = (
            scene.entry_start, scene.entry_end, scene.entry_operation, scene.entry_thread)
        self._x_start, self._x_end, self._x_op, self._x_line = (
            scene.exit_start, scene.exit_end, scene.exit_operation, scene.exit_thread)
        self._fixed, self._vague = scene.fixed, scene.vague
        self.owner = scene.owner.copy()
        self._owner = self.owner
        self._entries, self._exits = len(scene.entry_start), len(scene.exit_start)
        self._head, self._last = np.full(self._entries, -1, np.int32), np.full(self._entries, -1, np.int32)
        self._next = np.full(self._exits, -1, np.int32)
        self._rival, self._gap = np.full(self._exits * RIVALS, -1, np.int32), np.zeros(self._exits * RIVALS)
        self.best_gap = np.zeros(self._exits)
        self._best_gap = self.best_gap
        self.votes, self.voters = np.zeros(self._exits * VOTES, np.int32), np.full(self._exits * VOTES, -1, np.int32)
        self._vote, self._voter = self.votes, self.voters
        self._agree, self._differ, self._null = np.zeros(self._exits), np.zeros(self._exits), np.zeros(self._exits)
        self._rng = mix(<uint64_t> start)

    def model(self, model):
        self._keys, self._values, self._densities = model.keys, model.values, model.densities
        self._mask = len(model.keys) - 1
        self._floor = model.floor
        self._agree, self._differ, self._null = model.agree, model.differ, model.null

    # --- the model ---------------------------------------------------------------------------------------------------

    cdef inline bint _look(self, uint64_t key, double* value) noexcept nogil:
        key |= 1
        cdef uint64_t i = key & self._mask
        while self._keys[i] != 0:
            if self._keys[i] == key:
                value[0] = self._values[i]
                return True
            i = (i + 1) & self._mask
        return False

    cdef inline double _chance(self, State* s, int symbol) noexcept nogil:
        cdef double v = 0, p = 0
        cdef uint64_t then = <uint64_t> (symbol + 1) * <uint64_t> 0x9E3779B97F4A7C15
        if self._look(mix(s.whole + then), &v):
            return v
        if self._look(mix(s.whole), &v):
            p += v
        if self._look(mix(s.recent + then), &v):
            return p + v
        if self._look(mix(s.recent), &v):
            p += v
        if self._look(mix(s.event + then), &v):
            return p + v
        if self._look(mix(s.event), &v):
            p += v
        return p + self._floor

    cdef inline double _step(self, State* s, int symbol, int64_t delay_ns) noexcept nogil:
        cdef double row = 0
        cdef double p = self._chance(s, symbol)
        self.work += 1
        if not self._look(mix(s.event ^ mix(<uint64_t> symbol + 77)), &row):
            row = <double> (s.event & KIND) + 1
        return p + self._densities[<int> row, bin_of(delay_ns)]

    cdef inline void _begin(self, State* s, int e) noexcept nogil:
        s.at = self._e_start[e]
        s.event = event_of(BEGUN, <uint64_t> self._e_op[e])
        s.former = s.event
        s.recent = mix(s.event)
        s.whole = mix(s.recent)
        s.depth, s.waiting = 0, 0

    cdef inline void _settle(self, State* s, int64_t now) noexcept nogil:
        cdef int i = 0, op = 0
        cdef int64_t when = -1
        while i < s.waiting:
            if s.until[i] <= now:
                if s.until[i] > when:
                    when, op = s.until[i], s.what[i]
                s.waiting -= 1
                s.until[i], s.what[i] = s.until[s.waiting], s.what[s.waiting]
            else:
                i += 1
        if when >= s.at:
            s.at = when
            s.event = event_of(ENDED, <uint64_t> (op >> 1)) | (6 if op & 1 else 2)
        s.event = (s.event | 1) if s.waiting else (s.event & ~(<uint64_t> 1))

    cdef inline void _take(self, State* s, int x) noexcept nogil:
        cdef int op = self._x_op[x]
        s.at = self._x_start[x]
        s.event = event_of(CALLED, <uint64_t> op) | 5
        s.depth += 1
        s.whole = mix((s.whole if s.depth <= DEEP else s.former) ^ mix(<uint64_t> op + 7))
        s.recent = mix(s.former ^ mix(<uint64_t> op + 11))
        s.former = <uint64_t> op
        if s.waiting < WAITING:
            s.until[s.waiting], s.what[s.waiting] = self._x_end[x], op << 1 | self._vague[x]
            s.waiting += 1

    cdef inline double _call(self, State* s, int e, int x) noexcept nogil:
        """The state must be settled at the exit's begin."""
        cdef double p = self._step(s, self._x_op[x], self._x_start[x] - s.at)
        return p + (self._agree[x] if self._e_line[e] == self._x_line[x] else self._differ[x])

    cdef inline double _finish(self, State* s, int e) noexcept nogil:
        if self._e_end[e] == OPEN_END:
            return 0
        self._settle(s, self._e_end[e])
        return self._step(s, 1 if s.waiting else 0, self._e_end[e] - s.at)

    cdef double _score(self, int e, int32_t* exits, int n) noexcept nogil:
        cdef State s
        cdef int i
        cdef double p = 0
        self._begin(&s, e)
        for i in range(n):
            self._settle(&s, self._x_start[exits[i]])
            p += self._call(&s, e, exits[i])
            self._take(&s, exits[i])
        return p + self._finish(&s, e)

    # --- chains ------------------------------------------------------------------------------------------------------

    cdef inline void _append(self, int e, int x) noexcept nogil:
        self._next[x] = -1
        if self._last[e] >= 0:
            self._next[self._last[e]] = x
        else:
            self._head[e] = x
        self._last[e] = x

    cdef inline int _length(self, int e) noexcept nogil:
        cdef int x = self._head[e], n = 0
        while x >= 0 and n <= MERGED:
            n += 1
            x = self._next[x]
        return n

    cdef int _exits_of(self, int e) noexcept nogil:
        cdef int x = self._head[e], n = 0
        while x >= 0 and n < MERGED:
            self._chain[n] = x
            n += 1
            x = self._next[x]
        return n

    def forward(self, bint assign):
        cdef int p
        cdef int e
        if assign:
            for e in range(self._entries):
                self._head[e] = self._last[e] = -1
        with nogil:
            for p in range(self._p_entry.shape[0] - 1):
                self._forward(p, assign)

    cdef void _forward(self, int p, bint assign) noexcept nogil:
        cdef int e = self._p_entry[p], x, n = 0, i, f, own, k, best
        cdef int64_t now
        cdef double score, mine, top
        cdef double[ACTIVE] scores
        for i in range(ACTIVE):
            self._free[i] = i
        for x in range(self._p_exit[p], self._p_exit[p + 1]):
            now = self._x_start[x]
            while e < self._p_entry[p + 1] and self._e_start[e] <= now:
                if n == ACTIVE:
                    n = self._close(n, self._e_start[e])
                if n == ACTIVE:  # the one that began first goes
                    n -= 1
                    self._free[ACTIVE - 1 - n] = self._slot[0]
                    memmove(&self._active[0], &self._active[1], n * sizeof(int32_t))
                    memmove(&self._ahead[0], &self._ahead[1], n * sizeof(int32_t))
                    memmove(&self._slot[0], &self._slot[1], n * sizeof(int32_t))
                self._active[n], self._ahead[n] = e, self._head[e]
                self._slot[n] = self._free[ACTIVE - 1 - n]
                self._begin(&self._states[self._slot[n]], e)
                n += 1
                e += 1
            n = self._close(n, now)
            own, best, top = -1, -1, self._null[x]
            mine = self._null[x]
            for i in range(n):
                self._settle(&self._states[self._slot[i]], now)
                if self._fixed[x]:
                    scores[i] = 0
                else:
                    scores[i] = self._call(&self._states[self._slot[i]], self._active[i], x)
                if self._active[i] == self._owner[x]:
                    own, mine = i, scores[i]
                if scores[i] > top:
                    best, top = i, scores[i]
            if assign:
                if not self._fixed[x]:
                    own = best
                    self._owner[x] = self._active[best] if best >= 0 else -1
                if self._owner[x] >= 0:
                    self._append(self._owner[x], x)
            elif not self._fixed[x]:
                if own >= 0:
                    self._ahead[own] = self._next[x]
                self._weigh(x, n, own, mine, scores)
                self._find_rivals(x, n, own, 0, scores)
            elif own >= 0:
                self._ahead[own] = self._next[x]
            if own >= 0:
                self._take(&self._states[self._slot[own]], x)

    cdef inline double _follow(self, State* s, int e, int x) noexcept nogil:
        """Score of the exit that comes next, or of the end where that is -1."""
        cdef State then = s[0]
        if x < 0:
            return self._finish(&then, e)
        self._settle(&then, self._x_start[x])
        return self._call(&then, e, x)

    cdef void _weigh(self, int x, int n, int own, double mine, double* scores) noexcept nogil:
        """Turn the scores of an exit with each open entry into what the better of two moves would gain there.

        Either the exit alone moves there, or it and all after it change places with what that entry has still ahead.
        """
        cdef int i, e = -1
        cdef double leave = -mine, alone, ahead, swap
        cdef State s
        if own >= 0:
            e = self._active[own]
            s = self._states[self._slot[own]]
            self._take(&s, x)
            leave += self._follow(&self._states[self._slot[own]], e, self._ahead[own]) - self._follow(&s, e, self._ahead[own])
        for i in range(n):
            if i == own or scores[i] < mine - 3 * MARGIN:
                scores[i] = -1e300
                continue
            s = self._states[self._slot[i]]
            self._take(&s, x)
            ahead = self._follow(&self._states[self._slot[i]], self._active[i], self._ahead[i])
            alone = scores[i] + self._follow(&s, self._active[i], self._ahead[i]) - ahead + leave
            if own >= 0:
                swap = scores[i] - mine - ahead
                if self._ahead[i] >= 0:
                    swap += self._follow(&self._states[self._slot[own]], e, self._ahead[i])
                else:
                    swap += self._follow(&self._states[self._slot[own]], e, -1)
                if swap > alone:
                    alone = swap
            scores[i] = alone

    cdef int _close(self, int n, int64_t now) noexcept nogil:
        cdef int i, k = 0
        cdef int32_t slot
        for i in range(n):
            slot = self._slot[i]
            if self._e_end[self._active[i]] >= now:
                self._active[k], self._ahead[k], self._slot[k] = self._active[i], self._ahead[i], slot
                k += 1
            else:
                self._free[ACTIVE - 1 - n + i - k + 1] = slot
        return k

    cdef void _find_rivals(self, int x, int n, int own, double mine, double* scores) noexcept nogil:
        """The best others, best first; and how much better the own one is than the best other."""
        cdef int i, k, m = 0
        cdef int32_t* who = &self._rival[x * RIVALS]
        cdef double* gap = &self._gap[x * RIVALS]
        cdef double d
        for i in range(n):
            d = scores[i] - mine
            if i == own or d < -MARGIN:
                continue
            if m == RIVALS and d <= gap[m - 1]:
                continue
            k = m if m < RIVALS else RIVALS - 1
            while k > 0 and gap[k - 1] < d:
                who[k], gap[k] = who[k - 1], gap[k - 1]
                k -= 1
            who[k], gap[k] = self._active[i], d
            if m < RIVALS:
                m += 1
        for k in range(m, RIVALS):
            who[k] = -1
        self._best_gap[x] = -gap[0] if m else MARGIN

    def put(self, owner):
        cdef int x
        cdef int32_t[:] owners = owner
        self._owner[:] = owners
        self._head[:] = -1
        self._last[:] = -1
        for x in range(self._exits):
            if owners[x] >= 0:
                self._append(owners[x], x)

    def scores(self):
        out = np.zeros(self._entries)
        cdef double[:] score = out
        cdef int e
        with nogil:
            for e in range(self._entries):
                score[e] = self._score(e, self._chain, self._exits_of(e)) if self._length(e) <= MERGED else TOO_LONG
        return out

    # --- moves -------------------------------------------------------------------------------------------------------

    def improve(self, double heat, bint voting):
        cdef int e, moved = 0
        with nogil:
            for e in range(self._exits):
                if self._owner[e] < 0 and not self._fixed[e]:
                    moved += self._adopt(e)
            for e in range(self._entries):
                moved += self._compare(e, heat)
            if voting:
                for e in range(self._exits):
                    self._count(e)
        return moved

    cdef int _adopt(self, int x) noexcept nogil:
        """An exit without an entry goes where it adds most, if that is more than it costs to have none."""
        cdef int k, n, i, j, f, best = -1, at
        cdef double before, top = self._null[x]
        for k in range(RIVALS):
            f = self._rival[x * RIVALS + k]
            if f < 0 or self._length(f) >= MERGED:
                continue
            n = self._exits_of(f)
            before = self._score(f, self._chain, n)
            at = 0
            while at < n and self._chain[at] < x:
                at += 1
            for j in range(n, at, -1):
                self._chain[j] = self._chain[j - 1]
            self._chain[at] = x
            before = self._score(f, self._chain, n + 1) - before
            if before > top:
                best, top = f, before
        if best < 0:
            return 0
        i, k = self._head[best], -1
        while i >= 0 and i < x:
            k, i = i, self._next[i]
        self._next[x] = i
        if k < 0:
            self._head[best] = x
        else:
            self._next[k] = x
        if i < 0:
            self._last[best] = x
        self._owner[x] = best
        return 1

    cdef int _compare(self, int e, double heat) noexcept nogil:
        """Share out the exits of an entry and of its closest rivals anew."""
        cdef int32_t[PARTNERS] who
        cdef double[PARTNERS] gap
        cdef int32_t[GROUP] group
        cdef int x = self._head[e], k, i, j, f, m = 0, moved = 0
        cdef double d
        while x >= 0:
            for k in range(RIVALS):
                f = self._rival[x * RIVALS + k]
                if f < 0:
                    break
                if f == e:
                    continue
                d = self._gap[x * RIVALS + k]
                i = 0
                while i < m and who[i] != f:
                    i += 1
                if i == m:
                    if m == PARTNERS:
                        if d <= gap[m - 1]:
                            continue
                        i = m - 1
                    else:
                        m += 1
                elif d <= gap[i]:
                    continue
                while i > 0 and gap[i - 1] < d:
                    who[i], gap[i] = who[i - 1], gap[i - 1]
                    i -= 1
                who[i], gap[i] = f, d
            x = self._next[x]
        group[0] = e
        for k in range(m):
            group[1] = who[k]
            moved += self._share(group, 2, heat)
        if m > 1:
            group[1], group[2] = who[0], who[1]
            moved += self._share(group, 3, heat)
        return moved

    cdef int _share(self, int32_t* group, int size, double heat) noexcept nogil:
        cdef int n = 0, k, t, g, j, x, live = 1, m, best, e
        cdef int32_t[GROUP] at
        cdef double before = 0, total, u, top, floor
        cdef Hypothesis* beam = self._beam
        cdef Hypothesis* grown = self._grown
        cdef Hypothesis* swap
        cdef int32_t[BEAM] from_
        cdef int32_t[BEAM] choice
        for t in range(size):
            n += self._length(group[t])
        if n == 0 or n > MERGED:
            return 0
        for t in range(size):
            before += self._score(group[t], self._chain, self._exits_of(group[t]))
            at[t] = self._head[group[t]]
        for k in range(n):  # in order of time
            best = -1
            for t in range(size):
                if at[t] >= 0 and (best < 0 or at[t] < at[best]):
                    best = t
            self._merged[k] = at[best]
            at[best] = self._next[at[best]]
        beam[0].score = 0
        for t in range(size):
            self._begin(&beam[0].states[t], group[t])
        for k in range(n):
            x = self._merged[k]
            m = 0
            for g in range(live):
                for t in range(size):
                    e = group[t]
                    if (self._fixed[x] and self._owner[x] != e) or self._x_start[x] < self._e_start[e] or (
                        self._x_start[x] > self._e_end[e]
                    ):
                        self._scores[g * (GROUP + 1) + t] = -1e300
                        continue
                    self._settle(&beam[g].states[t], self._x_start[x])
                    self._scores[g * (GROUP + 1) + t] = beam[g].score + self._call(
                        &beam[g].states[t], e, x
                    )
                self._scores[g * (GROUP + 1) + size] = (
                    -1e300 if self._fixed[x] else beam[g].score + self._null[x]
                )
            floor = -1e299
            while m < BEAM:
                best, top = -1, floor
                for g in range(live):
                    for t in range(size + 1):
                        if self._scores[g * (GROUP + 1) + t] > top:
                            best, top = g * (GROUP + 1) + t, self._scores[g * (GROUP + 1) + t]
                if best < 0:
                    break
                self._scores[best] = -1e300
                if m == 0:
                    floor = top - HOPELESS
                from_[m], choice[m] = best // (GROUP + 1), best % (GROUP + 1)
                grown[m].score = top
                m += 1
            for g in range(m):
                for t in range(size):
                    grown[g].states[t] = beam[from_[g]].states[t]
                if choice[g] < size:
                    self._take(&grown[g].states[choice[g]], x)
                self._back[k * BEAM + g], self._chose[k * BEAM + g] = from_[g], <uint8_t> choice[g]
            live = m
            swap = beam
            beam = grown
            grown = swap
        best = 0
        for g in range(live):
            for t in range(size):
                beam[g].score += self._finish(&beam[g].states[t], group[t])
            if beam[g].score > beam[best].score:
                best = g
        if heat > 0:
            top, total = beam[best].score, 0
            for g in range(live):
                self._scores[g] = exp((beam[g].score - top) / heat)
                total += self._scores[g]
            u = self._uniform() * total
            best = live - 1
            for g in range(live):
                u -= self._scores[g]
                if u < 0:
                    best = g
                    break
        elif beam[best].score <= before + 1e-9:
            return 0
        g = best
        for k in range(n - 1, -1, -1):
            t = self._chose[k * BEAM + g]
            self._chain[k] = t
            g = self._back[k * BEAM + g]
        for t in range(size):
            self._head[group[t]] = self._last[group[t]] = -1
        for k in range(n):
            t = self._chain[k]
            self._owner[self._merged[k]] = group[t] if t < size else -1
            if t < size:
                self._append(group[t], self._merged[k])
        return 1

    cdef inline double _uniform(self) noexcept nogil:
        self._rng += 1
        return <double> (mix(self._rng) >> 11) / 9007199254740992.0

    cdef void _count(self, int x) noexcept nogil:
        cdef int k
        if self._owner[x] < 0 or self._fixed[x]:
            return
        for k in range(x * VOTES, (x + 1) * VOTES):
            if self._voter[k] == self._owner[x] or self._voter[k] < 0:
                self._voter[k] = self._owner[x]
                self._vote[k] += 1
                return

    # --- what there is to learn from --------------------------------------------------------------------------------

    def record(self):
        cdef int e, n, x
        cdef State s
        size = self._entries + self._exits
        noted, symbol, bins = np.zeros((3, size), np.uint64), np.zeros(size, np.int32), np.zeros(size, np.int32)
        self._noted, self._symbol, self._bin, self._notes = noted, symbol, bins, 0
        with nogil:
            for e in range(self._entries):
                self._begin(&s, e)
                x = self._head[e]
                while x >= 0:
                    self._settle(&s, self._x_start[x])
                    self._note(&s, self._x_op[x], self._x_start[x])
                    self._take(&s, x)
                    x = self._next[x]
                if self._e_end[e] != OPEN_END:
                    self._settle(&s, self._e_end[e])
                    self._note(&s, 1 if s.waiting else 0, self._e_end[e])
        n = self._notes
        return noted[:, :n], symbol[:n], bins[:n]

    cdef inline void _note(self, State* s, int symbol, int64_t now) noexcept nogil:
        cdef int i = self._notes
        self._noted[0, i], self._noted[1, i], self._noted[2, i] = s.event, s.recent, s.whole
        self._symbol[i], self._bin[i] = symbol, bin_of(now - s.at)
        self._notes += 1
