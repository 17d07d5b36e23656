"""Rows on timelines, each sorted by time and, where times are equal, by order of insertion.

A timeline is a treap (Seidel and Aragon, 1996) whose nodes are sorted blocks of up to `MAX_ROOM` rows, and that knows
the latest end below each block. Rows come nearly in order, so that most of them are appended to a block that is in
cache; in any other order a row costs log n. A block begins small and grows, for most lines may hold one row.

Rows are named by `ref`: the slot of a row that waits, or that of a row that left plus `LEFT`.
"""

from libc.stdint cimport INT32_MAX, INT64_MIN, int32_t, int64_t, uint8_t, uint16_t, uint64_t
from libc.string cimport memcpy, memmove

from bridge.linker._mapped cimport mapped, unmap
from bridge.linker._prefetch cimport prefetch
from bridge.linker._slot_map cimport NIL, Map, map_drop, map_get, map_remove, map_set

cdef enum:
    LEFT = 1073741824
    MAX_ROOM = 16
    SIZES = 5  # of blocks: room for 1, 2, 4, ... MAX_ROOM
    FEW_UNITS = 8192  # not worth moving anything


cdef struct Block:
    uint64_t line
    int64_t most  # latest end in this block and those below
    int32_t l
    int32_t r
    int32_t up
    uint8_t n  # 0 where the block is free
    uint8_t room
    uint16_t priority
    # behind it: begins int64[room], ends int64[room], refs int32[room]


cdef struct Timelines:
    Map tops  # line -> its topmost block
    uint64_t* units  # blocks; named by their first unit
    int64_t capacity
    int64_t used
    int64_t unused  # units of it in blocks that are free
    int64_t least_unused  # the fewest of late
    int32_t free[SIZES]
    int32_t* of_row  # block of each waiting row, NIL for none
    int32_t* of_left  # block of each row that left, NIL for none
    uint64_t random
    bint failed  # memory ran out


cdef inline Block* block(Timelines* t, int32_t x) noexcept nogil:
    return <Block*> (t.units + x)


cdef inline int64_t* begins(Block* b) noexcept nogil:
    return <int64_t*> (b + 1)


cdef inline int64_t* ends(Block* b) noexcept nogil:
    return begins(b) + b.room


cdef inline int32_t* refs(Block* b) noexcept nogil:
    return <int32_t*> (ends(b) + b.room)


cdef inline int32_t* where(Timelines* t, int32_t ref) noexcept nogil:
    return &t.of_left[ref - LEFT] if ref >= LEFT else &t.of_row[ref]


cdef inline void line_prefetch(Timelines* t, uint64_t line) noexcept nogil:
    """Have the top block of a line, whose place in the map is in cache, in cache soon."""
    cdef int32_t x = map_get(&t.tops, line) if line else NIL
    if x != NIL:
        block_prefetch(t, x)


cdef inline void block_prefetch(Timelines* t, int32_t x) noexcept nogil:
    prefetch(t.units + x)
    prefetch(t.units + x + 8)


cdef inline void refs_prefetch(Timelines* t, int32_t x) noexcept nogil:
    """The same for the refs of a block that is in cache."""
    prefetch(refs(block(t, x)))


# --- memory ---------------------------------------------------------------------------------------------------------


cdef inline int size_of(int room) noexcept nogil:
    """Which of the sizes has this room."""
    cdef int size = 0
    while 1 << size < room:
        size += 1
    return size


cdef inline int units_of(int room) noexcept nogil:
    """What a block of this room takes."""
    return 4 + 2 * room + (room + 1) // 2


cdef inline bint has_units(Timelines* t, int64_t capacity) noexcept nogil:
    """Make room for so many units, more or fewer than there are; whether there is."""
    cdef void* units = mapped(t.units, t.capacity * sizeof(uint64_t), capacity * sizeof(uint64_t))
    if units == NULL:
        return False
    t.units, t.capacity = <uint64_t*> units, capacity
    return True


cdef inline void lines_drop(Timelines* t) noexcept nogil:
    """Give back the memory of timelines; that of rows is their owner's."""
    map_drop(&t.tops)
    unmap(t.units, t.capacity * sizeof(uint64_t))


cdef inline int32_t new_block(Timelines* t, uint64_t line, int room) noexcept nogil:
    """An empty block that hangs nowhere; NIL when memory ran out. Pointers to blocks end here."""
    cdef int size = size_of(room), units = units_of(room)
    cdef int32_t x = t.free[size]
    cdef int64_t capacity
    if x != NIL:
        t.free[size] = block(t, x).l
        t.unused -= units
        t.least_unused = min(t.least_unused, t.unused)
    else:
        if t.used + units > t.capacity:
            capacity = t.capacity + t.capacity // 8 + 8192
            if capacity >= INT32_MAX or not has_units(t, capacity):
                t.failed = True
                return NIL
        x = <int32_t> t.used
        t.used += units
    t.random ^= t.random << 13  # xorshift (Marsaglia, 2003)
    t.random ^= t.random >> 7
    t.random ^= t.random << 17
    block(t, x)[0] = Block(line, INT64_MIN, NIL, NIL, NIL, 0, room, <uint16_t> (t.random >> 32))
    return x


cdef inline void free_block(Timelines* t, int32_t x) noexcept nogil:
    cdef Block* b = block(t, x)
    cdef int size = size_of(b.room)
    b.n, b.l = 0, t.free[size]
    t.free[size] = x
    t.unused += units_of(b.room)


cdef inline void moved(Timelines* t, int32_t x, int start) noexcept nogil:
    """Note that the rows of a block from a place on are in this block now."""
    cdef int32_t* ref = refs(block(t, x))
    cdef int i
    for i in range(start, block(t, x).n):
        where(t, ref[i])[0] = x


cdef inline int32_t resized(Timelines* t, int32_t x, int room) noexcept nogil:
    """The same block with other room, under another name; NIL when memory ran out."""
    cdef int32_t y = new_block(t, block(t, x).line, room)
    cdef Block* a
    cdef Block* b
    if y == NIL:
        return NIL
    a, b = block(t, x), block(t, y)
    b.most, b.l, b.r, b.n, b.priority = a.most, a.l, a.r, a.n, a.priority
    memcpy(begins(b), begins(a), a.n * sizeof(int64_t))
    memcpy(ends(b), ends(a), a.n * sizeof(int64_t))
    memcpy(refs(b), refs(a), a.n * sizeof(int32_t))
    b.up = a.up
    renamed(t, y, x)
    free_block(t, x)
    return y


# --- the tree of blocks ---------------------------------------------------------------------------------------------


cdef inline void hang(Timelines* t, int32_t x, int32_t instead, int32_t g) noexcept nogil:
    """Put a block (or NIL) in another's place below g, at the top of its line where g is NIL."""
    if x != NIL:
        block(t, x).up = g
    if g == NIL:
        if x == NIL:
            map_remove(&t.tops, block(t, instead).line)
        else:
            map_set(&t.tops, block(t, x).line, x)
    elif block(t, g).l == instead:
        block(t, g).l = x
    else:
        block(t, g).r = x


cdef inline bint refresh(Timelines* t, int32_t p) noexcept nogil:
    """Bring a block's latest end up to date with its rows and the blocks below; whether it changed."""
    cdef Block* b = block(t, p)
    cdef int64_t* end = ends(b)
    cdef int64_t most = INT64_MIN
    cdef int i
    for i in range(b.n):
        most = max(most, end[i])
    if b.l != NIL:
        most = max(most, block(t, b.l).most)
    if b.r != NIL:
        most = max(most, block(t, b.r).most)
    if most == b.most:
        return False
    b.most = most
    return True


cdef inline void lift(Timelines* t, int32_t p, int64_t end) noexcept nogil:
    """Note an end in a block and those above it."""
    while p != NIL and block(t, p).most < end:
        block(t, p).most = end
        p = block(t, p).up


cdef inline void rotate(Timelines* t, int32_t x) noexcept nogil:
    """Lift a block above its parent."""
    cdef int32_t p = block(t, x).up, g = block(t, block(t, x).up).up, down
    if block(t, p).l == x:
        down = block(t, x).r
        block(t, p).l = down
        block(t, x).r = p
    else:
        down = block(t, x).l
        block(t, p).r = down
        block(t, x).l = p
    if down != NIL:
        block(t, down).up = p
    block(t, p).up = x
    hang(t, x, p, g)
    block(t, x).most = block(t, p).most
    refresh(t, p)


cdef inline void link_after(Timelines* t, int32_t x, int32_t y) noexcept nogil:
    """Hang a block that hangs nowhere right behind another."""
    cdef int32_t p = x
    if block(t, x).r == NIL:
        block(t, x).r = y
    else:
        p = block(t, x).r
        while block(t, p).l != NIL:
            p = block(t, p).l
        block(t, p).l = y
    block(t, y).up = p
    lift(t, p, block(t, y).most)
    while block(t, y).up != NIL and block(t, y).priority > block(t, block(t, y).up).priority:
        rotate(t, y)


cdef inline void unlink(Timelines* t, int32_t x) noexcept nogil:
    """Take an empty block out of its line."""
    cdef int32_t p
    while block(t, x).l != NIL and block(t, x).r != NIL:
        if block(t, block(t, x).l).priority > block(t, block(t, x).r).priority:
            rotate(t, block(t, x).l)
        else:
            rotate(t, block(t, x).r)
    p = block(t, x).up
    hang(t, block(t, x).r if block(t, x).l == NIL else block(t, x).l, x, p)
    while p != NIL and refresh(t, p):
        p = block(t, p).up
    free_block(t, x)


cdef inline void compact(Timelines* t) noexcept nogil:
    """Move blocks together over those that are free: most lines grow, and what they were in is too small for others.

    Names of blocks end here.
    """
    cdef int64_t x = 0, y = 0, capacity
    cdef int units, size
    while x < t.used:
        units = units_of(block(t, <int32_t> x).room)
        if block(t, <int32_t> x).n:
            if x != y:
                memmove(t.units + y, t.units + x, units * sizeof(uint64_t))
                renamed(t, <int32_t> y, <int32_t> x)
            y += units
        x += units
    t.used, t.unused, t.least_unused = y, 0, 0
    for size in range(SIZES):
        t.free[size] = NIL
    capacity = t.used + t.used // 8 + 8192
    if capacity < t.capacity:
        has_units(t, capacity)


cdef inline void renamed(Timelines* t, int32_t x, int32_t old) noexcept nogil:
    """Have all that name a block by its old name do so by its new one."""
    cdef Block* b = block(t, x)
    hang(t, x, old, b.up)
    if b.l != NIL:
        block(t, b.l).up = x
    if b.r != NIL:
        block(t, b.r).up = x
    moved(t, x, 0)


cdef inline bint was_sparse(Timelines* t) noexcept nogil:
    """Whether an eighth of what blocks take was free all the time since this was asked last: what is free right after
    rows were forgotten is soon filled again."""
    cdef int64_t least = t.least_unused
    t.least_unused = t.unused
    return least > FEW_UNITS and 8 * least > t.used


# --- rows -----------------------------------------------------------------------------------------------------------


cdef inline int behind(Block* b, int64_t at) noexcept nogil:
    """How many rows of a block began at or before a time."""
    cdef int i = b.n
    cdef int64_t* begin = begins(b)
    while i > 0 and begin[i - 1] > at:
        i -= 1
    return i


cdef inline void insert(Timelines* t, uint64_t line, int64_t at, int64_t end, int32_t ref) noexcept nogil:
    """Put a row on a line; room for the line must have been reserved."""
    cdef int32_t p = map_get(&t.tops, line), x = NIL, least = NIL
    cdef int place
    if p == NIL:
        x = new_block(t, line, 1)
        if x != NIL:
            map_set(&t.tops, line, x)
            put(t, x, 0, at, end, ref)
        return
    while p != NIL:
        least = p
        if begins(block(t, p))[0] <= at:
            x = p
            p = block(t, p).r
        else:
            p = block(t, p).l
    if x == NIL:
        x = least
    place = behind(block(t, x), at)
    if block(t, x).n == block(t, x).room:
        x = with_room(t, x, &place)
    if x != NIL:
        put(t, x, place, at, end, ref)


cdef inline void put(Timelines* t, int32_t x, int place, int64_t at, int64_t end, int32_t ref) noexcept nogil:
    cdef Block* b = block(t, x)
    cdef int64_t* begin = begins(b) + place
    cdef int64_t* e = ends(b) + place
    cdef int32_t* r = refs(b) + place
    cdef int after = b.n - place
    if after:
        memmove(begin + 1, begin, after * sizeof(int64_t))
        memmove(e + 1, e, after * sizeof(int64_t))
        memmove(r + 1, r, after * sizeof(int32_t))
    begin[0], e[0], r[0] = at, end, ref
    b.n += 1
    where(t, ref)[0] = x
    lift(t, x, end)


cdef inline int32_t with_room(Timelines* t, int32_t x, int* place) noexcept nogil:
    """A block with room for a row that belongs at this place of a full one; NIL when memory ran out."""
    cdef int32_t y
    cdef int half = MAX_ROOM // 2
    cdef Block* a
    cdef Block* b
    if block(t, x).room < MAX_ROOM:
        return resized(t, x, 2 * block(t, x).room)
    if place[0] == MAX_ROOM:  # rows that come in order fill blocks
        y = new_block(t, block(t, x).line, half)
        if y != NIL:
            place[0] = 0
            link_after(t, x, y)
        return y
    y = new_block(t, block(t, x).line, MAX_ROOM)
    if y == NIL:
        return NIL
    a, b = block(t, x), block(t, y)
    a.n = half
    b.n = MAX_ROOM - half
    memcpy(begins(b), begins(a) + half, b.n * sizeof(int64_t))
    memcpy(ends(b), ends(a) + half, b.n * sizeof(int64_t))
    memcpy(refs(b), refs(a) + half, b.n * sizeof(int32_t))
    moved(t, y, 0)
    refresh(t, y)
    link_after(t, x, y)
    if place[0] <= half:
        return x
    place[0] -= half
    return y


cdef struct Place:
    uint64_t line
    int64_t at
    int64_t end


cdef inline int index_of(Block* b, int32_t ref) noexcept nogil:
    cdef int i = 0
    while refs(b)[i] != ref:
        i += 1
    return i


cdef inline Place place(Timelines* t, int32_t ref) noexcept nogil:
    """Where a row, which must be on a line, stands."""
    cdef Block* b = block(t, where(t, ref)[0])
    cdef int i = index_of(b, ref)
    return Place(b.line, begins(b)[i], ends(b)[i])


cdef inline void rename(Timelines* t, int32_t ref, int32_t new) noexcept nogil:
    """Let a row, which must be on a line, go by another ref."""
    cdef int32_t x = where(t, ref)[0]
    refs(block(t, x))[index_of(block(t, x), ref)] = new
    where(t, ref)[0] = NIL
    where(t, new)[0] = x


cdef inline void remove(Timelines* t, int32_t ref) noexcept nogil:
    """Take a row, which must be on one, off its line."""
    cdef int32_t x = where(t, ref)[0], smaller
    cdef Block* b = block(t, x)
    cdef int i = index_of(b, ref), after = b.n - i - 1
    cdef int64_t end = ends(b)[i]
    where(t, ref)[0] = NIL
    b.n -= 1
    if b.n == 0:
        unlink(t, x)
        return
    memmove(begins(b) + i, begins(b) + i + 1, after * sizeof(int64_t))
    memmove(ends(b) + i, ends(b) + i + 1, after * sizeof(int64_t))
    memmove(refs(b) + i, refs(b) + i + 1, after * sizeof(int32_t))
    if b.n * 8 <= b.room:
        smaller = resized(t, x, b.room // 4)
        if smaller != NIL:
            x = smaller
    if end >= block(t, x).most:
        while x != NIL and refresh(t, x):
            x = block(t, x).up
