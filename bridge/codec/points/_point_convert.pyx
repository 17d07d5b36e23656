# cython: language_level=3, boundscheck=True, wraparound=False, cdivision=True
"""What every span needs that is converted: `split_point` for bridge.codec.points.to_otlp, `span_attributes` for
bridge.codec.points.from_otlp, `value_field` for bridge.codec.points.point_writer. Each does the usual, and says so where
something is not; the plain code beside it does everything, and the same.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from bridge.codec._wire cimport is_utf8, read_field, read_varint
from bridge.codec.points._point_write cimport put, put_byte, put_varint, varint_size

cdef enum:  # tags
    NAME = 0x0A  # of PBPoint
    FIELDS = 0x12
    TIME = 0x18
    KEY = 0x0A  # of Field, and of KeyValue
    INTEGER = 0x10
    DOUBLE = 0x21
    BOOL = 0x28
    BYTES = 0x32
    UNSIGNED = 0x18
    IS_TAG = 0x40
    TEXT = 0x5A
    ATTRIBUTE = 0x4A  # of Span
    VALUE = 0x12  # of KeyValue
    STRING_VALUE = 0x0A  # of AnyValue
    BOOL_VALUE = 0x10
    INT_VALUE = 0x18
    DOUBLE_VALUE = 0x21
    BYTES_VALUE = 0x3A

cdef enum:
    MAX_GROUPS = 100  # so deep groups of unknown fields nest


cdef inline const uint8_t* shortest(const uint8_t* p, const uint8_t* end, int most, uint64_t* number) noexcept nogil:
    """A number as protobuf writes it; NULL where it is written longer."""
    cdef const uint8_t* stop = read_varint(p, end, most, number)
    if stop == NULL or (stop - p > 1 and (stop - 1)[0] == 0) or (stop - p == 10 and (stop - 1)[0] > 1):
        return NULL
    return stop


cdef inline const uint8_t* content_end(const uint8_t** p, const uint8_t* end) noexcept nogil:
    """Read a length at p; return where the content ends that p then is at. NULL where there is none."""
    cdef uint64_t length
    p[0] = shortest(p[0], end, 5, &length)
    if p[0] == NULL or length > <uint64_t> (end - p[0]):
        return NULL
    return p[0] + length


cdef inline uint8_t* put_attribute(
    uint8_t* out, const uint8_t* key, int64_t n_key, const uint8_t* p, const uint8_t* end
) noexcept nogil:
    """A field's value, all from its tag to its end, as an attribute; NULL where it is none as protobuf writes it."""
    cdef uint8_t tag
    cdef uint64_t number = 0
    cdef const uint8_t* value = p + 1
    cdef int64_t n, pair
    if p[0] == INTEGER or p[0] == BOOL:
        if shortest(p + 1, end, 10, &number) != end or (p[0] == BOOL and number > 1):
            return NULL
        tag = INT_VALUE if p[0] == INTEGER else BOOL_VALUE
    elif p[0] == DOUBLE:
        if end - p != 9:
            return NULL
        tag = DOUBLE_VALUE
    elif p[0] == BYTES or p[0] == TEXT:
        if content_end(&value, end) != end or (p[0] == TEXT and not is_utf8(value, end)):
            return NULL
        tag, value = STRING_VALUE if p[0] == TEXT else BYTES_VALUE, p + 1
    else:
        return NULL
    n = 1 + (end - value)
    pair = 1 + varint_size(n_key) + n_key + 1 + varint_size(n) + n
    out = put_varint(put_byte(out, ATTRIBUTE), pair)
    out = put(put_varint(put_byte(out, KEY), n_key), key, n_key)
    out = put_byte(put_varint(put_byte(out, VALUE), n), tag)
    return put(out, value, end - value)


def split_point(bytes data not None, frozenset named not None):
    """(name, time, start, duration, attributes, fields) of a PBPoint as agents write it; None for any other.

    named: keys whose fields are returned as they are; attributes: those of all other keys, as fields of a Span. A point
    as agents write it has no key twice, an integer `start` and `duration`, neither tag, type nor unit but in fields that
    are named, and every number and length written as short as can be.
    """
    cdef const uint8_t* p = <const uint8_t*> PyBytes_AS_STRING(data)
    cdef const uint8_t* end = p + PyBytes_GET_SIZE(data)
    # An attribute is at most 8 bytes longer than its field, which has at least 6.
    cdef uint8_t* attributes = <uint8_t*> malloc(3 * PyBytes_GET_SIZE(data) + 16)
    if attributes == NULL:
        raise MemoryError
    try:
        return split(p, end, named, attributes)
    finally:
        free(attributes)


cdef tuple split(const uint8_t* p, const uint8_t* end, frozenset named, uint8_t* attributes):
    cdef const uint8_t* stop
    cdef const uint8_t* key_end
    cdef const uint8_t* key
    cdef uint8_t* out = attributes
    cdef uint8_t tag
    cdef uint64_t time = 0
    cdef uint64_t[2] times
    cdef bint[2] timed
    cdef int which
    cdef bytes name = b"", text
    cdef set seen = set()
    cdef list fields = []
    timed[0] = timed[1] = False
    while p < end:
        tag = p[0]
        p += 1
        if tag == TIME:
            p = shortest(p, end, 10, &time)
            if p == NULL or None in seen:
                return None
            seen.add(None)
            continue
        if tag != NAME and tag != FIELDS:
            return None
        stop = content_end(&p, end)
        if stop == NULL:
            return None
        if tag == NAME:
            if name or not is_utf8(p, stop):
                return None
            name = p[:stop - p]
            p = stop
            continue
        key = p + 1
        if p == stop or p[0] != KEY:
            return None
        key_end = content_end(&key, stop)
        if key_end == NULL or key_end == stop:
            return None
        text = key[:key_end - key]
        if text in seen:
            return None
        seen.add(text)
        which = 0 if text == b"start" else 1 if text == b"duration" else -1
        if which >= 0:
            if key_end[0] != INTEGER or shortest(key_end + 1, stop, 10, &times[which]) != stop:
                return None
            timed[which] = True
        elif text in named:
            fields.append(p[:stop - p])
        else:
            out = put_attribute(out, key, key_end - key, key_end, stop) if is_utf8(key, key_end) else NULL
            if out == NULL:
                return None
        p = stop
    if not timed[0] or not timed[1]:
        return None
    return name, <int64_t> time, <int64_t> times[0], <int64_t> times[1], attributes[:out - attributes], fields


# --- attributes of a span ---------------------------------------------------------------------------------------------


def span_attributes(bytes data not None):
    """Values by key of a serialized Span that protobuf reads; None where a value is a list, a map, or put together.

    The same as bridge.codec.points.otlp_values.by_key of its attributes.
    """
    cdef const uint8_t* p = <const uint8_t*> PyBytes_AS_STRING(data)
    cdef const uint8_t* end = p + PyBytes_GET_SIZE(data)
    cdef const uint8_t* content
    cdef uint64_t tag
    cdef dict found = {}
    while p < end:
        p = read_field(p, end, MAX_GROUPS, &tag, &content)
        if p == NULL:
            return None
        if tag == ATTRIBUTE and not take_attribute(content, p, found):
            return None
    return found


cdef bint take_attribute(const uint8_t* p, const uint8_t* end, dict found) except *:
    cdef const uint8_t* content
    cdef const uint8_t* key = p
    cdef const uint8_t* key_end = p
    cdef const uint8_t* value = NULL
    cdef const uint8_t* value_end = NULL
    cdef uint64_t tag
    while p < end:
        p = read_field(p, end, MAX_GROUPS, &tag, &content)
        if p == NULL:
            return False
        if tag == KEY:
            key, key_end = content, p
        elif tag == VALUE and value == NULL:
            value, value_end = content, p
        else:
            return False
    return take_value(value, value_end, key[:key_end - key].decode(), found)


cdef bint take_value(const uint8_t* p, const uint8_t* end, str key, dict found) except *:
    cdef const uint8_t* content
    cdef uint64_t tag, number
    cdef double real
    if p == end:
        found[key] = None
        return True
    if read_field(p, end, MAX_GROUPS, &tag, &content) != end:
        return False
    if tag == STRING_VALUE:
        found[key] = content[:end - content].decode()
    elif tag == INT_VALUE or tag == BOOL_VALUE:
        read_varint(content, end, 10, &number)
        found[key] = <int64_t> number if tag == INT_VALUE else number != 0
    elif tag == DOUBLE_VALUE:
        memcpy(&real, end - 8, 8)
        found[key] = real
    elif tag == BYTES_VALUE:
        found[key] = content[:end - content]
    else:
        return False
    return True


# --- a value as a field of a point ------------------------------------------------------------------------------------


def value_field(str key not None, value, bint is_tag):
    """See bridge.codec.points.point_writer.value_field_plain."""
    cdef Py_ssize_t n_key, n = 0
    cdef const char* key_text = PyUnicode_AsUTF8AndSize(key, &n_key)
    cdef const char* data = NULL
    cdef uint64_t number = 0
    cdef double real
    cdef uint8_t tag = 0
    cdef int64_t size
    cdef bytes written
    cdef uint8_t* out
    if isinstance(value, str):
        tag, data = TEXT, PyUnicode_AsUTF8AndSize(value, &n)
    elif isinstance(value, bool):
        tag, number = BOOL, 1 if value else 0
    elif isinstance(value, int):
        if value >= 1 << 63:
            tag, number = UNSIGNED, value
        else:
            tag, number = INTEGER, <uint64_t> <int64_t> value
    elif isinstance(value, float):
        real = value
        tag, data, n = DOUBLE, <const char*> &real, 8
    elif isinstance(value, bytes):
        tag, data, n = BYTES, PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value)
    size = 1 + varint_size(n_key) + n_key + 2 * is_tag
    if tag == TEXT or tag == BYTES:
        size += 1 + varint_size(n) + n
    elif tag == DOUBLE:
        size += 9
    elif tag:
        size += 1 + varint_size(number)
    written = PyBytes_FromStringAndSize(NULL, 1 + varint_size(size) + size)
    out = put_varint(put_byte(<uint8_t*> PyBytes_AS_STRING(written), FIELDS), size)
    out = put(put_varint(put_byte(out, KEY), n_key), key_text, n_key)
    if is_tag and tag == TEXT:  # by field number
        out = put_byte(put_byte(out, IS_TAG), 1)
    if tag == TEXT or tag == BYTES:
        out = put(put_varint(put_byte(out, tag), n), data, n)
    elif tag == DOUBLE:
        out = put(put_byte(out, tag), data, 8)
    elif tag:
        out = put_varint(put_byte(out, tag), number)
    if is_tag and tag != TEXT:
        put_byte(put_byte(out, IS_TAG), 1)
    return written
