# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""XXH64 with seed 0, as bridge.codec.digest describes it."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef extern from *:
    """
    #define XXH64_P1 0x9E3779B185EBCA87ULL
    #define XXH64_P2 0xC2B2AE3D27D4EB4FULL
    #define XXH64_P3 0x165667B19E3779F9ULL
    #define XXH64_P4 0x85EBCA77C2B2AE63ULL
    #define XXH64_P5 0x27D4EB2F165667C5ULL
    """
    const uint64_t P1 "XXH64_P1"
    const uint64_t P2 "XXH64_P2"
    const uint64_t P3 "XXH64_P3"
    const uint64_t P4 "XXH64_P4"
    const uint64_t P5 "XXH64_P5"


cdef inline uint64_t rotated(uint64_t value, int by) noexcept nogil:
    return value << by | value >> (64 - by)


cdef inline uint64_t read_8(const uint8_t* p) noexcept nogil:
    """Little-endian, on any machine; compilers make one load of it."""
    return (
        <uint64_t> p[0] | <uint64_t> p[1] << 8 | <uint64_t> p[2] << 16 | <uint64_t> p[3] << 24
        | <uint64_t> p[4] << 32 | <uint64_t> p[5] << 40 | <uint64_t> p[6] << 48 | <uint64_t> p[7] << 56
    )


cdef inline uint64_t read_4(const uint8_t* p) noexcept nogil:
    return <uint64_t> p[0] | <uint64_t> p[1] << 8 | <uint64_t> p[2] << 16 | <uint64_t> p[3] << 24


cdef inline uint64_t round_of(uint64_t state, uint64_t word) noexcept nogil:
    return rotated(state + word * P2, 31) * P1


cdef inline uint64_t merged(uint64_t state, uint64_t lane) noexcept nogil:
    return (state ^ round_of(0, lane)) * P1 + P4


cdef inline uint64_t digest(const uint8_t* p, const uint8_t* end) noexcept nogil:
    cdef uint64_t length = end - p, state = P5
    cdef uint64_t a = P1 + P2, b = P2, c = 0, d = 0 - P1
    if length >= 32:
        while end - p >= 32:
            a, b = round_of(a, read_8(p)), round_of(b, read_8(p + 8))
            c, d = round_of(c, read_8(p + 16)), round_of(d, read_8(p + 24))
            p += 32
        state = rotated(a, 1) + rotated(b, 7) + rotated(c, 12) + rotated(d, 18)
        state = merged(merged(merged(merged(state, a), b), c), d)
    state += length
    while end - p >= 8:
        state = rotated(state ^ round_of(0, read_8(p)), 27) * P1 + P4
        p += 8
    if end - p >= 4:
        state = rotated(state ^ read_4(p) * P1, 23) * P2 + P3
        p += 4
    while p < end:
        state = rotated(state ^ p[0] * P5, 11) * P1
        p += 1
    state = (state ^ state >> 33) * P2
    state = (state ^ state >> 29) * P3
    return state ^ state >> 32
