"""Looking for rows on timelines: what began by a time and was still open then, and what began within a stretch of time.

Each look-up goes down the tree of blocks once or twice, passing by every part of it that had ended.
"""

from libc.stdint cimport int32_t, int64_t, uint64_t

from bridge.linker._prefetch cimport prefetch
from bridge.linker._slot_map cimport NIL, map_get, map_prefetch
from bridge.linker._timeline cimport Block, Timelines, begins, behind, block, block_prefetch, ends, refs

cdef enum:
    GROUP = 8  # rows that wait for memory side by side


cdef inline void descend(Timelines* t, const uint64_t* lines, const int64_t* at, int n) noexcept nogil:
    """Have what `ties` reads for up to GROUP lines (0: none) and times in cache.

    By itself each look-up waits for memory at every block on its way; here all of them take a step, then all wait.
    """
    cdef int32_t[GROUP] on
    cdef int32_t x
    cdef int i, going = n
    for i in range(n):
        map_prefetch(&t.tops, lines[i])
    for i in range(n):
        on[i] = map_get(&t.tops, lines[i]) if lines[i] else NIL
        if on[i] != NIL:
            block_prefetch(t, on[i])
    while going:
        going = 0
        for i in range(n):
            if on[i] == NIL:
                continue
            x = block(t, on[i]).r if begins(block(t, on[i]))[0] <= at[i] else block(t, on[i]).l
            if x == NIL:
                prefetch(ends(block(t, on[i])))
                prefetch(refs(block(t, on[i])))
            else:
                block_prefetch(t, x)
                going += 1
            on[i] = x


cdef struct Spot:
    int32_t x  # block, NIL behind the last row
    int i


cdef inline Spot first_at(Timelines* t, uint64_t line, int64_t at) noexcept nogil:
    """Earliest row of a line at or after a time."""
    cdef int32_t p = map_get(&t.tops, line)
    cdef Spot found = Spot(NIL, 0)
    cdef Block* b
    while p != NIL:
        b = block(t, p)
        if begins(b)[b.n - 1] >= at:
            found.x = p
            p = b.l
        else:
            p = b.r
    if found.x != NIL:
        b = block(t, found.x)
        while begins(b)[found.i] < at:
            found.i += 1
    return found


cdef inline Spot following(Timelines* t, Spot spot) noexcept nogil:
    """The row after one."""
    if spot.i + 1 < block(t, spot.x).n:
        return Spot(spot.x, spot.i + 1)
    if block(t, spot.x).r == NIL:
        return Spot(above(t, spot.x), 0)
    spot.x = block(t, spot.x).r
    while block(t, spot.x).l != NIL:
        spot.x = block(t, spot.x).l
    return Spot(spot.x, 0)


cdef inline int32_t above(Timelines* t, int32_t x) noexcept nogil:
    """The nearest block above one that comes after it."""
    cdef int32_t p = block(t, x).up
    while p != NIL and block(t, p).r == x:
        x = p
        p = block(t, p).up
    return p


cdef inline Spot latest(Timelines* t, uint64_t line, int64_t at) noexcept nogil:
    """Latest row of a line that began at or before a time and had not ended then."""
    cdef int32_t p = map_get(&t.tops, line), x = NIL, child
    cdef int i
    while p != NIL:
        if begins(block(t, p))[0] <= at:
            x = p
            p = block(t, p).r
        else:
            p = block(t, p).l
    if x == NIL:
        return Spot(NIL, 0)
    i = last_open(block(t, x), behind(block(t, x), at), at)
    while i < 0:
        p = block(t, x).l
        if p != NIL and block(t, p).most >= at:
            x = p
            while block(t, x).r != NIL and block(t, block(t, x).r).most >= at:
                x = block(t, x).r
        else:
            child = x
            x = block(t, x).up
            while x != NIL and block(t, x).l == child:
                child = x
                x = block(t, x).up
            if x == NIL:
                return Spot(NIL, 0)
        i = last_open(block(t, x), block(t, x).n, at)
    return Spot(x, i)


cdef inline int last_open(Block* b, int i, int64_t at) noexcept nogil:
    """Place of the last of the first i rows that had not ended at a time, -1 if all had."""
    i -= 1
    while i >= 0 and ends(b)[i] < at:
        i -= 1
    return i


cdef inline Spot next_open(Timelines* t, Spot spot, int64_t at) noexcept nogil:
    """The first row, from one on, that had not ended at a time."""
    cdef int32_t x = spot.x, p
    cdef int i = spot.i
    while x != NIL:
        while i < block(t, x).n:
            if ends(block(t, x))[i] >= at:
                return Spot(x, i)
            i += 1
        i = 0
        p = block(t, x).r
        if p != NIL and block(t, p).most >= at:
            x = p
            while block(t, x).l != NIL and block(t, block(t, x).l).most >= at:
                x = block(t, x).l
        else:
            x = above(t, x)
    return Spot(NIL, 0)


cdef inline int ties(Timelines* t, uint64_t line, int64_t at, int32_t* found, int most) noexcept nogil:
    """Write the refs of the latest rows that `latest` would find and that began at once, up to `most`; how many."""
    cdef Spot spot = latest(t, line, at)
    cdef int n = 0
    cdef int64_t began
    if spot.x == NIL:
        return 0
    began = begins(block(t, spot.x))[spot.i]
    if spot.i == 0 or begins(block(t, spot.x))[spot.i - 1] == began:
        spot = next_open(t, first_at(t, line, began), at)
    while n < most and spot.x != NIL and begins(block(t, spot.x))[spot.i] == began:
        found[n] = refs(block(t, spot.x))[spot.i]
        n += 1
        spot = next_open(t, following(t, spot), at)
    return n


cdef inline int between(
    Timelines* t, uint64_t line, int64_t low, int64_t high, int32_t* found, int most
) noexcept nogil:
    """Write the refs of rows that began within these times, earliest first, up to `most`; how many."""
    cdef Spot spot = first_at(t, line, low)
    cdef int n = 0
    while n < most and spot.x != NIL and begins(block(t, spot.x))[spot.i] <= high:
        found[n] = refs(block(t, spot.x))[spot.i]
        n += 1
        spot = following(t, spot)
    return n
