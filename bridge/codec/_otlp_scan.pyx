# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The compiled scan of a request: the twin of bridge.codec.otlp_scan.scan_plain, which it equals on every input.

_wire.pxd is how protobuf reads bytes, _espan.pxd what the values of an eSpan mean; here is which messages a request is
made of. Which fields are messages and which are text is taken from opentelemetry-proto as it is installed. Functions
that walk a message read from `p` to `end` and are told how many more messages are read inside it (`depth`).
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memset

from bridge.codec._espan cimport (
    HEADERS, KEYS, ORDINARY, Espan, Form, Names, Row, Value, add_name, number_of, read_espan, set_value,
)
from bridge.codec._known_keys cimport KEY_SLOTS, NO_TEXT, Key, key_number
from bridge.codec._profile cimport Aliased, Profiles, fill, resolve, set_aliased
from bridge.codec._text cimport Text, texts_of
from bridge.codec._wire cimport DELIMITED, big_endian, is_utf8, little_endian, read_field, read_last_number, read_varint

from google.protobuf.descriptor import FieldDescriptor
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from bridge.spans import convention
from bridge.spans.profiles import Rules

cdef enum:
    MAX_DEPTH = 100  # so many messages and groups inside one another are read
    MAX_MESSAGES = 32
    MAX_FIELDS = 32
    MAX_TOLD = 8

cdef enum:  # tags: field number << 3 | wire type
    RESOURCE_SPANS = 0x0A  # in ExportTraceServiceRequest
    RESOURCE = 0x0A  # in ResourceSpans
    SCOPE_SPANS = 0x12
    RESOURCE_ATTRIBUTE = 0x0A  # in Resource
    SPANS = 0x12  # in ScopeSpans
    TRACE_ID = 0x0A  # in Span
    SPAN_ID = 0x12
    PARENT_ID = 0x22
    START_TIME = 0x39
    END_TIME = 0x41
    ATTRIBUTE = 0x4A
    LINK = 0x6A  # in it ids have the tags that they have in Span
    KEY = 0x0A  # in KeyValue
    VALUE = 0x12
    STRING_VALUE = 0x0A  # in AnyValue
    BOOL_VALUE = 0x10
    INT_VALUE = 0x18
    DOUBLE_VALUE = 0x21
    ARRAY_VALUE = 0x2A
    KVLIST_VALUE = 0x32
    BYTES_VALUE = 0x3A
    STRING_VALUE_STRINDEX = 0x40

cdef struct Place:  # bridge.codec.otlp_scan.PLACE
    int64_t span, span_bytes, scope, scope_bytes, resource, resource_bytes

cdef struct Refusal:
    int64_t resource, scope, span, start, end

cdef struct Scan:
    const uint8_t* data
    const uint8_t* end
    Row* rows
    Place* places
    int64_t room, taken, refused, max_told
    int64_t resource, scope, span  # which one is being read
    Place place
    Refusal[MAX_TOLD] told
    Aliased resource_says
    Key[KEY_SLOTS] keys


# --- what opentelemetry-proto says about its messages ----------------------------------------------------------------

cdef enum:  # what the bytes of a delimited field are; from FIRST_MESSAGE on the number of a message
    RAW, UTF8, FIRST_MESSAGE

cdef uint8_t[MAX_MESSAGES][MAX_FIELDS] content_of
cdef int REQUEST_MESSAGE, RESOURCE_SPANS_MESSAGE, SCOPE_SPANS_MESSAGE, SPAN_MESSAGE, PAIR_MESSAGE, VALUE_MESSAGE
cdef int LINK_MESSAGE


cdef dict describe(request):
    """Fill `content_of` with every message that a request can hold; return their numbers by full name."""
    messages = [request]
    numbers = {request.full_name: FIRST_MESSAGE}
    for message in messages:
        for field in message.fields:
            inner = field.message_type
            if field.number >= MAX_FIELDS or (field.is_repeated and inner is None and field.type != field.TYPE_STRING):
                raise ImportError(f"the kernel cannot read {field.full_name}")
            if inner is not None and inner.full_name not in numbers:
                numbers[inner.full_name] = FIRST_MESSAGE + len(messages)
                messages.append(inner)
            if len(messages) + FIRST_MESSAGE > MAX_MESSAGES:
                raise ImportError("the kernel cannot read so many kinds of messages")
            if inner is not None:
                content_of[numbers[message.full_name]][field.number] = numbers[inner.full_name]
            elif field.type == FieldDescriptor.TYPE_STRING:
                content_of[numbers[message.full_name]][field.number] = UTF8
    return numbers


memset(content_of, RAW, sizeof(content_of))
_NUMBERS = describe(ExportTraceServiceRequest.DESCRIPTOR)
REQUEST_MESSAGE = FIRST_MESSAGE
RESOURCE_SPANS_MESSAGE = _NUMBERS["opentelemetry.proto.trace.v1.ResourceSpans"]
SCOPE_SPANS_MESSAGE = _NUMBERS["opentelemetry.proto.trace.v1.ScopeSpans"]
SPAN_MESSAGE = _NUMBERS["opentelemetry.proto.trace.v1.Span"]
LINK_MESSAGE = _NUMBERS["opentelemetry.proto.trace.v1.Span.Link"]
PAIR_MESSAGE = _NUMBERS["opentelemetry.proto.common.v1.KeyValue"]
VALUE_MESSAGE = _NUMBERS["opentelemetry.proto.common.v1.AnyValue"]

cdef Names names
_KEYS = tuple(key.encode() for key in convention.KEY_OF_BIT)  # keeps alive what `names` points at
if len(_KEYS) != KEYS:
    raise ImportError("the kernel knows other keys than schemas/espan.toml")
cdef Profiles profiles
_held = ()  # keeps alive what `profiles` and the names of its attributes point at


cdef uint32_t MARKERS = sum(convention.FAULT[key] for key in convention.MARKERS)
cdef uint32_t REQUIRED = sum(convention.FAULT[key] for key in convention.REQUIRED)
cdef uint32_t COUNTED = sum(
    convention.FAULT[key] for key in convention.IDENTITY if key not in (convention.START, convention.DURATION)
)


def use_rules(rules):
    global _held
    attributes = tuple([name.encode() for name in rules.attributes])
    memset(&names, 0, sizeof(Names))
    for bit, key in enumerate((*_KEYS, *attributes)):
        add_name(&names, key, bit)
    _held = (attributes, fill(&profiles, rules, MARKERS))


use_rules(Rules())

# --- messages: whether protobuf reads them ---------------------------------------------------------------------------


cdef bint is_message(const uint8_t* p, const uint8_t* end, int message, int depth) noexcept nogil:
    """Whether these bytes are such a message, with all that is in it."""
    cdef uint64_t tag
    cdef const uint8_t* content
    if depth < 0:
        return False
    while p < end:
        p = read_field(p, end, depth, &tag, &content)
        if p == NULL or (tag & 7 == DELIMITED and not is_content(content, p, message, tag, depth)):
            return False
    return True


cdef inline bint is_content(
    const uint8_t* p, const uint8_t* end, int message, uint64_t tag, int depth
) noexcept nogil:
    """Whether these bytes are what this delimited field of this message holds."""
    cdef int content = content_of[message][tag >> 3] if tag >> 3 < MAX_FIELDS else RAW
    if content == RAW:
        return True
    if content == UTF8:
        return is_utf8(p, end)
    return is_message(p, end, content, depth - 1)


# --- attributes: the value of a key ----------------------------------------------------------------------------------


cdef inline bint read_any_value(const uint8_t* p, const uint8_t* end, int depth, Value* value) noexcept nogil:
    """The last of its values; `value` stays as it is where there is none."""
    cdef uint64_t tag
    cdef const uint8_t* content
    while p < end:
        p = read_field(p, end, depth, &tag, &content)
        if p == NULL:
            return False
        if tag == STRING_VALUE:
            value.form, value.text, value.n = Form.TEXT, content, p - content
            if not is_utf8(content, p):
                return False
        elif tag == INT_VALUE:
            value.form = Form.INTEGER
            read_varint(content, p, 10, &value.number)
        else:
            if tag & 7 == DELIMITED and not is_content(content, p, VALUE_MESSAGE, tag, depth):
                return False
            if (
                tag == BOOL_VALUE or tag == DOUBLE_VALUE or tag == ARRAY_VALUE or tag == KVLIST_VALUE
                or tag == BYTES_VALUE or tag == STRING_VALUE_STRINDEX
            ):
                value.form = Form.OTHER
    return True


cdef inline bint is_usual_pair(
    const uint8_t* p, const uint8_t* end, const uint8_t* readable, const uint8_t** key, int64_t* n, Value* value
) noexcept nogil:
    """Whether it is a KeyValue as nearly all are: a key, then a text or an integer, both short, and no more."""
    if end - p < 6 or p[0] != KEY or p[1] >= 0x80 or p[1] > end - p - 6:
        return False
    key[0], n[0] = p + 2, p[1]
    p += 2 + n[0]
    if p[0] != VALUE or p[1] >= 0x80 or p[1] != end - p - 2:
        return False
    if p[2] == STRING_VALUE:
        value.form, value.text, value.n = Form.TEXT, p + 4, end - p - 4
        return p[3] == value.n  # below 128, as the value is
    value.form, value.n = Form.INTEGER, 0
    return p[2] == INT_VALUE and read_last_number(p + 3, end, readable, &value.number)


cdef inline bint read_attribute(
    Scan* scan, const uint8_t* p, const uint8_t* end, int depth, Espan* espan, Aliased* aliased
) noexcept nogil:
    """A KeyValue. Of a field given twice the last counts, values are merged; of a key given twice the last counts."""
    cdef const uint8_t* key = NULL
    cdef int64_t n = 0
    cdef int number
    cdef Value value
    if is_usual_pair(p, end, scan.end, &key, &n, &value):
        if value.form == Form.TEXT and not is_utf8(value.text, end):
            return False
        number = key_number(scan.keys, &names, key, n)
    else:
        if not read_any_pair(p, end, depth, &key, &n, &value):
            return False
        number = number_of(&names, key, n)
    if number == NO_TEXT:
        return False
    if number >= KEYS:
        set_aliased(aliased, number - KEYS, &value)
    elif number >= 0:
        set_value(espan, number, &value)
    return True


cdef bint read_any_pair(
    const uint8_t* p, const uint8_t* end, int depth, const uint8_t** key, int64_t* n, Value* value
) noexcept nogil:
    """A KeyValue however it is written."""
    cdef uint64_t tag
    cdef const uint8_t* content
    key[0], n[0], value.form = NULL, 0, Form.NOTHING
    while p < end:
        p = read_field(p, end, depth, &tag, &content)
        if p == NULL:
            return False
        if tag == KEY:
            if not is_utf8(content, p):
                return False
            key[0], n[0] = content, p - content
        elif tag == VALUE:
            if not read_any_value(content, p, depth - 1, value):
                return False
        elif tag & 7 == DELIMITED and not is_content(content, p, PAIR_MESSAGE, tag, depth):
            return False
    return True


# --- spans and what is around them -----------------------------------------------------------------------------------


cdef inline uint64_t id_of(const uint8_t* p, const uint8_t* end) noexcept nogil:
    return big_endian(p) if end - p == 8 else 0


cdef inline bint is_id(const uint8_t* p, const uint8_t* end, int64_t length) noexcept nogil:
    """Whether an id has the length it must have, or none."""
    return p == end or end - p == length


cdef bint read_link(const uint8_t* p, const uint8_t* end, int depth, bint* valid) noexcept nogil:
    """`valid` becomes False where one of its ids has another length than it must have."""
    cdef uint64_t tag
    cdef const uint8_t* content
    if depth < 0:
        return False
    while p < end:
        p = read_field(p, end, depth, &tag, &content)
        if p == NULL:
            return False
        if tag == TRACE_ID or tag == SPAN_ID:
            valid[0] &= is_id(content, p, 16 if tag == TRACE_ID else 8)
        elif tag & 7 == DELIMITED and not is_content(content, p, LINK_MESSAGE, tag, depth):
            return False
    return True


cdef bint scan_span(Scan* scan, const uint8_t* p, const uint8_t* end, int depth) noexcept nogil:
    """Take or refuse one span. False where it cannot be read, or where there is no row left for it."""
    cdef Espan espan
    cdef Row row
    cdef uint64_t tag
    cdef const uint8_t* content
    cdef const uint8_t* first = p
    cdef bint valid = True  # every id that is written, also where a later one overrides it
    cdef Aliased aliased
    cdef bint is_espan
    aliased.present = 0
    espan.there = espan.present = 0
    espan.own_start = espan.own_end = 0
    espan.data = scan.data
    memset(&row, 0, sizeof(Row))
    while p < end:
        if p[0] == ATTRIBUTE and end - p >= 2 and p[1] < 0x80 and p[1] <= end - p - 2:  # as nearly all are
            tag, content, p = ATTRIBUTE, p + 2, p + 2 + p[1]
        else:
            p = read_field(p, end, depth, &tag, &content)
            if p == NULL:
                return False
        if tag == ATTRIBUTE:
            if not read_attribute(scan, content, p, depth - 1, &espan, &aliased):
                return False
        elif tag == TRACE_ID:
            valid &= is_id(content, p, 16)
            row.trace_hi = big_endian(content) if p - content == 16 else 0
            row.trace_lo = big_endian(content + 8) if p - content == 16 else 0
        elif tag == SPAN_ID:
            valid &= is_id(content, p, 8)
            row.sent_span_id = id_of(content, p)
        elif tag == PARENT_ID:
            valid &= is_id(content, p, 8)
            row.parent_id = id_of(content, p)
        elif tag == LINK:
            if not read_link(content, p, depth - 1, &valid):
                return False
        elif tag == START_TIME:
            espan.own_start = little_endian(content)
        elif tag == END_TIME:
            espan.own_end = little_endian(content)
        elif tag & 7 == DELIMITED and not is_content(content, p, SPAN_MESSAGE, tag, depth):
            return False
    is_espan = espan.there & MARKERS != 0
    if profiles.n_attributes:
        is_espan |= resolve(&profiles, &espan, &aliased, &scan.resource_says)
        if aliased.present & profiles.headers:
            row.texts = HEADERS
    if is_espan:
        read_espan(&espan, &row, REQUIRED, COUNTED)
    elif valid and row.trace_hi | row.trace_lo and row.sent_span_id:
        row.kind = ORDINARY
        row.texts = 0
        row.start_ns = <int64_t> espan.own_start if espan.own_start <= <uint64_t> INT64_MAX else 0
        row.end_ns = <int64_t> espan.own_end if espan.own_end <= <uint64_t> INT64_MAX else 0
    else:
        refuse(scan, first, end)
        return True
    if scan.taken >= scan.room:
        return False
    scan.place.span, scan.place.span_bytes = first - scan.data, end - first
    scan.rows[scan.taken], scan.places[scan.taken] = row, scan.place
    scan.taken += 1
    return True


cdef void refuse(Scan* scan, const uint8_t* p, const uint8_t* end) noexcept nogil:
    if scan.refused < scan.max_told:
        scan.told[scan.refused] = Refusal(scan.resource, scan.scope, scan.span, p - scan.data, end - scan.data)
    scan.refused += 1


cdef bint scan_scope(Scan* scan, const uint8_t* p, const uint8_t* end, int depth) noexcept nogil:
    cdef uint64_t tag
    cdef const uint8_t* content
    scan.place.scope, scan.place.scope_bytes, scan.span = p - scan.data, end - p, 0
    while p < end:
        p = read_field(p, end, depth, &tag, &content)
        if p == NULL:
            return False
        if tag == SPANS:
            if not scan_span(scan, content, p, depth - 1):
                return False
            scan.span += 1
        elif tag & 7 == DELIMITED and not is_content(content, p, SCOPE_SPANS_MESSAGE, tag, depth):
            return False
    return True


cdef void read_resource(Scan* scan, const uint8_t* p, const uint8_t* end, int depth) noexcept nogil:
    """What a ResourceSpans says of the attributes that profiles name, before its spans are read.

    A resource given twice is one. Whether it all can be read is seen later.
    """
    cdef Espan own  # what the resource says by our own keys does not count
    cdef uint64_t tag
    cdef const uint8_t* inner
    cdef const uint8_t* inner_end
    cdef const uint8_t* content
    own.there = own.present = 0
    scan.resource_says.present = 0
    while p < end:
        p = read_field(p, end, depth, &tag, &inner)
        if p == NULL:
            return
        if tag != RESOURCE:
            continue
        inner_end = p
        while inner < inner_end:
            inner = read_field(inner, inner_end, depth - 1, &tag, &content)
            if inner == NULL or (
                tag == RESOURCE_ATTRIBUTE
                and not read_attribute(scan, content, inner, depth - 2, &own, &scan.resource_says)
            ):
                return


cdef bint scan_resource(Scan* scan, const uint8_t* p, const uint8_t* end, int depth) noexcept nogil:
    cdef uint64_t tag
    cdef const uint8_t* content
    scan.place.resource, scan.place.resource_bytes, scan.scope = p - scan.data, end - p, 0
    if profiles.n_attributes:
        read_resource(scan, p, end, depth)
    while p < end:
        p = read_field(p, end, depth, &tag, &content)
        if p == NULL:
            return False
        if tag == SCOPE_SPANS:
            if not scan_scope(scan, content, p, depth - 1):
                return False
            scan.scope += 1
        elif tag & 7 == DELIMITED and not is_content(content, p, RESOURCE_SPANS_MESSAGE, tag, depth):
            return False
    return True


cdef bint scan_request(Scan* scan, const uint8_t* p, const uint8_t* end, int depth) noexcept nogil:
    cdef uint64_t tag
    cdef const uint8_t* content
    while p < end:
        p = read_field(p, end, depth, &tag, &content)
        if p == NULL:
            return False
        if tag == RESOURCE_SPANS:
            if not scan_resource(scan, content, p, depth - 1):
                return False
            scan.resource += 1
        elif tag & 7 == DELIMITED and not is_content(content, p, REQUEST_MESSAGE, tag, depth):
            return False
    return True


cdef int64_t count(const uint8_t* p, const uint8_t* end, int level) noexcept nogil:
    """Spans below a request (level 0), a ResourceSpans (1) or a ScopeSpans (2); -1 where one cannot be read."""
    cdef uint64_t tag
    cdef const uint8_t* content
    cdef int64_t spans = 0, inner
    while p < end:
        p = read_field(p, end, MAX_DEPTH - level, &tag, &content)
        if p == NULL:
            return -1
        if level == 2:
            spans += tag == SPANS
        elif tag == <uint64_t> (RESOURCE_SPANS if level == 0 else SCOPE_SPANS):
            inner = count(content, p, level + 1)
            if inner < 0:
                return -1
            spans += inner
    return spans


# --- what Python calls: see _otlp_scan.pyi ---------------------------------------------------------------------------


def count_spans(bytes data not None):
    cdef const uint8_t* p = <const uint8_t*> PyBytes_AS_STRING(data)
    cdef const uint8_t* end = p + PyBytes_GET_SIZE(data)
    return count(p, end, 0)  # with the GIL: to give it up and to wait for it would take longer


def scan(tuple datas not None, Row[::1] rows, Place[::1] places, int max_refusals):
    cdef Scan scan
    cdef bint readable = True
    cdef int64_t i, before = 0, n = len(datas)
    cdef Text* texts
    memset(&scan, 0, sizeof(Scan))
    scan.room = min(rows.shape[0], places.shape[0])
    scan.max_told = min(max(max_refusals, 0), MAX_TOLD)
    if scan.room:
        scan.rows, scan.places = &rows[0], &places[0]
    texts = texts_of(datas)
    try:
        with nogil:
            for i in range(n):
                # places count through all of them
                scan.data = <const uint8_t*> texts[i].data - before
                scan.end = scan.data + before + texts[i].n
                readable = readable and scan_request(&scan, scan.data + before, scan.end, MAX_DEPTH)
                before += texts[i].n
    finally:
        free(texts)
    if not readable:
        return -1, 0, ()
    told = [
        (scan.told[i].resource, scan.told[i].scope, scan.told[i].span, scan.told[i].start, scan.told[i].end)
        for i in range(min(scan.refused, scan.max_told))
    ]
    return scan.taken, scan.refused, tuple(told)


def without_field_2(bytes data not None, int64_t at, int64_t length):
    cdef const uint8_t* field = <const uint8_t*> PyBytes_AS_STRING(data)
    cdef const uint8_t* p
    cdef const uint8_t* end
    cdef const uint8_t* content
    cdef uint64_t tag
    if not 0 <= at <= PyBytes_GET_SIZE(data) or not 0 <= length <= PyBytes_GET_SIZE(data) - at:
        raise ValueError("a message that lies outside the request")
    kept = []
    p, end = field + at, field + at + length
    while p < end:
        field = p
        p = read_field(p, end, MAX_DEPTH, &tag, &content)
        if p == NULL:
            raise ValueError("no protobuf message")
        if tag != SPANS:
            kept.append((<const char*> field)[: p - field])
    return b"".join(kept)
