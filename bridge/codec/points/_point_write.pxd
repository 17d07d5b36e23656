# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Writing the protobuf wire format: each function returns where it stopped. Whoever calls it has measured the room."""

from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcpy


cdef inline uint8_t* put(uint8_t* out, const void* data, size_t n) noexcept nogil:
    memcpy(out, data, n)
    return out + n


cdef inline uint8_t* put_byte(uint8_t* out, uint8_t value) noexcept nogil:
    out[0] = value
    return out + 1


cdef inline uint8_t* put_varint(uint8_t* out, uint64_t value) noexcept nogil:
    while value > 0x7F:
        out = put_byte(out, <uint8_t> (value & 0x7F | 0x80))
        value >>= 7
    return put_byte(out, <uint8_t> value)


cdef inline int64_t varint_size(uint64_t value) noexcept nogil:
    cdef int64_t n = 1
    while value > 0x7F:
        n += 1
        value >>= 7
    return n
