# cython: language_level=3, boundscheck=True, wraparound=False, cdivision=True
"""The compiled twin of bridge.codec.attribute_rules.PlainAttributeEditor, which says what it promises.

Each message is walked once, with the GIL released. Bytes are written from the first field on that changes; where none
does, nothing is. A message inside another is written behind room for its length, and moved up to it afterwards. No
byte is read before it was compared with the end of what it lies in, and none written without room having been made.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memchr, memcmp, memcpy, memmove, memset

from bridge.codec._blake2b cimport DIGEST, Blake2b, begin, digest
from bridge.codec._text cimport Text, text_of
from bridge.codec._wire cimport read_number_or_field
from bridge.codec.points._point_write cimport put_byte, put_varint, varint_size

import numpy as np

from bridge.codec.attribute_fields import FIELDS, Content, Message
from bridge.errors import InvalidData

cdef enum:
    DROP = 1  # bridge.codec.attribute_rules.Action
    STRIP_QUERY = 2
    HASH = 4
    TRUNCATE = 8
    ACTIONS = 4
    KEY = 0x0A
    VALUE_TEXT = 0x0A
    FIELD_TEXT = 0x5A
    HEX = 2 * DIGEST
    MAX_GROUPS = 100
    MAX_DEPTH = 200
    MESSAGES = 32
    TAGS = 128
    LENGTHS = 64  # names longer than this share a list
    NO_MEMORY = -2
    NO_MESSAGE = -1
    TOO_DEEP = -3
    LENGTH_ROOM = 5
    # bridge.codec.attribute_fields
    FIELD = 13
    PAIR = 9
    OTLP_ATTRIBUTE = 32
    POINT_FIELD = 33
    SPAN_NAME = 34
    STATUS_MESSAGE = 35
    TEXT = 36
    BYTES = 37
    INT = 38
    UINT = 39
    BOOL = 40
    DOUBLE = 41
    ANY = 42
    OTHER = 255

cdef uint8_t[MESSAGES][TAGS] WHAT
"""What a field is, by message and tag."""

memset(WHAT, OTHER, sizeof(WHAT))
for _message, _fields in FIELDS.items():
    for _tag, _what in _fields.items():
        WHAT[<int> _message][<int> _tag] = <int> _what
for _name, _number in (
    ("OTLP_ATTRIBUTE", OTLP_ATTRIBUTE), ("POINT_FIELD", POINT_FIELD), ("SPAN_NAME", SPAN_NAME),
    ("STATUS_MESSAGE", STATUS_MESSAGE), ("TEXT", TEXT), ("BYTES", BYTES), ("INT", INT), ("UINT", UINT), ("BOOL", BOOL),
    ("DOUBLE", DOUBLE), ("ANY", ANY),
):
    if Content[_name] != _number:
        raise ImportError(f"attribute_fields.{_name} is {Content[_name]}, not {_number}: build the kernels again")
if Message.FIELD != FIELD or Message.PAIR != PAIR:
    raise ImportError("the messages of attribute_fields have other numbers: build the kernels again")

cdef struct Rule:
    Text name
    int64_t max_bytes
    int actions

cdef struct Rules:
    Rule* exact  # those of one length side by side
    int[LENGTHS + 2] first  # of each length
    Rule* prefixes  # longest first
    int n_prefixes
    const Rule* span_name
    const Rule* status_message
    Blake2b blake

cdef struct Job:
    uint8_t* out
    int64_t n
    int64_t capacity
    int64_t[ACTIONS] counts


# --- names ------------------------------------------------------------------------------------------------------------


cdef inline const Rule* rule_of(const Rules* rules, const uint8_t* name, int64_t n) noexcept nogil:
    cdef int i, length = <int> (n if n < LENGTHS else LENGTHS)
    cdef const Rule* rule
    for i in range(rules.first[length], rules.first[length + 1]):
        rule = &rules.exact[i]
        if rule.name.n == n and memcmp(rule.name.data, name, n) == 0:
            return rule
    for i in range(rules.n_prefixes):
        rule = &rules.prefixes[i]
        if rule.name.n <= n and memcmp(rule.name.data, name, rule.name.n) == 0:
            return rule
    return NULL


# --- writing ----------------------------------------------------------------------------------------------------------


cdef inline int make_room(Job* job, int64_t more) noexcept nogil:
    cdef int64_t capacity
    cdef uint8_t* out
    if job.capacity - job.n >= more:
        return 0
    capacity = 2 * job.capacity + more + 1024
    out = <uint8_t*> realloc(job.out, capacity)
    if out == NULL:
        return NO_MEMORY
    job.out, job.capacity = out, capacity
    return 0


cdef inline int add(Job* job, const void* data, int64_t n) noexcept nogil:
    if n == 0:
        return 0  # there may be no memory yet, which memcpy is never to be given
    if make_room(job, n) < 0:
        return NO_MEMORY
    memcpy(job.out + job.n, data, n)
    job.n += n
    return 0


cdef inline int add_field(Job* job, uint64_t tag, const void* data, int64_t n) noexcept nogil:
    """A delimited field."""
    cdef uint8_t* out
    if make_room(job, 20 + n) < 0:
        return NO_MEMORY
    out = put_varint(put_varint(job.out + job.n, tag), n)
    memcpy(out, data, n)
    job.n = out + n - job.out
    return 0


cdef inline int add_digest(const Rules* rules, Job* job, uint64_t tag, const uint8_t* p, int64_t n) noexcept nogil:
    cdef uint8_t[DIGEST] raw
    cdef uint8_t[HEX] text
    cdef int i
    digest(&rules.blake, p, n, raw)
    for i in range(DIGEST):
        text[2 * i] = b"0123456789abcdef"[raw[i] >> 4]
        text[2 * i + 1] = b"0123456789abcdef"[raw[i] & 15]
    return add_field(job, tag, text, HEX)


cdef inline void count(Job* job, int did) noexcept nogil:
    cdef int i
    for i in range(ACTIONS):
        job.counts[i] += did >> i & 1


# --- values -----------------------------------------------------------------------------------------------------------


cdef int edit_text(
    const Rules* rules, Job* job, const Rule* rule, uint64_t tag, uint64_t hashed_tag, bint is_text,
    const uint8_t* p, const uint8_t* end
) noexcept nogil:
    """Write the field if the rule changes it. What was done, or an error."""
    cdef int did = 0
    cdef const void* mark
    cdef int64_t n
    if rule.actions & STRIP_QUERY and end > p:
        mark = memchr(p, c"?", end - p)
        if mark != NULL:
            end, did = <const uint8_t*> mark, STRIP_QUERY
    if rule.actions & HASH:
        return NO_MEMORY if add_digest(rules, job, hashed_tag, p, end - p) < 0 else did | HASH
    n = end - p
    if rule.actions & TRUNCATE and n > rule.max_bytes:
        n = rule.max_bytes
        while is_text and n and p[n] & 0xC0 == 0x80:
            n -= 1
        did |= TRUNCATE
    if did and add_field(job, tag, p, n) < 0:
        return NO_MEMORY
    return did


cdef int add_number_digest(
    const Rules* rules, Job* job, int what, uint64_t tag, uint64_t number, const uint8_t* end
) noexcept nogil:
    """A number as it is hashed: see `_plain` of the plain twin. `end`: behind its bytes."""
    cdef uint8_t[24] text
    cdef int at = 24
    cdef bint negative = what == INT and number >> 63
    if what == DOUBLE:
        return add_digest(rules, job, tag, end - 8, 8)
    if what == BOOL:
        if number:
            return add_digest(rules, job, tag, <const uint8_t*> <const char*> b"true", 4)
        return add_digest(rules, job, tag, <const uint8_t*> <const char*> b"false", 5)
    if negative:
        number = 0 - number
    while True:
        at -= 1
        text[at] = <uint8_t> (c"0" + number % 10)
        number //= 10
        if number == 0:
            break
    if negative:
        at -= 1
        text[at] = c"-"
    return add_digest(rules, job, tag, text + at, 24 - at)


cdef int edit_scalar(
    const Rules* rules, Job* job, const Rule* rule, int message, int what, uint64_t tag, uint64_t number,
    const uint8_t* content, const uint8_t* end
) noexcept nogil:
    """Write a value that is no message if the rule changes it. What was done, or an error."""
    cdef uint64_t hashed_tag = FIELD_TEXT if message == FIELD else VALUE_TEXT
    if what == TEXT or what == BYTES:
        return edit_text(rules, job, rule, tag, hashed_tag, what == TEXT, content, end)
    if rule.actions & HASH:
        if what == ANY:
            return NO_MEMORY if add_digest(rules, job, hashed_tag, content, end - content) < 0 else HASH
        return NO_MEMORY if add_number_digest(rules, job, what, hashed_tag, number, end) < 0 else HASH
    return DROP if what == ANY else 0


# --- messages ---------------------------------------------------------------------------------------------------------


cdef int edit_nested(
    const Rules* rules, Job* job, int message, const Rule* rule, uint64_t tag,
    const uint8_t* p, const uint8_t* end, int depth
) noexcept nogil:
    """Write a message as a field if a rule changes it. What was done, or an error."""
    cdef int64_t begin_at = job.n, head, n
    cdef int did
    cdef uint8_t* out
    if make_room(job, 10 + LENGTH_ROOM) < 0:
        return NO_MEMORY
    job.n = put_varint(job.out + job.n, tag) - job.out
    head = job.n
    job.n += LENGTH_ROOM
    did = edit_message(rules, job, message, rule, p, end, depth - 1)
    if did <= 0:
        job.n = begin_at
        return did
    n = job.n - head - LENGTH_ROOM
    if n >> 7 * LENGTH_ROOM:
        return NO_MESSAGE
    out = put_varint(job.out + head, n)
    memmove(out, job.out + head + LENGTH_ROOM, n)
    job.n = out + n - job.out
    return did


cdef int find_rule(
    const Rules* rules, int what, const uint8_t* p, const uint8_t* end, const Rule** found
) noexcept nogil:
    """The rule for an attribute, or for a text that is named like one, NULL where there is none; or an error."""
    cdef const uint8_t* content
    cdef uint64_t tag, number
    found[0] = NULL
    if what == SPAN_NAME:
        found[0] = rules.span_name
    elif what == STATUS_MESSAGE:
        found[0] = rules.status_message
    else:
        while p < end:
            p = read_number_or_field(p, end, MAX_GROUPS, &tag, &content, &number)
            if p == NULL:
                return NO_MESSAGE
            # of an attribute that has its name twice each counts: a rule is not to be got round
            if tag == KEY and found[0] == NULL:
                found[0] = rule_of(rules, content, p - content)
    return 0


cdef int edit_attribute(
    const Rules* rules, Job* job, int what, const Rule* rule, uint64_t tag,
    const uint8_t* p, const uint8_t* end, int depth
) noexcept nogil:
    """Write what the rule leaves of it, if it changes it. What was done, or an error."""
    cdef int did
    if rule.actions & DROP:
        did = DROP
    elif what == SPAN_NAME or what == STATUS_MESSAGE:
        did = edit_text(rules, job, rule, tag, tag, True, p, end)
    else:
        did = edit_nested(rules, job, FIELD if what == POINT_FIELD else PAIR, rule, tag, p, end, depth)
    if did > 0:
        count(job, did)
    return did


cdef int edit_message(
    const Rules* rules, Job* job, int message, const Rule* rule, const uint8_t* p, const uint8_t* end, int depth
) noexcept nogil:
    """Write a message if a rule changes it. What was done (nothing is written if nothing was), or an error."""
    cdef const uint8_t* kept = p
    cdef const uint8_t* field
    cdef const uint8_t* content
    cdef const Rule* own = NULL
    cdef uint64_t tag, number = 0
    cdef int64_t begin_at = job.n
    cdef int what, done, did = 0
    if depth <= 0:
        return TOO_DEEP
    while p < end:
        field = p
        p = read_number_or_field(p, end, MAX_GROUPS, &tag, &content, &number)
        if p == NULL:
            return NO_MESSAGE
        what = WHAT[message][tag] if tag < TAGS else OTHER
        if what == OTHER or what >= TEXT and rule == NULL:
            continue
        if MESSAGES <= what < TEXT:
            done = find_rule(rules, what, content, p, &own)
            if done < 0:
                return done
            if own == NULL:
                continue
        if add(job, kept, field - kept) < 0:
            return NO_MEMORY
        kept = field
        if what < MESSAGES:
            done = edit_nested(rules, job, what, rule, tag, content, p, depth)
        elif what < TEXT:
            done = edit_attribute(rules, job, what, own, tag, content, p, depth)
        else:
            done = edit_scalar(rules, job, rule, message, what, tag, number, content, p)
        if done < 0:
            return done
        if done:
            kept, did = p, did | done
    if not did:
        job.n = begin_at
    elif add(job, kept, end - kept) < 0:
        return NO_MEMORY
    return did


cdef int edit_all(
    const Rules* rules, Job* job, int message, const uint8_t* data, const int64_t* bounds, int64_t* lengths, int64_t n
) noexcept nogil:
    """Write all messages from the first on that changes, and what is before it then. Whether any did, or an error."""
    cdef int64_t i, before
    cdef int done, did = 0
    for i in range(n):
        before = job.n
        done = edit_message(rules, job, message, NULL, data + bounds[i], data + bounds[i + 1], MAX_DEPTH)
        if done < 0:
            return done
        if done == 0:
            lengths[i] = bounds[i + 1] - bounds[i]
            if did and add(job, data + bounds[i], lengths[i]) < 0:
                return NO_MEMORY
            continue
        if not did and i:
            # the first that changes: what is before it stands before it
            if insert_before(job, before, data + bounds[0], bounds[i] - bounds[0]) < 0:
                return NO_MEMORY
            before += bounds[i] - bounds[0]
        lengths[i] = job.n - before
        did |= done
    return did


cdef int insert_before(Job* job, int64_t at, const uint8_t* data, int64_t n) noexcept nogil:
    if n == 0:
        return 0
    if make_room(job, n) < 0:
        return NO_MEMORY
    memmove(job.out + at + n, job.out + at, job.n - at)
    memcpy(job.out + at, data, n)
    job.n += n
    return 0


cdef class AttributeEditor:
    """See PlainAttributeEditor."""

    cdef Rules _rules
    cdef list _kept
    """The names, which the rules point into."""

    def __cinit__(self, rules, bytes key):
        if PyBytes_GET_SIZE(key) > 64:
            raise ValueError("a key has at most 64 bytes")
        exact = {rule.name.encode(): rule for rule in rules if not rule.name.endswith("*")}
        prefixes = {rule.name.removesuffix("*").encode(): rule for rule in rules if rule.name.endswith("*")}
        exact_names = sorted(exact, key=len)
        prefix_names = sorted(prefixes, key=lambda name: -len(name))
        self._kept = [*exact_names, *prefix_names]
        begin(&self._rules.blake, <const uint8_t*> PyBytes_AS_STRING(key), <int> PyBytes_GET_SIZE(key))
        self._rules.exact = <Rule*> calloc(len(exact_names) + 1, sizeof(Rule))
        self._rules.prefixes = <Rule*> calloc(len(prefix_names) + 1, sizeof(Rule))
        if self._rules.exact == NULL or self._rules.prefixes == NULL:
            raise MemoryError
        for i, name in enumerate(exact_names):
            self._rules.exact[<int> i] = made(name, exact[name])
        for i, name in enumerate(prefix_names):
            self._rules.prefixes[<int> i] = made(name, prefixes[name])
        self._rules.n_prefixes = len(prefix_names)
        for length in range(LENGTHS + 1):
            self._rules.first[<int> length] = sum(len(name) < length for name in exact_names)
        self._rules.first[LENGTHS + 1] = len(exact_names)
        self._rules.span_name = rule_of(&self._rules, <const uint8_t*> <const char*> b"span.name", 9)
        self._rules.status_message = rule_of(&self._rules, <const uint8_t*> <const char*> b"status.message", 14)

    def __dealloc__(self):
        free(self._rules.exact)
        free(self._rules.prefixes)

    def edit(self, message, bytes data, offsets):
        """See PlainAttributeEditor.edit."""
        from bridge.codec.attribute_rules import Action, Edited

        cdef int number = message, found
        cdef Job job
        # A copy, which nobody else can change between check and use.
        cdef const int64_t[::1] bounds = np.array(offsets, np.int64)
        cdef int64_t n = bounds.shape[0] - 1, i, last
        cdef const uint8_t* start = <const uint8_t*> PyBytes_AS_STRING(data)
        if not 0 <= number < MESSAGES:
            raise ValueError("AttributeEditor: no such message")
        last = bounds[0] if n >= 0 else -1
        if last < 0:
            raise ValueError("AttributeEditor: offsets that fall, or that leave the data")
        for i in range(n + 1):
            if bounds[i] < last or bounds[i] > PyBytes_GET_SIZE(data):
                raise ValueError("AttributeEditor: offsets that fall, or that leave the data")
            last = bounds[i]
        ends = np.zeros(n + 1, np.int64)
        if not n:
            return None
        cdef int64_t[::1] lengths = ends[1:]
        memset(&job, 0, sizeof(job))
        try:
            with nogil:
                found = edit_all(&self._rules, &job, number, start, &bounds[0], &lengths[0], n)
            if found == NO_MEMORY:
                raise MemoryError
            if found == TOO_DEEP:
                raise InvalidData("values nest too deep")
            if found < 0:
                raise InvalidData("attributes: no protobuf message")
            if not found:
                return None
            edited = PyBytes_FromStringAndSize(<const char*> job.out, job.n)
        finally:
            free(job.out)
        counts = {Action(1 << i): job.counts[i] for i in range(ACTIONS) if job.counts[i]}
        return Edited(edited, np.cumsum(ends, dtype=np.int64), counts)


cdef Rule made(bytes name, rule) except *:
    if rule.max_bytes < 0:
        raise ValueError("a rule leaves 0 bytes or more")
    return Rule(text_of(name), rule.max_bytes, int(rule.actions))
