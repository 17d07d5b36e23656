# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The compiled twin of `sections_plain` in bridge.store.packing, which says what it promises.

It writes LZ4 blocks (https://github.com/lz4/lz4/blob/dev/doc/lz4_Block_format.md) that any LZ4 reads, but not the very
bytes that lz4 writes. Spans of one sender resemble each other field by field, so that behind a match, and a few bytes
that differ, mostly is another match that lies as far back. 64 bytes are compared with those there at once, and what is
the same is read off the bits: looking at place after place is a branch each, and the processor cannot guess them.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from isal import isal_zlib

cdef extern from *:
    """
    #include <string.h>
    #if (defined(__GNUC__) || defined(__clang__)) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    #define espan_first(bits) __builtin_ctzll(bits)
    #else
    static inline int espan_first(unsigned long long bits) {
        int n = 0;
        while (!(bits >> n & 1)) n++;
        return n;
    }
    #endif
    #ifdef __SSE2__
    #include <emmintrin.h>
    static inline unsigned long long espan_equal(const unsigned char* a, const unsigned char* b) {
        unsigned long long bits = 0;
        for (int i = 0; i < 4; i++) {
            __m128i x = _mm_loadu_si128((const __m128i*) (a + 16 * i));
            __m128i y = _mm_loadu_si128((const __m128i*) (b + 16 * i));
            bits |= (unsigned long long) (unsigned) _mm_movemask_epi8(_mm_cmpeq_epi8(x, y)) << 16 * i;
        }
        return bits;
    }
    #else
    static inline unsigned long long espan_equal(const unsigned char* a, const unsigned char* b) {
        unsigned long long bits = 0;
        for (int i = 0; i < 64; i++) bits |= (unsigned long long) (a[i] == b[i]) << i;
        return bits;
    }
    #endif
    """
    int first "espan_first" (uint64_t bits) noexcept nogil
    # of 64 bytes each, in which they are equal; the first is the lowest bit
    uint64_t equal "espan_equal" (const uint8_t* a, const uint8_t* b) noexcept nogil

cdef enum:
    HEAD = 16  # bytes before each block
    CHECKED = 12  # of these the checksum covers
    LZ4 = 1
    CODEC_SHIFT = 56
    MOST = 0x7E000000  # bytes of what LZ4 takes
    LEAST_MATCH = 4
    LAST_LITERALS = 5  # so many bytes end a block as they are, at least
    LAST_MATCH = 12  # before the end; behind that none begins
    FARTHEST = 65535
    TABLE_BITS = 12  # 16 KiB, which stay near
    PATIENCE = 6  # after 2**6 places in vain every second one is tried, after as many again every third


def sections(*raws):
    """See `sections_plain`."""
    cdef Py_ssize_t bound = 0, size = 0, n
    cdef Py_buffer view
    cdef uint8_t* out
    cdef uint32_t* table
    cdef list lengths = []
    for raw in raws:
        n = memoryview(raw).nbytes
        if n > MOST:
            raise OverflowError(f"sections: {n} bytes, of which LZ4 takes {MOST}")
        bound += HEAD + n + n // 255 + 16
    table = <uint32_t*> malloc((sizeof(uint32_t) << TABLE_BITS) + bound)
    if table == NULL:
        raise MemoryError
    out = <uint8_t*> (table + (1 << TABLE_BITS))
    try:
        for raw in raws:
            PyObject_GetBuffer(raw, &view, PyBUF_SIMPLE)
            with nogil:
                n = squeeze(<const uint8_t*> view.buf, view.len, out + size + HEAD, table)
                put_little_endian(out + size, <uint64_t> view.len | <uint64_t> LZ4 << CODEC_SHIFT, 8)
                put_little_endian(out + size + 8, n, 4)
            PyBuffer_Release(&view)
            lengths.append(n)
            size += HEAD + n
        packed = PyBytes_FromStringAndSize(<const char*> out, size)
    finally:
        free(table)
    put_checksums(packed, lengths)
    return packed


cdef int put_checksums(bytes packed, list lengths) except -1:
    """Into bytes that nobody else has seen yet."""
    cdef uint8_t* out = <uint8_t*> PyBytes_AS_STRING(packed)
    cdef Py_ssize_t at = 0, n
    view = memoryview(packed)
    for n in lengths:
        checksum = isal_zlib.crc32(view[at : at + CHECKED])
        checksum = isal_zlib.crc32(view[at + HEAD : at + HEAD + n], checksum)
        put_little_endian(out + at + CHECKED, checksum, 4)
        at += HEAD + n
    return 0


cdef inline void put_little_endian(uint8_t* out, uint64_t value, int n) noexcept nogil:
    cdef int i
    for i in range(n):
        out[i] = <uint8_t> (value >> 8 * i)


cdef inline uint32_t four(const uint8_t* p) noexcept nogil:
    cdef uint32_t value
    memcpy(&value, p, 4)
    return value


cdef inline uint64_t eight(const uint8_t* p) noexcept nogil:
    cdef uint64_t value
    memcpy(&value, p, 8)
    return value


cdef inline uint32_t hash_of(const uint8_t* p) noexcept nogil:
    """Of five bytes; eight are read."""
    return <uint32_t> ((eight(p) << 24) * 889523592379U >> (64 - TABLE_BITS))


cdef Py_ssize_t squeeze(const uint8_t* raw, Py_ssize_t n, uint8_t* out, uint32_t* table) noexcept nogil:
    """Write a block, and say how long it is. `out` has room for n + n // 255 + 16 bytes."""
    cdef const uint8_t* end = raw + n
    cdef const uint8_t* last = end - LAST_MATCH  # where a match may begin at most
    cdef const uint8_t* anchor = raw  # of what is not written yet
    cdef const uint8_t* p = raw
    cdef const uint8_t* match
    cdef uint8_t* start = out
    cdef uint32_t hashed
    cdef uint64_t bits, runs
    cdef Py_ssize_t length, offset, tries
    cdef int skipped
    if n > LAST_MATCH:
        memset(table, 0, sizeof(uint32_t) << TABLE_BITS)
        tries = 1 << PATIENCE
        p += 1
        while p <= last:
            hashed = hash_of(p)
            match = raw + table[hashed]
            table[hashed] = <uint32_t> (p - raw)
            if p - match > FARTHEST or four(match) != four(p):
                p += tries >> PATIENCE
                tries += 1
                continue
            while p > anchor and match > raw and (p - 1)[0] == (match - 1)[0]:
                p -= 1
                match -= 1
            offset = p - match
            length = LEAST_MATCH + same(p + LEAST_MATCH, match + LEAST_MATCH, end - LAST_LITERALS)
            out = put_sequence(out, anchor, p - anchor, offset, length, end)
            p += length
            anchor = p
            # what follows a field that differs is mostly as far away again: found without trying place after place
            while p + 64 + LAST_MATCH <= end:
                bits = equal(p, p - offset)
                runs = bits & bits >> 1
                runs &= runs >> 2
                if not runs:
                    break
                skipped = first(runs)  # 1 at least: the first byte is where the match before ended
                p += skipped
                length = first(~(bits >> skipped))
                if skipped + length == 64:
                    length += same(p + length, p + length - offset, end - LAST_LITERALS)
                table[hash_of(p)] = <uint32_t> (p - raw)
                out = put_sequence(out, anchor, skipped, offset, length, end)
                p += length
                anchor = p
            if p > last:
                break
            table[hash_of(p - 2)] = <uint32_t> (p - 2 - raw)
            tries = 1 << PATIENCE
    out = put_literals(out, anchor, end - anchor, 0, end)
    return out - start


cdef inline Py_ssize_t same(const uint8_t* p, const uint8_t* match, const uint8_t* end) noexcept nogil:
    """How many bytes are the same in both places, before the end."""
    cdef const uint8_t* start = p
    cdef uint64_t bits
    while end - p >= 64:
        bits = ~equal(p, match)
        if bits:
            return p - start + first(bits)
        p += 64
        match += 64
    while p < end and p[0] == match[0]:
        p += 1
        match += 1
    return p - start


cdef inline uint8_t* put_sequence(
    uint8_t* out, const uint8_t* literals, Py_ssize_t n, Py_ssize_t offset, Py_ssize_t length, const uint8_t* end
) noexcept nogil:
    length -= LEAST_MATCH
    out = put_literals(out, literals, n, length if length < 15 else 15, end)
    put_little_endian(out, offset, 2)
    return put_rest(out + 2, length - 15) if length >= 15 else out + 2


cdef inline uint8_t* put_literals(
    uint8_t* out, const uint8_t* literals, Py_ssize_t n, uint8_t length, const uint8_t* end
) noexcept nogil:
    """A token with this length of a match, and what is kept as it is."""
    if n < 15:
        out[0] = <uint8_t> (n << 4 | length)
        out += 1
        if end - literals >= 16 and length:  # more than is wanted: what follows overwrites it
            memcpy(out, literals, 16)
            return out + n
    else:
        out[0] = 15 << 4 | length
        out = put_rest(out + 1, n - 15)
    memcpy(out, literals, n)
    return out + n


cdef inline uint8_t* put_rest(uint8_t* out, Py_ssize_t n) noexcept nogil:
    """What does not fit into a token."""
    while n >= 255:
        out[0] = 255
        out += 1
        n -= 255
    out[0] = <uint8_t> n
    return out + 1
