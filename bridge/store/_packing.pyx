# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The compiled twins of what ends in `_plain` in bridge.store.packing and bridge.store.linked, which say what each
promises.

Packing looks at each array once for its least and its largest value, which say how wide its offsets are, and so how long
everything is; then it writes. What comes from outside is checked before it is used as an address.
"""

from cpython.buffer cimport PyBUF_FORMAT, PyBUF_STRIDES, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

import numpy as np

cdef enum:
    HEAD = 13  # mode (1), length (4), base (8)
    CONSTANT = 0
    PLAIN = 255
    MAX_ROWS = 0xFFFFFFFF

ctypedef fused Whole:
    int8_t
    int16_t
    int32_t
    int64_t
    uint8_t
    uint16_t
    uint32_t
    uint64_t

ctypedef fused Offset:
    uint8_t
    uint16_t
    uint32_t

ctypedef fused Wide:
    uint16_t
    uint32_t
    uint64_t

ctypedef fused Bits:
    uint8_t
    uint16_t
    uint32_t
    uint64_t

cdef struct Array:
    Py_buffer view
    int held
    int code  # size in bytes, below 0 where values are signed
    int mode
    uint64_t base  # the least value's own bytes, zeros above them
    Py_ssize_t n


def pack_arrays(arrays):
    """See `pack_arrays_plain`."""
    cdef list given = list(arrays)
    cdef Py_ssize_t count = len(given), i, size = 0
    cdef Array* all = <Array*> calloc(count + 1, sizeof(Array))
    cdef bytes packed
    cdef char* out
    if all == NULL:
        raise MemoryError
    try:
        for i in range(count):
            hold(&all[i], given[i])
        with nogil:
            for i in range(count):
                measure(&all[i])
                size += HEAD + all[i].n * width(&all[i])
        packed = PyBytes_FromStringAndSize(NULL, size)
        out = PyBytes_AS_STRING(packed)
        with nogil:
            write(all, count, out)
        return packed
    finally:
        for i in range(count):
            if all[i].held:
                PyBuffer_Release(&all[i].view)
        free(all)


cdef int hold(Array* array, object given) except -1:
    """Take the array's memory; one that is not in one piece is copied first."""
    PyObject_GetBuffer(given, &array.view, PyBUF_STRIDES | PyBUF_FORMAT)
    array.held = 1
    cdef Py_buffer* view = &array.view
    if view.ndim != 1:
        raise ValueError(f"pack_arrays: {view.ndim}-D array")
    if view.shape[0] > 1 and view.strides[0] != view.itemsize:
        PyBuffer_Release(view)
        array.held = 0
        return hold(array, given.copy())
    if view.shape[0] > MAX_ROWS:
        raise ValueError(f"pack_arrays: {view.shape[0]} rows")
    cdef char kind = view.format[0]
    if view.format[1] != 0 or view.itemsize not in (1, 2, 4, 8):
        raise ValueError(f"pack_arrays: {given.dtype}")
    if kind in b"bhilq":
        array.code = -<int> view.itemsize
    elif kind in b"BHILQ":
        array.code = <int> view.itemsize
    elif kind in b"fd":
        array.code = 0
    else:
        raise ValueError(f"pack_arrays: {given.dtype}")
    array.n = view.shape[0]
    return 0


cdef void measure(Array* array) noexcept nogil:
    """Find mode and base."""
    cdef const void* data = array.view.buf
    if not array.n:
        array.mode = CONSTANT
    elif array.code == 0:
        measure_bits(array)
    elif array.code == -1:
        measure_whole(array, <const int8_t*> data)
    elif array.code == -2:
        measure_whole(array, <const int16_t*> data)
    elif array.code == -4:
        measure_whole(array, <const int32_t*> data)
    elif array.code == -8:
        measure_whole(array, <const int64_t*> data)
    elif array.code == 1:
        measure_whole(array, <const uint8_t*> data)
    elif array.code == 2:
        measure_whole(array, <const uint16_t*> data)
    elif array.code == 4:
        measure_whole(array, <const uint32_t*> data)
    else:
        measure_whole(array, <const uint64_t*> data)


cdef void measure_whole(Array* array, const Whole* values) noexcept nogil:
    cdef Whole low = values[0], high = values[0], value
    cdef Py_ssize_t i
    for i in range(1, array.n):
        value = values[i]
        low = value if value < low else low
        high = value if value > high else high
    cdef uint64_t span = <uint64_t> high - <uint64_t> low
    array.mode = CONSTANT if not span else 1 if span < 1 << 8 else 2 if span < 1 << 16 else 4 if span >> 32 == 0 else 8
    if array.mode >= <int> sizeof(Whole):
        array.mode = PLAIN
    else:
        memcpy(&array.base, &low, sizeof(Whole))


cdef void measure_bits(Array* array) noexcept nogil:
    """Floats are constant where their bits are: NaN equals nothing."""
    cdef Py_ssize_t size = array.view.itemsize, i
    cdef const char* data = <const char*> array.view.buf
    cdef uint64_t first = 0, value = 0
    memcpy(&first, data, size)
    array.mode = CONSTANT
    for i in range(1, array.n):
        memcpy(&value, data + i * size, size)
        if value != first:
            array.mode = PLAIN
            return
    array.base = first


cdef inline Py_ssize_t width(const Array* array) noexcept nogil:
    """Bytes a value takes."""
    return array.view.itemsize if array.mode == PLAIN else array.mode


cdef void write(const Array* all, Py_ssize_t count, char* out) noexcept nogil:
    """All heads, then all bodies."""
    cdef char* body = out + HEAD * count
    cdef Py_ssize_t i
    cdef uint32_t n
    cdef const Array* array
    for i in range(count):
        array = &all[i]
        n = <uint32_t> array.n
        out[0] = <char> array.mode
        memcpy(out + 1, &n, 4)
        memcpy(out + 5, &array.base, 8)
        out += HEAD
        if array.mode == PLAIN:
            memcpy(body, array.view.buf, array.n * array.view.itemsize)
        elif array.mode == 1:
            write_offsets(array, <uint8_t*> body)
        elif array.mode == 2:
            write_offsets(array, <uint16_t*> body)
        elif array.mode == 4:
            write_offsets(array, <uint32_t*> body)
        body += array.n * width(array)


cdef void write_offsets(const Array* array, Offset* out) noexcept nogil:
    """The lower bytes of a difference are the difference of the lower bytes, so that signs do not matter."""
    cdef const void* data = array.view.buf
    if array.view.itemsize == 8:
        offsets_of(<const uint64_t*> data, array.n, array.base, out)
    elif array.view.itemsize == 4:
        offsets_of(<const uint32_t*> data, array.n, array.base, out)
    else:  # one byte is never narrowed
        offsets_of(<const uint16_t*> data, array.n, array.base, out)


cdef void offsets_of(const Wide* values, Py_ssize_t n, uint64_t base, Offset* out) noexcept nogil:
    """`out` may lie anywhere."""
    cdef Py_ssize_t i
    cdef Wide low = <Wide> base
    cdef Offset offset
    cdef char* at = <char*> out
    for i in range(n):
        offset = <Offset> <Wide> (values[i] - low)
        memcpy(at + i * sizeof(Offset), &offset, sizeof(Offset))


def unpack_arrays(bytes data, dtypes, Py_ssize_t at=0):
    """See `unpack_arrays_plain`."""
    cdef list wanted = list(dtypes), arrays = []
    cdef Py_ssize_t size = PyBytes_GET_SIZE(data), heads = HEAD * len(wanted), body, width, item
    cdef const char* start = PyBytes_AS_STRING(data)
    cdef Py_buffer view
    cdef int mode
    cdef uint32_t n
    cdef uint64_t base
    if at < 0 or at > size or heads > size - at:
        raise ValueError("ends within the heads")
    body = at + heads
    for dtype in wanted:
        mode = <uint8_t> start[at]
        memcpy(&n, start + at + 1, 4)
        memcpy(&base, start + at + 5, 8)
        at += HEAD
        if mode not in (CONSTANT, 1, 2, 4, PLAIN):
            raise ValueError(f"mode {mode}")
        dtype = np.dtype(dtype)
        item = dtype.itemsize
        if dtype.hasobject:
            raise ValueError(f"{dtype} is not in bytes")
        if mode != PLAIN and (item not in (1, 2, 4, 8) or mode and dtype.kind not in "iu"):
            raise ValueError(f"{dtype} in mode {mode}")
        width = item if mode == PLAIN else mode
        if n * width > size - body:
            raise ValueError("ends within a body")
        array = np.empty(n, dtype)
        PyObject_GetBuffer(array, &view, PyBUF_WRITABLE)
        with nogil:
            fill(view.buf, item, start + body, mode, n, base)
        PyBuffer_Release(&view)
        arrays.append(array)
        body += n * width
    return arrays, body


cdef void fill(void* out, Py_ssize_t item, const char* body, int mode, Py_ssize_t n, uint64_t base) noexcept nogil:
    if mode == PLAIN:
        memcpy(out, body, n * item)
    elif item == 8:
        fill_bits(<uint64_t*> out, body, mode, n, base)
    elif item == 4:
        fill_bits(<uint32_t*> out, body, mode, n, base)
    elif item == 2:
        fill_bits(<uint16_t*> out, body, mode, n, base)
    else:
        fill_bits(<uint8_t*> out, body, mode, n, base)


cdef void fill_bits(Bits* out, const char* body, int mode, Py_ssize_t n, uint64_t base) noexcept nogil:
    cdef Bits low = <Bits> base
    cdef Py_ssize_t i
    if mode == CONSTANT:
        for i in range(n):
            out[i] = low
    elif mode == 1:
        add_offsets(out, <const uint8_t*> body, n, low)
    elif mode == 2:
        add_offsets(out, <const uint16_t*> body, n, low)
    else:
        add_offsets(out, <const uint32_t*> body, n, low)


cdef void add_offsets(Bits* out, const Offset* body, Py_ssize_t n, Bits low) noexcept nogil:
    """`body` may lie anywhere."""
    cdef Py_ssize_t i
    cdef Offset offset
    cdef const char* at = <const char*> body
    for i in range(n):
        memcpy(&offset, at + i * sizeof(Offset), sizeof(Offset))
        out[i] = <Bits> (low + offset)


def gathered(bytes data, const int64_t[::1] starts, const int64_t[::1] ends):
    """See `gathered_plain`."""
    cdef Py_ssize_t n = starts.shape[0], i
    cdef int64_t size = 0, end = PyBytes_GET_SIZE(data)
    cdef bint sound = ends.shape[0] == n
    if sound:
        for i in range(n):
            if starts[i] < 0 or ends[i] < starts[i] or ends[i] > end:
                sound = False
                break
            size += ends[i] - starts[i]
    if not sound:
        raise ValueError("gathered: ranges that are not in the data")
    cdef bytes taken = PyBytes_FromStringAndSize(NULL, size)
    cdef char* out = PyBytes_AS_STRING(taken)
    cdef const char* source = PyBytes_AS_STRING(data)
    with nogil:
        for i in range(n):
            memcpy(out, source + starts[i], ends[i] - starts[i])
            out += ends[i] - starts[i]
    return taken


def expand(bytes data, Py_ssize_t start, Py_ssize_t length, Py_ssize_t size):
    """See `expand_plain`; into the bytes that are given back, which lz4's own binding fills by way of a copy."""
    if start < 0 or length < 0 or length > PyBytes_GET_SIZE(data) - start or size < 0:
        raise ValueError("expand: a block that is not in the data")
    cdef bytes expanded = PyBytes_FromStringAndSize(NULL, size)
    cdef const uint8_t* block = <const uint8_t*> PyBytes_AS_STRING(data) + start
    cdef uint8_t* out = <uint8_t*> PyBytes_AS_STRING(expanded)
    cdef Py_ssize_t written
    with nogil:
        written = expand_block(block, length, out, size)
    if written != size:
        raise ValueError("expand: not the block that was written")
    return expanded


cdef Py_ssize_t expand_block(const uint8_t* block, Py_ssize_t end, uint8_t* out, Py_ssize_t size) noexcept nogil:
    """Bytes written, below 0 where the block is broken (https://github.com/lz4/lz4/blob/dev/doc/lz4_Block_format.md).

    Copies of 16 bytes at a time run over what is wanted where there is room for it; what follows overwrites it.
    """
    cdef Py_ssize_t at = 0, written = 0, length, i
    cdef Py_ssize_t offset
    cdef uint8_t token
    while at < end:
        token = block[at]
        at += 1
        length = token >> 4
        if length == 15 and not extend(block, end, &at, &length):
            return -1
        if length > end - at or length > size - written:
            return -1
        if length <= 16 and end - at >= 16 and size - written >= 16:
            memcpy(out + written, block + at, 16)
        else:
            memcpy(out + written, block + at, length)
        at += length
        written += length
        if at == end:  # the last sequence is literals alone
            return written
        if end - at < 2:
            return -1
        offset = block[at] | <Py_ssize_t> block[at + 1] << 8
        at += 2
        length = token & 15
        if length == 15 and not extend(block, end, &at, &length):
            return -1
        length += 4
        if not offset or offset > written or length > size - written:
            return -1
        if offset >= 16 and size - written - length >= 16:
            i = 0
            while i < length:
                memcpy(out + written + i, out + written + i - offset, 16)
                i += 16
        else:
            for i in range(length):
                out[written + i] = out[written + i - offset]
        written += length
    return -1


cdef inline bint extend(const uint8_t* block, Py_ssize_t end, Py_ssize_t* at, Py_ssize_t* length) noexcept nogil:
    """Add the bytes a length goes on in; whether they end."""
    cdef uint8_t more
    while at[0] < end:
        more = block[at[0]]
        at[0] += 1
        length[0] += more
        if more != 255:
            return True
    return False
