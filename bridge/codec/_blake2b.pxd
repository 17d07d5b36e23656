# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""BLAKE2b of RFC 7693 with a digest of 16 bytes and a key of at most 64, or none; hashlib.blake2b is the same."""

from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy, memset

cdef extern from *:
    """
    static const unsigned char BLAKE2B_SIGMA[12][16] = {
        {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
        {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
        {11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4},
        {7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
        {9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13},
        {2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
        {12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11},
        {13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
        {6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5},
        {10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0},
        {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
        {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
    };
    static const unsigned long long BLAKE2B_IV[8] = {
        0x6A09E667F3BCC908ULL, 0xBB67AE8584CAA73BULL, 0x3C6EF372FE94F82BULL, 0xA54FF53A5F1D36F1ULL,
        0x510E527FADE682D1ULL, 0x9B05688C2B3E6C1FULL, 0x1F83D9ABFB41BD6BULL, 0x5BE0CD19137E2179ULL,
    };
    """
    const uint8_t[16]* SIGMA "BLAKE2B_SIGMA"
    const uint64_t* IV "BLAKE2B_IV"

cdef enum:
    BLOCK = 128
    DIGEST = 16

cdef struct Blake2b:
    uint64_t[8] state  # before the key
    uint8_t[BLOCK] key
    int key_bytes


cdef inline uint64_t turned(uint64_t value, int by) noexcept nogil:
    return value >> by | value << (64 - by)


cdef inline void mix(uint64_t* v, int a, int b, int c, int d, uint64_t x, uint64_t y) noexcept nogil:
    v[a] = v[a] + v[b] + x
    v[d] = turned(v[d] ^ v[a], 32)
    v[c] = v[c] + v[d]
    v[b] = turned(v[b] ^ v[c], 24)
    v[a] = v[a] + v[b] + y
    v[d] = turned(v[d] ^ v[a], 16)
    v[c] = v[c] + v[d]
    v[b] = turned(v[b] ^ v[c], 63)


cdef inline void compress(uint64_t* h, const uint8_t* block, uint64_t bytes_so_far, bint last) noexcept nogil:
    cdef uint64_t[16] v
    cdef uint64_t[16] m
    cdef const uint8_t* s
    cdef int i, j
    for i in range(16):
        m[i] = 0
        for j in range(8):
            m[i] |= <uint64_t> block[8 * i + j] << 8 * j
    for i in range(8):
        v[i] = h[i]
        v[i + 8] = IV[i]
    v[12] ^= bytes_so_far
    if last:
        v[14] = ~v[14]
    for i in range(12):
        s = SIGMA[i]
        mix(v, 0, 4, 8, 12, m[s[0]], m[s[1]])
        mix(v, 1, 5, 9, 13, m[s[2]], m[s[3]])
        mix(v, 2, 6, 10, 14, m[s[4]], m[s[5]])
        mix(v, 3, 7, 11, 15, m[s[6]], m[s[7]])
        mix(v, 0, 5, 10, 15, m[s[8]], m[s[9]])
        mix(v, 1, 6, 11, 12, m[s[10]], m[s[11]])
        mix(v, 2, 7, 8, 13, m[s[12]], m[s[13]])
        mix(v, 3, 4, 9, 14, m[s[14]], m[s[15]])
    for i in range(8):
        h[i] ^= v[i] ^ v[i + 8]


cdef inline void begin(Blake2b* b, const uint8_t* key, int key_bytes) noexcept nogil:
    """key_bytes: at most 64, which whoever calls has checked."""
    cdef int i
    for i in range(8):
        b.state[i] = IV[i]
    b.state[0] ^= 0x01010000 ^ <uint64_t> key_bytes << 8 ^ DIGEST
    b.key_bytes = key_bytes
    memset(b.key, 0, BLOCK)
    memcpy(b.key, key, key_bytes)


cdef inline void digest(const Blake2b* b, const uint8_t* p, uint64_t n, uint8_t* out) noexcept nogil:
    """16 bytes at `out`."""
    cdef uint64_t[8] h
    cdef uint8_t[BLOCK] block
    cdef uint64_t done = 0
    cdef int i
    memcpy(h, b.state, sizeof(h))
    if b.key_bytes:
        done = BLOCK
        compress(h, b.key, done, n == 0)
    if n or not b.key_bytes:
        while n > BLOCK:
            done += BLOCK
            compress(h, p, done, False)
            p += BLOCK
            n -= BLOCK
        memset(block, 0, BLOCK)
        memcpy(block, p, n)
        compress(h, block, done + n, True)
    for i in range(DIGEST):
        out[i] = <uint8_t> (h[i >> 3] >> 8 * (i & 7))
