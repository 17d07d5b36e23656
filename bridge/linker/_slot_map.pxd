"""A map from 64-bit key to slot: open addressing, linear probing, no tombstones. Key 0 is no key.

Keys come from what senders write, so whoever knew where a key goes could pile keys up in one place: each map is given
a seed that is the process's own, and no answer depends on it.
"""

from libc.stdint cimport int32_t, uint64_t
from libc.stdlib cimport calloc, free

from bridge.linker._prefetch cimport prefetch

cdef enum:
    NIL = -1


cdef packed struct Cell:
    uint64_t key
    int32_t value


cdef struct Map:
    Cell* cells
    uint64_t capacity  # a power of two, or 0
    uint64_t used
    uint64_t seed  # odd


cdef inline uint64_t home(uint64_t key, uint64_t seed, uint64_t capacity) noexcept nogil:
    """Where a key belongs in a table of this size (multiply-shift hashing, Dietzfelbinger et al., 1997)."""
    return (key * seed >> 32) & (capacity - 1)


cdef inline void map_prefetch(Map* m, uint64_t key) noexcept nogil:
    """Have the place of a key in cache soon."""
    if key != 0 and m.capacity != 0:
        prefetch(&m.cells[home(key, m.seed, m.capacity)])


cdef inline int32_t map_get(Map* m, uint64_t key) noexcept nogil:
    cdef uint64_t i
    if m.capacity == 0:
        return NIL
    i = home(key, m.seed, m.capacity)
    while m.cells[i].key != 0:
        if m.cells[i].key == key:
            return m.cells[i].value
        i = (i + 1) & (m.capacity - 1)
    return NIL


cdef inline int32_t map_add(Map* m, uint64_t key, int32_t value) noexcept nogil:
    """The value of the key, which is this one if it had none. Room must have been reserved."""
    cdef uint64_t i = home(key, m.seed, m.capacity)
    while m.cells[i].key != 0:
        if m.cells[i].key == key:
            return m.cells[i].value
        i = (i + 1) & (m.capacity - 1)
    m.used += 1
    m.cells[i] = Cell(key, value)
    return value


cdef inline void map_set(Map* m, uint64_t key, int32_t value) noexcept nogil:
    """Room must have been reserved."""
    cdef uint64_t i = home(key, m.seed, m.capacity)
    while m.cells[i].key != 0 and m.cells[i].key != key:
        i = (i + 1) & (m.capacity - 1)
    if m.cells[i].key == 0:
        m.used += 1
    m.cells[i] = Cell(key, value)


cdef inline void map_remove(Map* m, uint64_t key) noexcept nogil:
    cdef uint64_t mask = m.capacity - 1, i, j
    if m.capacity == 0:
        return
    i = home(key, m.seed, m.capacity)
    while m.cells[i].key != key:
        if m.cells[i].key == 0:
            return
        i = (i + 1) & mask
    j = i
    while True:  # close the gap, so that no search stops at it
        j = (j + 1) & mask
        if m.cells[j].key == 0:
            break
        if ((j - home(m.cells[j].key, m.seed, m.capacity)) & mask) >= ((j - i) & mask):
            m.cells[i] = m.cells[j]
            i = j
    m.cells[i].key = 0
    m.used -= 1


cdef inline int map_reserve(Map* m, uint64_t more) except -1:
    """Room for this many more keys."""
    cdef uint64_t capacity = 64, i
    cdef Map wider
    if m.capacity and (m.used + more) * 10 <= m.capacity * 7:
        return 0
    while capacity * 7 < (m.used + more) * 10:
        capacity *= 2
    wider.cells = <Cell*> calloc(capacity, sizeof(Cell))
    if wider.cells == NULL:
        raise MemoryError
    wider.capacity, wider.used, wider.seed = capacity, 0, m.seed
    for i in range(m.capacity):
        if m.cells[i].key != 0:
            map_set(&wider, m.cells[i].key, m.cells[i].value)
    free(m.cells)
    m[0] = wider
    return 0
