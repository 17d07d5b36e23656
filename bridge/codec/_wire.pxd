# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The protobuf wire format as upb, the parser of opentelemetry-proto, reads it.

A `p` is where reading goes on, an `end` the first byte behind the message it is in. Functions that read return where
they stopped, or NULL where there is nothing that protobuf reads. No byte is read before it was compared with `end`.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef enum:  # wire types
    VARINT, FIXED64, DELIMITED, GROUP, GROUP_END, FIXED32


cdef inline const uint8_t* read_varint(const uint8_t* p, const uint8_t* end, int most, uint64_t* number) noexcept nogil:
    """A number of at most `most` bytes; bits beyond the 64th are dropped, as protobuf does."""
    cdef int i
    number[0] = 0
    for i in range(most):
        if p + i >= end:
            return NULL
        number[0] |= <uint64_t> (p[i] & 0x7F) << 7 * i
        if p[i] < 0x80:
            return p + i + 1
    return NULL


cdef inline const uint8_t* read_tag(const uint8_t* p, const uint8_t* end, uint64_t* tag) noexcept nogil:
    """32 bits in at most 5 bytes."""
    if p < end and p[0] < 0x80:
        tag[0] = p[0]
        return p + 1
    p = read_varint(p, end, 5, tag)
    return p if tag[0] >> 32 == 0 else NULL


cdef inline const uint8_t* skip_delimited(const uint8_t* p, const uint8_t* end) noexcept nogil:
    cdef uint64_t length
    if p < end and p[0] < 0x80:
        length = p[0]
        p += 1
    else:
        p = read_varint(p, end, 5, &length)
    return p + length if p != NULL and length <= <uint64_t> (end - p) else NULL


cdef inline const uint8_t* skip_group(const uint8_t* p, const uint8_t* end, uint64_t number, int depth) noexcept nogil:
    """A group of unknown fields, to its end. Inside, and only there, field number 0 is read too."""
    cdef uint64_t tag
    if depth <= 0:
        return NULL
    while True:
        p = read_tag(p, end, &tag)
        if p == NULL:
            return NULL
        if tag & 7 == GROUP_END:
            return p if tag >> 3 == number else NULL
        p = skip_value(p, end, tag, depth - 1)
        if p == NULL:
            return NULL


cdef inline const uint8_t* skip_value(const uint8_t* p, const uint8_t* end, uint64_t tag, int depth) noexcept nogil:
    cdef uint64_t number
    cdef int wire_type = tag & 7
    if wire_type == DELIMITED:
        return skip_delimited(p, end)
    if wire_type == VARINT:
        return read_varint(p, end, 10, &number)
    if wire_type == FIXED64:
        return p + 8 if end - p >= 8 else NULL
    if wire_type == FIXED32:
        return p + 4 if end - p >= 4 else NULL
    return skip_group(p, end, tag >> 3, depth) if wire_type == GROUP else NULL


cdef inline const uint8_t* read_field(
    const uint8_t* p, const uint8_t* end, int depth, uint64_t* tag, const uint8_t** content
) noexcept nogil:
    """One field of a message inside which `depth` more are read. Its content ends where the field does; where it begins
    is only said of delimited fields."""
    cdef uint64_t number
    return read_number_or_field(p, end, depth, tag, content, &number)


cdef inline const uint8_t* read_number_or_field(
    const uint8_t* p, const uint8_t* end, int depth, uint64_t* tag, const uint8_t** content, uint64_t* number
) noexcept nogil:
    """`read_field`, with the number of a varint field."""
    cdef uint64_t length
    p = read_tag(p, end, tag)
    if p == NULL or tag[0] >> 3 == 0:
        return NULL
    content[0] = p
    if tag[0] & 7 == VARINT:
        return read_varint(p, end, 10, number)
    if tag[0] & 7 != DELIMITED:
        return skip_value(p, end, tag[0], depth)
    if p < end and p[0] < 0x80:
        length = p[0]
        p += 1
    else:
        p = read_varint(p, end, 5, &length)
    if p == NULL or length > <uint64_t> (end - p):
        return NULL
    content[0] = p
    return p + length


cdef inline bint is_ascii(const uint8_t* p, const uint8_t* end) noexcept nogil:
    """Looks at the last bytes twice rather than at each by itself."""
    cdef uint64_t word, more
    cdef uint32_t half, other
    if end - p >= 8:
        memcpy(&word, end - 8, 8)
        while end - p > 8:
            memcpy(&more, p, 8)
            word |= more
            p += 8
        return word & 0x8080808080808080U == 0
    if end - p >= 4:
        memcpy(&half, p, 4)
        memcpy(&other, end - 4, 4)
        return (half | other) & 0x80808080U == 0
    word = 0
    while p < end:
        word |= p[0]
        p += 1
    return word < 0x80


cdef inline bint is_utf8(const uint8_t* p, const uint8_t* end) noexcept nogil:
    """Unicode 15, table 3-7: no overlong form, no surrogate, nothing beyond U+10FFFF."""
    cdef uint64_t word
    cdef uint8_t low, high
    cdef int more
    if is_ascii(p, end):
        return True
    while p < end:
        if end - p >= 8:
            memcpy(&word, p, 8)
            if word & 0x8080808080808080U == 0:
                p += 8
                continue
        if p[0] < 0x80:
            p += 1
            continue
        low, high = 0x80, 0xBF
        if 0xC2 <= p[0] <= 0xDF:
            more = 1
        elif 0xE0 <= p[0] <= 0xEF:
            more = 2
            if p[0] == 0xE0:
                low = 0xA0
            elif p[0] == 0xED:
                high = 0x9F
        elif 0xF0 <= p[0] <= 0xF4:
            more = 3
            if p[0] == 0xF0:
                low = 0x90
            elif p[0] == 0xF4:
                high = 0x8F
        else:
            return False
        if end - p <= more or not low <= p[1] <= high:
            return False
        if more > 1 and p[2] & 0xC0 != 0x80 or more > 2 and p[3] & 0xC0 != 0x80:
            return False
        p += more + 1
    return True


cdef inline uint64_t big_endian(const uint8_t* p) noexcept nogil:
    cdef int i
    cdef uint64_t number = 0
    for i in range(8):
        number = number << 8 | p[i]
    return number


cdef inline uint64_t little_endian(const uint8_t* p) noexcept nogil:
    cdef int i
    cdef uint64_t number = 0
    for i in range(8):
        number |= <uint64_t> p[i] << 8 * i
    return number


cdef inline bint read_last_number(
    const uint8_t* p, const uint8_t* end, const uint8_t* readable, uint64_t* number
) noexcept nogil:
    """A varint that ends at `end`; up to `readable` bytes may be looked at."""
    cdef int64_t n = end - p
    cdef uint64_t bits, more
    if n < 1 or n > 8 or readable - p < 8:
        return read_varint(p, end, 10, number) == end
    bits = little_endian(p) & (0xFFFFFFFFFFFFFFFFU >> (64 - 8 * n))
    more = 0x0080808080808080U & (0xFFFFFFFFFFFFFFFFU >> (64 - 8 * n)) >> 8
    if bits & 0x8080808080808080U != more:
        return False
    bits = bits & 0x007F007F007F007FU | (bits & 0x7F007F007F007F00U) >> 1
    bits = bits & 0x00003FFF00003FFFU | (bits & 0x3FFF00003FFF0000U) >> 2
    number[0] = bits & 0x0FFFFFFF | (bits & 0x0FFFFFFF00000000U) >> 4
    return True
