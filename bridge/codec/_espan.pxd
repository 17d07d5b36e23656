# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""What the values of an eSpan's attributes mean: the rules of bridge.codec.espan, one by one and by the same names."""

from libc.stdint cimport INT64_MAX, int8_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from bridge.codec._xxh64 cimport digest

cdef enum Form:  # of a value
    NOTHING, TEXT, INTEGER, OTHER

cdef enum:  # keys that linking reads, by their bit in SpanColumns.faults
    EBPF_SPAN_TYPE, DIRECTION, REQ_SEQ, RESP_SEQ, THREAD_TRACE_ID, TID, TID_USR, KTIME, PID, APP_TRACE_ID_L
    APP_TRACE_ID_H, APP_PARENT_ID_L, APP_SPAN_SAMPLED, APP_TRACE_ID, APP_PARENT_ID, APP_TRACE_ENCODE
    SRC_IP, SRC_PORT, DST_IP, DST_PORT, START, DURATION, REQUEST_ID, STREAM_ID
    KEYS

cdef enum:
    MAX_KEY = 64
    MAX_NAMES = KEYS + 72  # a kernel may know other keys beside those, and those that profiles name

cdef enum:  # bits of Row.texts
    PID_TEXT = 1
    SRC_IP_TEXT = 2
    DST_IP_TEXT = 4
    HEADERS = 8  # not a text: request headers that Python reads

cdef enum:  # bridge.spans.Kind and Encoding
    ORDINARY = 0
    UNKNOWN_KIND = 3
    HEX = 1
    DEC = 2

cdef struct Row:  # bridge.codec.rows.ROW
    uint64_t req_seq, resp_seq, thread_trace_id, pid, tid, tid_usr
    int64_t ktime, start_ns, end_ns
    uint64_t src_ip, dst_ip, app_trace_hi, app_trace_lo, app_parent
    uint64_t trace_hi, trace_lo, sent_span_id, parent_id, duration_ns, request_id
    uint32_t faults, stream_id
    uint16_t src_port, dst_port
    uint8_t kind, direction, app_encode
    int8_t app_flag
    uint8_t keys_present, texts

cdef struct Value:
    Form form
    const uint8_t* text  # of TEXT
    int64_t n
    uint64_t number  # of INTEGER: its bit pattern

cdef struct Espan:
    Value[KEYS] values  # those of `present`
    uint32_t there  # bit set of the keys the span has
    uint32_t present  # of those whose value is neither nothing nor empty text
    uint32_t faults
    uint64_t own_start, own_end
    const uint8_t* data  # first byte of the request


cdef struct Name:
    uint64_t head  # of `text`
    const char* text
    int number

cdef struct Names:  # zeroed before the first is added
    Name[MAX_KEY][MAX_NAMES] of_length
    int[MAX_KEY] count


cdef inline uint64_t head_of(const uint8_t* text, int64_t n) noexcept nogil:
    """Its first bytes, 8 at most: enough to tell most keys of one length apart, and short ones for good."""
    cdef uint64_t head = 0
    cdef uint32_t half, other
    if n >= 8:
        memcpy(&head, text, 8)
    elif n >= 4:
        memcpy(&half, text, 4)
        memcpy(&other, text + n - 4, 4)
        head = <uint64_t> half << 32 | other
    elif n:
        head = text[0] | <uint64_t> text[n >> 1] << 8 | <uint64_t> text[n - 1] << 16
    return head


cdef inline void add_name(Names* names, bytes key, int number):
    """`key` has to stay alive as long as `names` is used."""
    cdef Py_ssize_t n = len(key)
    if n >= MAX_KEY or names.count[n] >= MAX_NAMES:
        raise ImportError(f"the kernel cannot look up {key.decode()}")
    names.of_length[n][names.count[n]] = Name(head_of(key, n), key, number)
    names.count[n] += 1


cdef inline int number_of(const Names* names, const uint8_t* key, int64_t n) noexcept nogil:
    """The number of a key, -1 where it is none of them."""
    cdef int i
    cdef uint64_t head
    cdef const Name* name
    if n >= MAX_KEY or not names.count[n]:
        return -1
    head = head_of(key, n)
    for i in range(names.count[n]):
        name = &names.of_length[n][i]
        if name.head == head and (n <= 8 or memcmp(key + 8, name.text + 8, n - 8) == 0):
            return name.number
    return -1


cdef inline bint has_value(const Value* value) noexcept nogil:
    return value.form == Form.INTEGER or value.form == Form.OTHER or (value.form == Form.TEXT and value.n > 0)


cdef inline void set_value(Espan* espan, int key, const Value* value) noexcept nogil:
    """Of a key given twice the last counts, also where it has no value."""
    espan.there |= 1u << key
    espan.present &= ~(1u << key)
    if has_value(value):
        espan.present |= 1u << key
        espan.values[key] = value[0]


cdef inline bint is_word(const Value* value, const char* word, int64_t n) noexcept nogil:
    return value.form == Form.TEXT and value.n == n and memcmp(value.text, word, n) == 0


cdef inline bint decimal_value(const Value* value, uint64_t* number) noexcept nogil:
    """The bit pattern of -?[0-9]{1,20} from -2**63 to 2**64 - 1."""
    cdef const uint8_t* p = value.text
    cdef const uint8_t* end = p + value.n
    cdef bint negative = p < end and p[0] == c"-"
    cdef uint64_t digit
    p += negative
    number[0] = 0
    if not 1 <= end - p <= 20:
        return False
    while p < end:
        digit = p[0] - <uint64_t> c"0"
        if digit > 9 or number[0] > (0xFFFFFFFFFFFFFFFFU - digit) / 10:
            return False
        number[0] = number[0] * 10 + digit
        p += 1
    if negative:
        if number[0] > <uint64_t> INT64_MAX + 1:
            return False
        number[0] = 0 - number[0]
    return True


cdef inline bint integer_value(const Value* value, uint64_t* number) noexcept nogil:
    if value.form == Form.INTEGER:
        number[0] = value.number
        return True
    return value.form == Form.TEXT and decimal_value(value, number)


cdef inline bint hex_value(const uint8_t* p, uint64_t* number) noexcept nogil:
    """16 hex digits."""
    cdef int i
    cdef uint8_t c
    number[0] = 0
    for i in range(16):
        c = p[i]
        if c"0" <= c <= c"9":
            c -= c"0"
        elif c"a" <= (c | 0x20) <= c"f":
            c = (c | 0x20) - c"a" + 10
        else:
            return False
        number[0] = number[0] << 4 | c
    return True


cdef inline bint ipv4_value(const Value* value, uint64_t* number) noexcept nogil:
    """Four decimal numbers up to 255 without leading zeros, as Python's ipaddress reads them."""
    cdef const uint8_t* p = value.text
    cdef const uint8_t* end = p + value.n
    cdef const uint8_t* first
    cdef int part
    cdef uint32_t octet
    number[0] = 0
    for part in range(4):
        if part:
            if p >= end or p[0] != c".":
                return False
            p += 1
        first, octet = p, 0
        while p < end and c"0" <= p[0] <= c"9" and p - first < 3:
            octet = octet * 10 + (p[0] - c"0")
            p += 1
        if p == first or octet > 255 or (first[0] == c"0" and p - first > 1):
            return False
        number[0] = number[0] << 8 | octet
    return p == end


cdef inline uint64_t fault(Espan* espan, int key) noexcept nogil:
    espan.faults |= 1u << key
    return 0


cdef inline bint has(const Espan* espan, int key) noexcept nogil:
    return espan.present >> key & 1


cdef inline uint64_t integer(Espan* espan, int key) noexcept nogil:
    cdef uint64_t number
    if not has(espan, key):
        return 0
    return number if integer_value(&espan.values[key], &number) else fault(espan, key)


cdef inline uint64_t time_of(Espan* espan, int key, uint64_t unit_ns) noexcept nogil:
    """In ns; 0 where it is absent, negative or too large."""
    cdef uint64_t number = integer(espan, key)
    return number * unit_ns if number <= <uint64_t> INT64_MAX / unit_ns else 0


cdef inline bint has_time(Espan* espan, int key, uint64_t unit_ns) noexcept nogil:
    cdef uint64_t number
    return has(espan, key) and integer_value(&espan.values[key], &number) and number <= <uint64_t> INT64_MAX / unit_ns


cdef inline uint16_t port(Espan* espan, int key) noexcept nogil:
    cdef uint64_t number = integer(espan, key)
    return <uint16_t> (number if number <= 0xFFFF else fault(espan, key))


cdef inline int8_t sign(Espan* espan, int key) noexcept nogil:
    cdef uint64_t number = integer(espan, key)
    return 0 if number == 0 else 1 if number <= <uint64_t> INT64_MAX else -1


cdef inline uint64_t later(Espan* espan, int key, Row* row, int bit) noexcept nogil:
    """Where a text is that Python reads: first byte << 32 | bytes."""
    cdef Value* value = &espan.values[key]
    row.texts |= bit
    return <uint64_t> (value.text - espan.data) << 32 | <uint64_t> value.n


cdef inline uint64_t address(Espan* espan, int key, Row* row, int bit) noexcept nogil:
    cdef uint64_t number
    if not has(espan, key):
        return 0
    if espan.values[key].form != Form.TEXT:
        return fault(espan, key)
    return number if ipv4_value(&espan.values[key], &number) else later(espan, key, row, bit)


cdef inline uint64_t process(Espan* espan, Row* row) noexcept nogil:
    cdef uint64_t number
    if not has(espan, PID):
        return 0
    if integer_value(&espan.values[PID], &number):
        return number
    return later(espan, PID, row, PID_TEXT) if espan.values[PID].form == Form.TEXT else fault(espan, PID)


cdef inline uint64_t request(Espan* espan) noexcept nogil:
    """A number, or what hash a text has; of the few texts that would be 0 it is 1."""
    cdef Value* value = &espan.values[REQUEST_ID]
    cdef uint64_t number
    if not has(espan, REQUEST_ID):
        return 0
    if integer_value(value, &number):
        return number
    if value.form != Form.TEXT:
        return fault(espan, REQUEST_ID)
    number = digest(value.text, value.text + value.n)
    return number if number else 1


cdef inline uint32_t stream(Espan* espan) noexcept nogil:
    cdef uint64_t number = integer(espan, STREAM_ID)
    return <uint32_t> (number if number <= 0xFFFFFFFFU else fault(espan, STREAM_ID))


cdef inline uint8_t span_type(Espan* espan) noexcept nogil:
    cdef Value* value = &espan.values[EBPF_SPAN_TYPE]
    if has(espan, EBPF_SPAN_TYPE):
        if is_word(value, b"entry", 5):
            return 1
        if is_word(value, b"exit", 4):
            return 2
        if not is_word(value, b"unknown", 7):
            fault(espan, EBPF_SPAN_TYPE)
    return UNKNOWN_KIND


cdef inline uint8_t direction(Espan* espan) noexcept nogil:
    cdef Value* value = &espan.values[DIRECTION]
    if not has(espan, DIRECTION):
        return 0
    if is_word(value, b"incoming", 8):
        return 1
    if is_word(value, b"outgoing", 8):
        return 2
    return 3 if is_word(value, b"unknown", 7) else <uint8_t> fault(espan, DIRECTION)


cdef inline uint8_t encoding(Espan* espan) noexcept nogil:
    cdef Value* value = &espan.values[APP_TRACE_ENCODE]
    if not has(espan, APP_TRACE_ENCODE):
        return 0
    if is_word(value, b"hex", 3):
        return HEX
    return DEC if is_word(value, b"dec", 3) else <uint8_t> fault(espan, APP_TRACE_ENCODE)


cdef inline uint8_t trace_id_text(Espan* espan, uint64_t* high, uint64_t* low) noexcept nogil:
    """How `app_trace_id` is written, and its halves."""
    cdef Value* value = &espan.values[APP_TRACE_ID]
    high[0] = low[0] = 0
    if not has(espan, APP_TRACE_ID):
        return 0
    if value.form == Form.TEXT and value.n == 32 and hex_value(value.text, high) and hex_value(value.text + 16, low):
        return HEX
    high[0] = 0
    if integer_value(value, low):
        return DEC
    low[0] = 0
    return <uint8_t> fault(espan, APP_TRACE_ID)


cdef inline uint64_t parent_id_text(Espan* espan, bint hexadecimal) noexcept nogil:
    cdef Value* value = &espan.values[APP_PARENT_ID]
    cdef uint64_t number, digits
    cdef bint is_number
    if not has(espan, APP_PARENT_ID):
        return 0
    is_number = integer_value(value, &number)
    if value.form == Form.TEXT and value.n == 16 and (hexadecimal or not is_number) and hex_value(value.text, &digits):
        return digits
    return number if is_number else fault(espan, APP_PARENT_ID)


cdef inline void read_header_ids(Espan* espan, Row* row) noexcept nogil:
    cdef uint64_t low = integer(espan, APP_TRACE_ID_L), high = integer(espan, APP_TRACE_ID_H)
    cdef uint64_t parent = integer(espan, APP_PARENT_ID_L), text_high, text_low, text_parent
    cdef uint8_t text_form = trace_id_text(espan, &text_high, &text_low), form = encoding(espan)
    if not (high | low):
        high, low = text_high, text_low
    if not form:
        form = text_form if text_form else HEX if high else DEC
    text_parent = parent_id_text(espan, form == HEX)
    row.app_trace_hi, row.app_trace_lo = high, low
    row.app_parent = parent if parent else text_parent
    row.app_encode = form if high | low else 0


cdef inline int read_times(Espan* espan, Row* row) noexcept nogil:
    """How many of start and duration are known."""
    cdef uint64_t start = time_of(espan, START, 1000), duration = time_of(espan, DURATION, 1000), end = 0
    cdef bint known = has_time(espan, DURATION, 1000)
    if 0 < espan.own_start <= <uint64_t> INT64_MAX:
        start = espan.own_start
    if 0 < espan.own_end <= <uint64_t> INT64_MAX:
        end = espan.own_end
    elif start and known and start + duration <= <uint64_t> INT64_MAX:
        end = start + duration
    if start and end:
        duration, known = end - start, True
    row.start_ns, row.end_ns, row.duration_ns = <int64_t> start, <int64_t> end, duration
    return (start != 0) + known


cdef inline void read_espan(Espan* espan, Row* row, uint32_t required, uint32_t counted) noexcept nogil:
    """required: keys without which it is faulty; counted: those that count for a derived span id, without times."""
    espan.faults = required & ~espan.present
    row.kind, row.direction = span_type(espan), direction(espan)
    row.req_seq, row.resp_seq = integer(espan, REQ_SEQ), integer(espan, RESP_SEQ)
    row.thread_trace_id = integer(espan, THREAD_TRACE_ID)
    row.pid, row.tid, row.tid_usr = process(espan, row), integer(espan, TID), integer(espan, TID_USR)
    row.ktime = <int64_t> time_of(espan, KTIME, 1)
    row.src_ip, row.src_port = address(espan, SRC_IP, row, SRC_IP_TEXT), port(espan, SRC_PORT)
    row.dst_ip, row.dst_port = address(espan, DST_IP, row, DST_IP_TEXT), port(espan, DST_PORT)
    row.app_flag = sign(espan, APP_SPAN_SAMPLED)
    row.request_id, row.stream_id = request(espan), stream(espan)
    read_header_ids(espan, row)
    row.keys_present = <uint8_t> read_times(espan, row)
    row.faults = espan.faults
    counted &= espan.present & ~espan.faults
    while counted:
        row.keys_present += 1
        counted &= counted - 1
