# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The compiled scan of points: the twin of bridge.codec.points.scan.scan_plain, which it equals on every body.

_wire.pxd is how protobuf reads bytes, _espan.pxd what the values of an eSpan mean; here is which messages a body is made
of (schemas/point.proto) and what limits its points keep. Functions that walk a message read from `p` to `end`.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport free
from libc.string cimport memcmp, memcpy, memset

from bridge.codec._espan cimport (
    KEYS, START, Espan, Form, Names, Row, Value, add_name, hex_value, integer_value, number_of, read_espan,
    set_value, time_of,
)
from bridge.codec._known_keys cimport KEY_SLOTS, NO_TEXT, Key, key_number
from bridge.codec._text cimport Text as Bytes, texts_of
from bridge.codec._wire cimport is_utf8, read_field, read_last_number, read_number_or_field

from bridge.codec.points import limits
from bridge.codec.points.rejections import REASONS as REASON_NAMES
from bridge.spans import convention

cdef enum:  # messages and groups that may still stand inside one another, in each
    POINTS_DEPTH = 100
    POINT_DEPTH = 99
    FIELD_DEPTH = 98
    ANY_DEPTH = 97
    MAX_TOLD = 8

cdef enum:  # tags: field number << 3 | wire type
    ARR = 0x0A  # in PBPoints
    NAME = 0x0A  # in PBPoint
    FIELDS = 0x12
    TIME = 0x18
    WARNS = 0x22
    DEBUGS = 0x2A
    KEY = 0x0A  # in Field
    I_VALUE = 0x10
    U_VALUE = 0x18
    F_VALUE = 0x21
    B_VALUE = 0x28
    D_VALUE = 0x32
    A_VALUE = 0x3A
    S_VALUE = 0x5A
    IS_TAG = 0x40
    UNIT = 0x52
    WARN_TYPE = 0x0A  # in Warn
    WARN_MSG = 0x12
    DEBUG_INFO = 0x0A  # in Debug
    TYPE_URL = 0x0A  # in Any

cdef enum:  # keys read beside those of an eSpan, numbered after them
    SPAN_ID = KEYS
    HOST
    SERVICE
    ALL_KEYS

cdef enum Reason:  # positions in bridge.codec.points.rejections.REASONS
    UNREADABLE
    NO_MEASUREMENT
    MEASUREMENT_TOO_LONG
    KEY_TOO_LONG
    TAG_VALUE_TOO_LONG
    FIELD_VALUE_TOO_LONG
    NO_FIELDS
    TOO_MANY_TAGS
    TOO_MANY_FIELDS
    REASONS
    FINE

cdef enum:
    SLOTS = 256  # of texts that are known again, a power of two
    TRIES = 4

cdef struct Place:  # bridge.codec.points.scan.PLACE
    int64_t point, point_bytes
    int32_t host, service

cdef struct Text:
    int64_t at, n  # its address while bodies are read

cdef struct Told:
    int64_t number, at, end

cdef struct Point:
    Espan espan
    Value[ALL_KEYS - KEYS] others
    int64_t tags, fields
    Reason field_reason  # what is wrong with the first field with which something is

cdef struct Scan:
    const uint8_t* data
    const uint8_t* end
    Row* rows
    Place* places
    Text* texts
    int64_t room, taken, named, number, rejected, max_told
    int64_t[REASONS] counts
    Told[MAX_TOLD] told
    int32_t[SLOTS] known  # numbers of texts + 1
    Key[KEY_SLOTS] keys

cdef int64_t MAX_MEASUREMENT_BYTES = limits.MAX_MEASUREMENT_BYTES
cdef int64_t MAX_KEY_BYTES = limits.MAX_KEY_BYTES
cdef int64_t MAX_TAG_VALUE_BYTES = limits.MAX_TAG_VALUE_BYTES
cdef int64_t MAX_FIELD_VALUE_BYTES = limits.MAX_FIELD_VALUE_BYTES
cdef int64_t MAX_TAGS = limits.MAX_TAGS
cdef int64_t MAX_FIELDS = limits.MAX_FIELDS
cdef uint32_t REQUIRED = sum(convention.FAULT[key] for key in convention.REQUIRED)
cdef uint32_t COUNTED = sum(
    convention.FAULT[key] for key in convention.IDENTITY if key not in (convention.START, convention.DURATION)
)
cdef Names names
_KEYS = tuple(key.encode() for key in (*convention.KEY_OF_BIT, "span_id", "host", "service"))
if len(_KEYS) != ALL_KEYS or len(REASON_NAMES) != REASONS:
    raise ImportError("the kernel knows other keys or reasons than its twin")
if min(MAX_KEY_BYTES, MAX_FIELD_VALUE_BYTES) < 0x7F:
    raise ImportError("the kernel takes short fields to be within the limits")
memset(&names, 0, sizeof(Names))
for _number, _key in enumerate(_KEYS):
    add_name(&names, _key, _number)


# --- fields ----------------------------------------------------------------------------------------------------------


cdef bint is_message_of_texts(
    const uint8_t* p, const uint8_t* end, int depth, uint64_t one, uint64_t other
) noexcept nogil:
    """Whether these bytes are a message in which nothing but the fields with these tags is looked into: they are text."""
    cdef uint64_t tag
    cdef const uint8_t* content
    while p < end:
        p = read_field(p, end, depth, &tag, &content)
        if p == NULL or ((tag == one or tag == other) and not is_utf8(content, p)):
            return False
    return True


cdef inline bint is_usual_field(
    Scan* scan, const uint8_t* p, const uint8_t* end, const uint8_t** key, int64_t* n, Value* value
) noexcept nogil:
    """Whether it is a Field as agents write nearly all: a key, then a text or an integer, both short, and no more."""
    cdef int64_t left
    if end - p < 4 or p[0] != KEY or p[1] >= 0x80:
        return False
    key[0], n[0] = p + 2, p[1]
    p += 2 + n[0]
    left = end - p
    if left < 2:
        return False
    if p[0] == S_VALUE:
        value.form, value.text, value.n = Form.TEXT, p + 2, left - 2
        return p[1] < 0x80 and p[1] == left - 2
    value.form, value.text, value.n = Form.INTEGER, NULL, 0
    return p[0] == I_VALUE and read_last_number(p + 1, end, scan.end, &value.number)


cdef inline void take_value(Point* point, int number, const Value* value) noexcept nogil:
    """number: of the key; below 0 for one that is none of ours."""
    if number >= KEYS:
        point.others[number - KEYS] = value[0]
    elif number >= 0:
        set_value(&point.espan, number, value)


cdef inline bint read_point_field(Scan* scan, const uint8_t* p, const uint8_t* end, Point* point) noexcept nogil:
    """A Field; of a key given twice the last field counts."""
    cdef const uint8_t* key
    cdef int64_t n
    cdef int number
    cdef Value value
    value.number = 0
    if not is_usual_field(scan, p, end, &key, &n, &value):
        return read_any_field(p, end, point)
    number = key_number(scan.keys, &names, key, n)
    if number == NO_TEXT or (value.form == Form.TEXT and not is_utf8(value.text, end)):
        return False
    point.fields += 1
    take_value(point, number, &value)
    return True


cdef bint read_any_field(const uint8_t* p, const uint8_t* end, Point* point) noexcept nogil:
    """A Field however it is written. Of what is given twice the last counts."""
    cdef uint64_t tag, varint = 0, is_tag = 0
    cdef const uint8_t* content
    cdef const uint8_t* key = NULL
    cdef int64_t n = 0
    cdef Value value
    value.form, value.text, value.n, value.number = Form.NOTHING, NULL, 0, 0
    while p < end:
        p = read_number_or_field(p, end, FIELD_DEPTH, &tag, &content, &varint)
        if p == NULL:
            return False
        if tag == KEY:
            if not is_utf8(content, p):
                return False
            key, n = content, p - content
        elif tag == S_VALUE:
            if not is_utf8(content, p):
                return False
            value.form, value.text, value.n = Form.TEXT, content, p - content
        elif tag == I_VALUE or tag == U_VALUE:
            value.form, value.number, value.n = Form.INTEGER, varint, 0
        elif tag == D_VALUE:  # agents wrote text so before points had `s`
            value.form = Form.TEXT if is_utf8(content, p) else Form.OTHER
            value.text, value.n = content, p - content
        elif tag == F_VALUE or tag == B_VALUE:
            value.form, value.n = Form.OTHER, 0
        elif tag == A_VALUE:
            if not is_message_of_texts(content, p, ANY_DEPTH, TYPE_URL, TYPE_URL):
                return False
            value.form, value.n = Form.OTHER, 0
        elif tag == IS_TAG:
            is_tag = varint
        elif tag == UNIT and not is_utf8(content, p):
            return False
    if is_tag:
        point.tags += 1
    else:
        point.fields += 1
    if point.field_reason == FINE:
        if n > MAX_KEY_BYTES:
            point.field_reason = KEY_TOO_LONG
        elif is_tag and value.n > MAX_TAG_VALUE_BYTES:
            point.field_reason = TAG_VALUE_TOO_LONG
        elif not is_tag and value.n > MAX_FIELD_VALUE_BYTES:
            point.field_reason = FIELD_VALUE_TOO_LONG
    take_value(point, number_of(&names, key, n), &value)
    return True


# --- points ----------------------------------------------------------------------------------------------------------


cdef inline Reason read_point(
    Scan* scan, const uint8_t* p, const uint8_t* end, Point* point, int64_t* time_ns
) noexcept nogil:
    """A PBPoint; FINE where nothing is wrong with it."""
    cdef uint64_t tag, varint = 0, number = 0
    cdef const uint8_t* content
    cdef int64_t name_bytes = 0
    while p < end:
        if p[0] == FIELDS and end - p >= 2 and p[1] < 0x80 and p[1] <= end - p - 2:  # as nearly all are
            tag, content, p = FIELDS, p + 2, p + 2 + p[1]
        else:
            p = read_number_or_field(p, end, POINT_DEPTH, &tag, &content, &varint)
            if p == NULL:
                return UNREADABLE
        if tag == FIELDS:
            if not read_point_field(scan, content, p, point):
                return UNREADABLE
        elif tag == NAME:
            if not is_utf8(content, p):
                return UNREADABLE
            name_bytes = p - content
        elif tag == TIME:
            number = varint
        elif tag == WARNS:
            if not is_message_of_texts(content, p, FIELD_DEPTH, WARN_TYPE, WARN_MSG):
                return UNREADABLE
        elif tag == DEBUGS:
            if not is_message_of_texts(content, p, FIELD_DEPTH, DEBUG_INFO, DEBUG_INFO):
                return UNREADABLE
    time_ns[0] = <int64_t> number
    if not name_bytes:
        return NO_MEASUREMENT
    if name_bytes > MAX_MEASUREMENT_BYTES:
        return MEASUREMENT_TOO_LONG
    if point.field_reason != FINE:
        return point.field_reason
    if not point.fields:
        return NO_FIELDS
    if point.tags > MAX_TAGS:
        return TOO_MANY_TAGS
    return TOO_MANY_FIELDS if point.fields > MAX_FIELDS else FINE


cdef inline uint64_t span_id(const Value* value) noexcept nogil:
    """16 hex digits or a number; 0 for anything else."""
    cdef uint64_t number
    if value.form == Form.TEXT and value.n == 16 and hex_value(value.text, &number):
        return number
    return number if integer_value(value, &number) else 0


cdef inline int32_t text_number(Scan* scan, const Value* value) noexcept nogil:
    """Its position in `texts`; -1 if it is none. Most texts are known again, and none is compared with many others."""
    cdef uint64_t hashed = 0
    cdef int64_t n = value.n
    cdef int i
    cdef int32_t* slot = NULL
    cdef Text* known
    if value.form != Form.TEXT or not n:
        return -1
    memcpy(&hashed, value.text, min(n, 8))
    if n > 8:
        hashed = hashed * 0x9E3779B97F4A7C15U
        memcpy(&i, value.text + n - 4, 4)
        hashed ^= <uint32_t> i
    hashed = (hashed ^ <uint64_t> n) * 0x9E3779B97F4A7C15U
    for i in range(TRIES):
        slot = &scan.known[((hashed >> 32) + <uint64_t> i) & (SLOTS - 1)]
        if not slot[0]:
            slot[0] = <int32_t> (scan.named + 1)
            break
        known = &scan.texts[slot[0] - 1]
        if known.n == n and memcmp(<const uint8_t*> <uintptr_t> known.at, value.text, n) == 0:
            return slot[0] - 1
    scan.texts[scan.named] = Text(<int64_t> <uintptr_t> value.text, n)
    scan.named += 1
    return <int32_t> (scan.named - 1)


cdef void take(Scan* scan, Point* point, int64_t time_ns, const uint8_t* p, const uint8_t* end) noexcept nogil:
    cdef Row* row = &scan.rows[scan.taken]
    cdef Place* place = &scan.places[scan.taken]
    point.espan.faults = 0
    if time_ns > 0 and time_of(&point.espan, START, 1000) == 0:
        point.espan.own_start = time_ns
    memset(row, 0, sizeof(Row))
    read_espan(&point.espan, row, REQUIRED, COUNTED)
    row.sent_span_id = span_id(&point.others[SPAN_ID - KEYS])
    place.point, place.point_bytes = p - scan.data, end - p
    place.host = text_number(scan, &point.others[HOST - KEYS])
    place.service = text_number(scan, &point.others[SERVICE - KEYS])
    scan.taken += 1


cdef void scan_point(Scan* scan, const uint8_t* p, const uint8_t* end) noexcept nogil:
    """Take or reject one point."""
    cdef Point point
    cdef Reason reason
    cdef int64_t time_ns = 0
    cdef int i
    point.espan.there = point.espan.present = 0
    point.espan.own_start = point.espan.own_end = 0
    point.espan.data = scan.data
    point.tags = point.fields = 0
    point.field_reason = FINE
    for i in range(ALL_KEYS - KEYS):
        point.others[i].form, point.others[i].text, point.others[i].n = Form.NOTHING, NULL, 0
    reason = read_point(scan, p, end, &point, &time_ns)
    if reason == FINE:
        take(scan, &point, time_ns, p, end)
        return
    if scan.rejected < scan.max_told:
        scan.told[scan.rejected] = Told(scan.number, p - scan.data, end - scan.data)
    scan.rejected += 1
    scan.counts[<int> reason] += 1


cdef bint scan_points(Scan* scan, const uint8_t* p) noexcept nogil:
    """False where the body from p on cannot be read, or where there is no row left."""
    cdef uint64_t tag
    cdef const uint8_t* content
    while p < scan.end:
        p = read_field(p, scan.end, POINTS_DEPTH, &tag, &content)
        if p == NULL:
            return False
        if tag == ARR:
            if scan.number >= scan.room:
                return False
            scan_point(scan, content, p)
            scan.number += 1
    return True


cdef void name_places(Scan* scan, const Bytes* bodies) noexcept nogil:
    """Texts by their place in all bodies, one behind another, instead of by their address: they came in this order."""
    cdef int64_t i, number = 0, before = 0, at
    for i in range(scan.named):
        while True:
            at = scan.texts[i].at - <int64_t> <uintptr_t> bodies[number].data
            if 0 <= at <= bodies[number].n - scan.texts[i].n:
                break
            before += bodies[number].n
            number += 1
        scan.texts[i].at = before + at


# --- what Python calls: see _point_scan.pyi --------------------------------------------------------------------------


def count_points(bytes data not None):
    cdef const uint8_t* p = <const uint8_t*> PyBytes_AS_STRING(data)
    cdef const uint8_t* end = p + PyBytes_GET_SIZE(data)
    cdef const uint8_t* content
    cdef uint64_t tag
    cdef int64_t points = 0
    while p < end:  # with the GIL: to give it up and to wait for it would take longer
        p = read_field(p, end, POINTS_DEPTH, &tag, &content)
        if p == NULL:
            return -1
        points += tag == ARR
    return points


def scan(tuple datas not None, Row[::1] rows, Place[::1] places, int64_t[:, ::1] texts, int max_told):
    cdef Scan scan
    cdef bint readable = True
    cdef int64_t i, before = 0, n = len(datas)
    cdef Bytes* bodies
    memset(&scan, 0, sizeof(Scan))
    scan.room = min(rows.shape[0], places.shape[0], texts.shape[0] // 2)
    scan.max_told = min(max(max_told, 0), MAX_TOLD)
    if texts.shape[1] != 2:
        raise ValueError("texts: want two columns")
    if scan.room:
        scan.rows, scan.places, scan.texts = &rows[0], &places[0], <Text*> &texts[0, 0]
    bodies = texts_of(datas)
    try:
        with nogil:
            for i in range(n):
                # places count through all of them
                scan.data = <const uint8_t*> bodies[i].data - before
                scan.end = scan.data + before + bodies[i].n
                readable = readable and scan_points(&scan, scan.data + before)
                before += bodies[i].n
            name_places(&scan, bodies)
    finally:
        free(bodies)
    if not readable:
        return -1, 0, (), ()
    counts = tuple([scan.counts[i] for i in range(REASONS)])
    told = [(scan.told[i].number, scan.told[i].at, scan.told[i].end) for i in range(min(scan.rejected, scan.max_told))]
    return scan.taken, scan.named, counts, tuple(told)
