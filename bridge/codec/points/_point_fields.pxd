# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Fields that a splicer adds to a point, as they are written. Functions that write return where they stopped."""

from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcpy

from bridge.codec.points._point_write cimport put, put_byte, put_hex

cdef enum:
    FIELDS = 0x12  # tags: field number << 3 | wire type; of PBPoint
    KEY = 0x0A  # of Field
    TEXT = 0x5A
    DOUBLE = 0x21
    TEXT_FRAME = 6  # bytes of a text field besides key and text; all of ours are below 128
    DOUBLE_FRAME = 13  # bytes of a field that holds a float besides its key


cdef inline uint8_t digits_of(uint64_t value) noexcept nogil:
    cdef uint8_t n = 1
    while value > 9:
        n += 1
        value //= 10
    return n


cdef inline uint8_t* put_decimal(uint8_t* out, uint64_t value, int digits) noexcept nogil:
    """So many digits, whatever the value."""
    cdef int i
    for i in range(digits - 1, -1, -1):
        out[i] = <uint8_t> (c"0" + value % 10)
        value //= 10
    return out + digits


cdef inline uint8_t* put_head(uint8_t* out, const char* key, int n_key, int n_text) noexcept nogil:
    """A text field up to its text."""
    out = put_byte(put_byte(out, FIELDS), <uint8_t> (TEXT_FRAME - 2 + n_key + n_text))
    out = put(put_byte(put_byte(out, KEY), <uint8_t> n_key), key, n_key)
    return put_byte(put_byte(out, TEXT), <uint8_t> n_text)


cdef inline uint8_t* put_double(uint8_t* out, const char* key, int n_key, double value) noexcept nogil:
    """A field that holds a float."""
    cdef int i
    cdef uint64_t bits
    memcpy(&bits, &value, 8)
    out = put_byte(put_byte(out, FIELDS), <uint8_t> (DOUBLE_FRAME - 2 + n_key))
    out = put_byte(put(put_byte(put_byte(out, KEY), <uint8_t> n_key), key, n_key), DOUBLE)
    for i in range(8):
        out = put_byte(out, <uint8_t> (bits >> 8 * i))
    return out


cdef inline int64_t parent_size(bint there, int digits) noexcept nogil:
    return 1 if not there else digits if digits else 16


cdef inline uint8_t* put_parent(
    uint8_t* out, const char* key, int n_key, bint there, int digits, uint64_t parent
) noexcept nogil:
    """A parent's id: "0" where there is none, else in decimal of so many digits, else (0) in hex."""
    out = put_head(out, key, n_key, <int> parent_size(there, digits))
    if not there:
        return put_byte(out, c"0")
    return put_decimal(out, parent, digits) if digits else put_hex(out, parent)
