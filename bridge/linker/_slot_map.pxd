"""A map from 64-bit key to slot: open addressing, linear probing, no tombstones. Key 0 is no key.

Keys come from what senders write, so whoever knew where a key goes could pile keys up in one place: each map is given
a seed that is the process's own, and no answer depends on it.
"""

from libc.stdint cimport int32_t, uint64_t
from libc.stdlib cimport calloc, free

from bridge.linker._mapped cimport mapped, unmap
from bridge.linker._prefetch cimport prefetch

cdef enum:
    NIL = -1
    MAPPED_FROM = 1048576  # bytes: maps that last for one call are mostly smaller, and to map memory takes longer


cdef packed struct Cell:
    uint64_t key
    int32_t value


cdef struct Map:
    Cell* cells
    uint64_t capacity  # below 2**32
    uint64_t used
    uint64_t seed  # odd


cdef inline uint64_t home(uint64_t key, uint64_t seed, uint64_t capacity) noexcept nogil:
    """Where a key belongs in a table of this size, which is below 2**32: multiply-shift hashing (Dietzfelbinger et al.,
    1997), its upper half scaled instead of cut to a power of two (Lemire, 2019)."""
    return (key * seed >> 32) * capacity >> 32


cdef inline uint64_t behind_cell(uint64_t i, uint64_t capacity) noexcept nogil:
    return i + 1 if i + 1 < capacity else 0


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
        i = behind_cell(i, m.capacity)
    return NIL


cdef inline int32_t map_add(Map* m, uint64_t key, int32_t value) noexcept nogil:
    """The value of the key, which is this one if it had none. Room must have been reserved."""
    cdef uint64_t i = home(key, m.seed, m.capacity)
    while m.cells[i].key != 0:
        if m.cells[i].key == key:
            return m.cells[i].value
        i = behind_cell(i, m.capacity)
    m.used += 1
    m.cells[i] = Cell(key, value)
    return value


cdef inline void map_set(Map* m, uint64_t key, int32_t value) noexcept nogil:
    """Room must have been reserved."""
    cdef uint64_t i = home(key, m.seed, m.capacity)
    while m.cells[i].key != 0 and m.cells[i].key != key:
        i = behind_cell(i, m.capacity)
    if m.cells[i].key == 0:
        m.used += 1
    m.cells[i] = Cell(key, value)


cdef inline void map_remove(Map* m, uint64_t key) noexcept nogil:
    cdef uint64_t i, j, k
    if m.capacity == 0:
        return
    i = home(key, m.seed, m.capacity)
    while m.cells[i].key != key:
        if m.cells[i].key == 0:
            return
        i = behind_cell(i, m.capacity)
    j = i
    while True:  # close the gap, so that no search stops at it
        j = behind_cell(j, m.capacity)
        if m.cells[j].key == 0:
            break
        k = home(m.cells[j].key, m.seed, m.capacity)
        if (j - k if k <= j else j + m.capacity - k) >= (j - i if i <= j else j + m.capacity - i):
            m.cells[i] = m.cells[j]
            i = j
    m.cells[i].key = 0
    m.used -= 1


cdef inline int map_reserve(Map* m, uint64_t more) except -1:
    """Room for this many more keys, in a table of which three eighths at least stay empty."""
    cdef uint64_t least = (m.used + more) * 8 // 5 + 1, capacity, i
    cdef Map wider
    if least <= m.capacity:
        return 0
    capacity = least + least // 4 + 64
    if capacity >= <uint64_t> 1 << 32:
        raise MemoryError
    if capacity * sizeof(Cell) < MAPPED_FROM:
        wider.cells = <Cell*> calloc(capacity, sizeof(Cell))
    else:
        wider.cells = <Cell*> mapped(NULL, 0, capacity * sizeof(Cell))
    if wider.cells == NULL:
        raise MemoryError
    wider.capacity, wider.used, wider.seed = capacity, 0, m.seed
    for i in range(m.capacity):
        if m.cells[i].key != 0:
            map_set(&wider, m.cells[i].key, m.cells[i].value)
    map_drop(m)
    m[0] = wider
    return 0


cdef inline void map_drop(Map* m) noexcept nogil:
    """Give its memory back."""
    if m.capacity * sizeof(Cell) < MAPPED_FROM:
        free(m.cells)
    else:
        unmap(m.cells, m.capacity * sizeof(Cell))
    m.cells, m.capacity, m.used = NULL, 0, 0
