# cython: language_level=3, boundscheck=True, wraparound=False, cdivision=True
"""The compiled twin of bridge.linker.trace_ids.trace_ids_plain: MD5 (RFC 1321) of many messages of 16 bytes."""

from libc.stdint cimport uint32_t, uint64_t

import math

import numpy as np

cdef uint32_t[64] SINES
cdef int[16] TURNS = [7, 12, 17, 22, 5, 9, 14, 20, 4, 11, 16, 23, 6, 10, 15, 21]  # four a round, over and over

for _i in range(64):
    SINES[_i] = int(abs(math.sin(_i + 1)) * 2.0**32)


cdef inline uint32_t stepped(uint32_t a, uint32_t b, uint32_t f, uint32_t word, int i) noexcept nogil:
    cdef uint32_t sum = a + f + word + SINES[i]
    cdef int turn = TURNS[(i >> 4) * 4 + (i & 3)]
    return b + (sum << turn | sum >> (32 - turn))


cdef void digest(uint64_t first, uint64_t second, uint64_t* hi, uint64_t* lo) noexcept nogil:
    """The digest of two little-endian numbers, its halves read as little-endian numbers."""
    cdef uint32_t a = 0x67452301, b = 0xEFCDAB89U, c = 0x98BADCFEU, d = 0x10325476, f
    cdef uint32_t[16] words
    cdef int i
    for i in range(16):
        words[i] = 0
    words[0], words[1] = <uint32_t> first, <uint32_t> (first >> 32)
    words[2], words[3] = <uint32_t> second, <uint32_t> (second >> 32)
    words[4] = 0x80  # padding: a bit, zeros, and the message's length in bits
    words[14] = 128
    for i in range(16):
        f = (b & c) | (~b & d)
        a, d, c, b = d, c, b, stepped(a, b, f, words[i], i)
    for i in range(16, 32):
        f = (b & d) | (c & ~d)
        a, d, c, b = d, c, b, stepped(a, b, f, words[(5 * i + 1) & 15], i)
    for i in range(32, 48):
        f = b ^ c ^ d
        a, d, c, b = d, c, b, stepped(a, b, f, words[(3 * i + 5) & 15], i)
    for i in range(48, 64):
        f = c ^ (b | ~d)
        a, d, c, b = d, c, b, stepped(a, b, f, words[(7 * i) & 15], i)
    a, b = a + <uint32_t> 0x67452301, b + <uint32_t> 0xEFCDAB89U
    c, d = c + <uint32_t> 0x98BADCFEU, d + <uint32_t> 0x10325476
    lo[0] = <uint64_t> b << 32 | a
    hi[0] = <uint64_t> d << 32 | c


def trace_ids(const uint64_t[:] first, const uint64_t[:] second):
    cdef Py_ssize_t n = first.shape[0], i
    if second.shape[0] != n:
        raise ValueError("columns of unequal length")
    high, low = np.empty(n, np.uint64), np.empty(n, np.uint64)
    cdef uint64_t[::1] hi = high, lo = low
    with nogil:
        for i in range(n):
            digest(first[i], second[i], &hi[i], &lo[i])
    return high, low
