# cython: language_level=3, boundscheck=True, wraparound=False, cdivision=True
"""The compiled twin of bridge.linker.joining: rows with equal keys, by hash join.

The table of keys is larger than the cache as soon as many rows are linked at once: places in it are asked for some
rows ahead.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t
from libc.stdlib cimport calloc, free

from bridge.linker._prefetch cimport prefetch
from bridge.linker._slot_map cimport home

import numpy as np

cdef enum:
    AHEAD = 16
    MOST = 2147483646  # rows

# Keys come from what senders write; no answer depends on where one goes.
cdef uint64_t SEED = (<uint64_t> (hash("bridge.linker.joining") & 0xFFFFFFFFFFFFFFFF)) | 1


cdef struct Cell:
    uint64_t key
    int32_t first  # the first row of this key, counted from 1; 0 where the cell is empty
    int32_t several


cdef uint64_t capacity_for(Py_ssize_t n) except 0:
    cdef uint64_t capacity = 16
    if n > MOST:
        raise ValueError("too many rows")
    while capacity * 2 < <uint64_t> n * 3:
        capacity *= 2
    return capacity


cdef inline Cell* cell_of(Cell* cells, uint64_t capacity, uint64_t key) noexcept nogil:
    """The cell of a key, or the empty one where it belongs."""
    cdef uint64_t i = home(key, SEED, capacity)
    while cells[i].first != 0 and cells[i].key != key:
        i = (i + 1) & (capacity - 1)
    return &cells[i]


cdef Cell* table_of(const uint64_t[::1] keys, uint64_t capacity) except NULL:
    """A table of these keys, which the caller frees."""
    cdef Py_ssize_t n = keys.shape[0], i
    cdef Cell* cells = <Cell*> calloc(capacity, sizeof(Cell))
    cdef Cell* cell
    if cells == NULL:
        raise MemoryError
    with nogil:
        for i in range(n):
            if i + AHEAD < n:
                prefetch(&cells[home(keys[i + AHEAD], SEED, capacity)])
            cell = cell_of(cells, capacity, keys[i])
            if cell.first == 0:
                cell.key, cell.first = keys[i], <int32_t> (i + 1)
            else:
                cell.several = 1
    return cells


def match(const uint64_t[::1] candidates, const uint64_t[::1] keys):
    cdef Py_ssize_t n = keys.shape[0], i
    cdef uint64_t capacity = capacity_for(candidates.shape[0])
    cdef Cell* cells
    cdef Cell* cell
    found, several = np.empty(n, np.int64), np.empty(n, np.bool_)
    cdef int64_t[::1] position = found
    cdef uint8_t[::1] many = several.view(np.uint8)
    cells = table_of(candidates, capacity)
    with nogil:
        for i in range(n):
            if i + AHEAD < n:
                prefetch(&cells[home(keys[i + AHEAD], SEED, capacity)])
            cell = cell_of(cells, capacity, keys[i])
            position[i] = cell.first - 1
            many[i] = cell.several
        free(cells)
    return found, several


def repeated(const uint64_t[::1] keys):
    cdef Py_ssize_t n = keys.shape[0], i
    cdef uint64_t capacity = capacity_for(n)
    cdef Cell* cells = table_of(keys, capacity)
    cdef Cell* cell
    cdef bint any = False
    cdef uint64_t at
    cdef uint8_t[::1] mark
    with nogil:
        for at in range(capacity):
            if cells[at].several:
                any = True
                break
    try:
        answer = np.zeros(n, np.bool_)
        mark = answer.view(np.uint8)
        if any:
            with nogil:
                for i in range(n):
                    mark[i] = cell_of(cells, capacity, keys[i]).several
    finally:
        free(cells)
    return answer
