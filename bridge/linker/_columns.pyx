# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The compiled twin of bridge.linker.narrow: numbers between a narrow column and wide arrays.

Arrays come as their bytes, with the width of their numbers, so that one function serves every pair of widths. Slots are
checked against the column before anything is read or written.
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

ctypedef fused narrow_t:
    uint8_t
    uint16_t
    uint32_t
    uint64_t

ctypedef fused wide_t:
    uint8_t
    uint16_t
    uint32_t
    uint64_t


cdef int _check(const int32_t[::1] slots, Py_ssize_t below, Py_ssize_t n) except -1:
    cdef Py_ssize_t i
    cdef uint32_t top = 0
    if slots.shape[0] != n:
        raise ValueError("columns of unequal length")
    for i in range(n):
        top = max(top, <uint32_t> slots[i])  # a negative one is above all others
    if n and top >= <uint64_t> below:
        raise IndexError(f"a slot is not between 0 and {below}")
    return 0


cdef void _read(narrow_t* kept, const int32_t[::1] slots, wide_t* values) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(slots.shape[0]):
        values[i] = <wide_t> kept[slots[i]]


cdef void _write(narrow_t* kept, const int32_t[::1] slots, wide_t* values) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(slots.shape[0]):
        kept[slots[i]] = <narrow_t> values[i]


cdef int _read_wide(narrow_t* kept, const int32_t[::1] slots, uint8_t* values, int width) except -1:
    if width == 8:
        _read(kept, slots, <uint64_t*> values)
    elif width == 4:
        _read(kept, slots, <uint32_t*> values)
    elif width == 2:
        _read(kept, slots, <uint16_t*> values)
    else:
        _read(kept, slots, values)
    return 0


cdef int _write_wide(narrow_t* kept, const int32_t[::1] slots, uint8_t* values, int width) except -1:
    if width == 8:
        _write(kept, slots, <uint64_t*> values)
    elif width == 4:
        _write(kept, slots, <uint32_t*> values)
    elif width == 2:
        _write(kept, slots, <uint16_t*> values)
    else:
        _write(kept, slots, values)
    return 0


def gather(const uint8_t[::1] kept, int width, const int32_t[::1] slots, uint8_t[::1] values, int values_width):
    cdef Py_ssize_t n = values.shape[0] // values_width
    cdef uint8_t* source
    _check(slots, kept.shape[0] // width, n)
    if n == 0:
        return
    source = <uint8_t*> &kept[0]
    if width == 8:
        _read_wide(<uint64_t*> source, slots, &values[0], values_width)
    elif width == 4:
        _read_wide(<uint32_t*> source, slots, &values[0], values_width)
    elif width == 2:
        _read_wide(<uint16_t*> source, slots, &values[0], values_width)
    else:
        _read_wide(source, slots, &values[0], values_width)


def scatter(uint8_t[::1] kept, int width, const int32_t[::1] slots, const uint8_t[::1] values, int values_width):
    cdef Py_ssize_t n = values.shape[0] // values_width
    cdef uint8_t* source
    _check(slots, kept.shape[0] // width, n)
    if n == 0:
        return
    source = <uint8_t*> &values[0]
    if width == 8:
        _write_wide(<uint64_t*> &kept[0], slots, source, values_width)
    elif width == 4:
        _write_wide(<uint32_t*> &kept[0], slots, source, values_width)
    elif width == 2:
        _write_wide(<uint16_t*> &kept[0], slots, source, values_width)
    else:
        _write_wide(&kept[0], slots, source, values_width)


cdef uint64_t _or_of(wide_t* values, Py_ssize_t n) noexcept nogil:
    cdef uint64_t bits = 0
    cdef Py_ssize_t i
    for i in range(n):
        bits |= values[i]
    return bits


def bits_in(const uint8_t[::1] values, int width):
    cdef Py_ssize_t n = values.shape[0] // width
    if n == 0:
        return 0
    if width == 8:
        return _or_of(<uint64_t*> &values[0], n)
    if width == 4:
        return _or_of(<uint32_t*> &values[0], n)
    if width == 2:
        return _or_of(<uint16_t*> &values[0], n)
    return _or_of(<uint8_t*> &values[0], n)
