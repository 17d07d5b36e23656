# cython: language_level=3, boundscheck=True, wraparound=False, cdivision=True
"""The compiled twin of bridge.linker.thread_order.begun_plain: entries are dealt out to their lines and sorted there."""

from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, qsort

from bridge.linker._slot_map cimport NIL, Map, map_add, map_drop, map_get, map_prefetch, map_reserve

import numpy as np

cdef enum:
    AHEAD = 16
    MOST = 2147483646  # rows

# Keys come from what senders write; no answer depends on where one goes.
cdef uint64_t SEED = (<uint64_t> (hash("bridge.linker.thread_order") & 0xFFFFFFFFFFFFFFFF)) | 1


cdef struct Item:
    int64_t at
    uint64_t span_id
    uint64_t digest
    int64_t row


cdef int compared(const void* a, const void* b) noexcept nogil:
    cdef const Item* x = <const Item*> a
    cdef const Item* y = <const Item*> b
    if x.at != y.at:
        return -1 if x.at < y.at else 1
    if x.span_id != y.span_id:
        return -1 if x.span_id < y.span_id else 1
    if x.digest != y.digest:
        return -1 if x.digest < y.digest else 1
    return -1 if x.row < y.row else 1


cdef void sort(Item* items, int64_t n) noexcept nogil:
    """Most lines come in order."""
    cdef int64_t i
    for i in range(1, n):
        if compared(&items[i - 1], &items[i]) > 0:
            qsort(items, n, sizeof(Item), compared)
            return


cdef int64_t begun_by(Item* items, int64_t low, int64_t high, int64_t at) noexcept nogil:
    """Position of the last item between low and high that is not after a time, low - 1 where there is none."""
    cdef int64_t middle
    while low < high:
        middle = (low + high) // 2
        if items[middle].at <= at:
            low = middle + 1
        else:
            high = middle
    return low - 1


def begun(
    const uint64_t[::1] lines,
    const int64_t[::1] at_ns,
    const uint64_t[::1] span_id,
    const uint64_t[::1] digest,
    const uint64_t[::1] exit_lines,
    const int64_t[::1] exit_at,
):
    cdef Py_ssize_t n = lines.shape[0], m = exit_lines.shape[0], i
    cdef int64_t groups = 0, g
    cdef Map number = Map(NULL, 0, 0, SEED)
    cdef Item* items = NULL
    cdef int64_t* starts = NULL  # where each line's items start; while they are dealt out, where the next one goes
    if n > MOST:
        raise ValueError("too many rows")
    if at_ns.shape[0] != n or span_id.shape[0] != n or digest.shape[0] != n or exit_at.shape[0] != m:
        raise ValueError("columns of unequal length")
    order_of, low_of, place_of = np.empty(n, np.int64), np.zeros(m, np.int64), np.full(m, -1, np.int64)
    cdef int64_t[::1] order = order_of, low = low_of, place = place_of
    cdef int64_t[::1] group = np.empty(n, np.int64)
    try:
        map_reserve(&number, n)
        items = <Item*> malloc((n + 1) * sizeof(Item))
        starts = <int64_t*> calloc(n + 2, sizeof(int64_t))
        if items == NULL or starts == NULL:
            raise MemoryError
        with nogil:
            for i in range(n):
                if i + AHEAD < n:
                    map_prefetch(&number, lines[i + AHEAD])
                g = map_add(&number, lines[i], <int> groups)
                if g == groups:
                    groups += 1
                group[i] = g
                starts[g + 2] += 1
            for g in range(groups):
                starts[g + 2] += starts[g + 1]
            for i in range(n):
                items[starts[group[i] + 1]] = Item(at_ns[i], span_id[i], digest[i], i)
                starts[group[i] + 1] += 1
            for g in range(groups):
                sort(items + starts[g], starts[g + 1] - starts[g])
            for i in range(n):
                order[i] = items[i].row
            for i in range(m):
                if i + AHEAD < m:
                    map_prefetch(&number, exit_lines[i + AHEAD])
                g = map_get(&number, exit_lines[i])
                if g != NIL:
                    low[i] = starts[g]
                    place[i] = begun_by(items, starts[g], starts[g + 1], exit_at[i])
    finally:
        map_drop(&number)
        free(items)
        free(starts)
    return order_of, low_of, place_of
