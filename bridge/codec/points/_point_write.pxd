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


cdef inline uint8_t* put_hex(uint8_t* out, uint64_t value) noexcept nogil:
    """16 digits."""
    return put_big_endian(put_big_endian(out, hex_of(value >> 32)), hex_of(value & 0xFFFFFFFFU))


cdef inline uint64_t hex_of(uint64_t value) noexcept nogil:
    """The 8 digits of a number below 2**32, the first in the upper byte: each half byte to a byte, all at once."""
    cdef uint64_t letters
    value = (value << 16 | value) & 0x0000FFFF0000FFFFU
    value = (value << 8 | value) & 0x00FF00FF00FF00FFU
    value = (value << 4 | value) & 0x0F0F0F0F0F0F0F0FU
    letters = (value + 0x0606060606060606U) >> 4 & 0x0101010101010101U  # where it is above 9
    return value + 0x3030303030303030U + letters * 39  # from behind "9" to "a"


cdef inline uint8_t* put_big_endian(uint8_t* out, uint64_t value) noexcept nogil:
    """8 bytes."""
    cdef int i
    for i in range(8):
        out[i] = <uint8_t> (value >> (56 - 8 * i))
    return out + 8
