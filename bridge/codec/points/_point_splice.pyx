# cython: language_level=3, boundscheck=True, wraparound=False, cdivision=True
"""The compiled twin of bridge.codec.points.splice.PlainPointSplicer, which says what it promises.

The constructor walks each point once and notes what is cut out of it and which tags it lacks, so that sizes are known
before anything is written; `write` then copies what lies between the cuts. Both release the GIL. The few points that
have a key twice are walked again, with the bytes that bridge.codec.points.repairs makes of them. Nothing is read or
written by an address that was not checked here: what is checked is copied out of the caller's arrays first.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcmp, memcpy

from bridge.codec._fetch cimport FETCH_AHEAD, fetch
from bridge.codec._text cimport Text, text_of, texts_of
from bridge.codec._wire cimport read_field, read_number_or_field
from bridge.codec.points._point_fields cimport (
    DOUBLE_FRAME, FIELDS, KEY, TEXT, TEXT_FRAME, digits_of, parent_size, put_decimal, put_double, put_head, put_parent,
)
from bridge.codec.points._point_write cimport put, put_byte, put_hex, put_varint, varint_size

import numpy as np

from bridge.codec.decided import confidence_of
from bridge.codec.points.repairs import repaired, start_ns_of
from bridge.errors import InvalidData
from bridge.spans import Method

cdef enum:
    ARR = 0x0A  # tags: field number << 3 | wire type; of PBPoints
    TIME = 0x18  # of PBPoint
    EXPORT = 1  # bridge.spans.Outcome
    DEC = 2  # bridge.spans.Encoding
    MAX_METHODS = 16
    MAX_TAGS = 64
    MAX_GROUPS = 100  # so deep groups of unknown fields nest
    SLOTS = 256  # of keys that were met in one point, a power of two
    TRIES = 16

cdef struct Tag:
    Text key
    Text field

cdef struct Met:
    const uint8_t* key
    int64_t n
    int64_t walk  # in which it was met

cdef struct Cut:
    int64_t start
    int64_t end

cdef struct Point:
    const uint8_t* data
    int64_t length
    int64_t size  # as it leaves, without tag and length
    int64_t cut
    int64_t cuts
    const uint8_t* start  # the content of the field `start`, if there is one and no time
    int64_t start_bytes
    uint64_t time_ns  # that it is given; 0 for none
    uint64_t tags  # which of them it is given
    Text link
    uint32_t clock
    uint8_t edited
    uint8_t odd  # it may have a key twice
    uint8_t method
    uint8_t has_parent
    uint8_t has_ebpf_parent
    uint8_t trace_digits  # of a decimal id; 0 for hex
    uint8_t parent_digits

NO_CLOCK = np.zeros(0, np.uint32)


cdef list METHOD = [b"", *(m.name.lower().encode() for m in Method if m)]
cdef int METHODS = len(METHOD)
cdef Text[MAX_METHODS] methods
for _number in range(METHODS):
    methods[_number] = text_of(METHOD[_number])


cdef inline bint is_replaced_key(const uint8_t* key, int64_t n) noexcept nogil:
    if n == 7:
        return memcmp(key, b"span_id", 7) == 0
    if n == 8:
        return memcmp(key, b"trace_id", 8) == 0
    if n == 9:
        return memcmp(key, b"parent_id", 9) == 0
    if n == 13:
        return memcmp(key, b"ebpf_trace_id", 13) == 0
    if n == 14:
        return (
            memcmp(key, b"app_trace_id_l", 14) == 0
            or memcmp(key, b"app_trace_id_h", 14) == 0
            or memcmp(key, b"ebpf_parent_id", 14) == 0
        )
    if n == 15:
        return memcmp(key, b"app_parent_id_l", 15) == 0
    if n < 17 or n > 26 or memcmp(key, b"espan", 5) != 0:
        return False
    if n == 17:
        return memcmp(key, b"espan_link_method", 17) == 0 or memcmp(key, b"espan.link.method", 17) == 0
    if n == 21:
        return (
            memcmp(key, b"espan_link_confidence", 21) == 0
            or memcmp(key, b"espan.link.confidence", 21) == 0
            or memcmp(key, b"espan_clock_reference", 21) == 0
            or memcmp(key, b"espan.clock.reference", 21) == 0
            or memcmp(key, b"espan_clock_offset_ns", 21) == 0
            or memcmp(key, b"espan.clock.offset_ns", 21) == 0
        )
    return n == 26 and (
        memcmp(key, b"espan_clock_uncertainty_ns", 26) == 0 or memcmp(key, b"espan.clock.uncertainty_ns", 26) == 0
    )


cdef inline bint is_span_links(const uint8_t* key, int64_t n) noexcept nogil:
    return n == 10 and memcmp(key, b"span_links", 10) == 0


cdef inline bint read_key(const uint8_t* p, const uint8_t* end, const uint8_t** key, int64_t* n) noexcept nogil:
    """The key of a Field: of one given twice the last. False where it is no message."""
    cdef const uint8_t* content
    cdef uint64_t tag
    key[0], n[0] = p, 0
    if end - p >= 2 and p[0] == KEY and p[1] < 0x80 and p[1] <= end - p - 2:  # as nearly all begin
        key[0], n[0] = p + 2, p[1]
        p += 2 + p[1]
        if end - p >= 2 and p[0] == TEXT and p[1] < 0x80 and p[1] <= end - p - 2:
            p += 2 + p[1]
    while p < end:
        p = read_field(p, end, MAX_GROUPS, &tag, &content)
        if p == NULL:
            return False
        if tag == KEY:
            key[0], n[0] = content, p - content
    return True


cdef inline uint64_t hash_of(const uint8_t* key, int64_t n) noexcept nogil:
    """Of both its ends; the upper bits are the best."""
    cdef uint64_t head = 0, tail = 0
    cdef uint32_t half
    if n >= 8:
        memcpy(&head, key, 8)
        memcpy(&tail, key + n - 8, 8)
    elif n >= 4:
        memcpy(&half, key, 4)
        head = half
        memcpy(&half, key + n - 4, 4)
        tail = half
    elif n:
        head, tail = <uint64_t> key[0] << 8 | key[n >> 1], key[n - 1]
    head = (head ^ <uint64_t> n) * 0x9E3779B97F4A7C15U
    return (head ^ head >> 29 ^ tail) * 0xBF58476D1CE4E5B9U


cdef const uint64_t[:] column(const uint64_t[:] values, Py_ssize_t n):
    """The column, sure to have n rows: what is read without the GIL cannot raise."""
    if values.shape[0] != n:
        raise ValueError("PointSplicer: columns of unequal length")
    return values


cdef class PointSplicer:
    cdef readonly object sizes
    cdef object _payloads, _tag_texts, _links  # hold what is pointed into
    cdef list _repaired
    cdef Point* _points
    cdef Py_ssize_t _n
    cdef Tag[MAX_TAGS] _tags
    cdef int _n_tags
    cdef Cut* _cuts
    cdef int64_t _n_cuts, _cut_capacity, _walks
    cdef Met[SLOTS] _met
    cdef object _clock_texts  # holds what `_clocks` points into
    cdef Text* _clocks  # the first is none
    cdef Py_ssize_t _n_clocks
    cdef const double[:] _confidence
    cdef const uint64_t[:] _trace_hi, _trace_lo, _span_id, _parent_id, _ebpf_hi, _ebpf_lo, _ebpf_parent

    def __cinit__(
        self,
        data,
        const uint32_t[:] block,
        const int64_t[:] start,
        const int64_t[:] end,
        decisions,
        tags,
        links,
        clocks=(),
        clock=NO_CLOCK,
    ):
        cdef Py_ssize_t n = len(decisions), failed
        cdef const double[:] sure = confidence_of(decisions)
        self._payloads, self._tag_texts, self._links = tuple(data), tuple(tags), tuple(links)
        self._trace_hi, self._trace_lo = column(decisions.trace_hi, n), column(decisions.trace_lo, n)
        self._span_id, self._parent_id = column(decisions.span_id, n), column(decisions.parent_span_id, n)
        self._ebpf_hi, self._ebpf_lo = column(decisions.ebpf_trace_hi, n), column(decisions.ebpf_trace_lo, n)
        self._ebpf_parent = column(decisions.ebpf_parent_id, n)
        self._points = <Point*> calloc(n + 1, sizeof(Point))
        if self._points == NULL:
            raise MemoryError
        self._n = n
        if sure.shape[0] != n:
            raise ValueError("PointSplicer: columns of unequal length")
        self._confidence = sure
        self._take_tags()
        self._clock_texts = (b"", *clocks)
        self._n_clocks = len(self._clock_texts)
        self._clocks = texts_of(self._clock_texts)
        self._locate(block, start, end)
        self._decide(decisions.outcome, decisions.method, decisions.encode, clock)
        with nogil:
            failed = self._walk_all()
        if failed == -2:
            raise MemoryError
        if failed >= 0:
            raise InvalidData(f"span {failed}: its bytes are no protobuf message")
        self._repair()
        self._measure()

    def __dealloc__(self):
        free(self._points)
        free(self._cuts)
        free(self._clocks)

    cdef int _take_tags(self) except -1:
        cdef int i
        if len(self._tag_texts) > MAX_TAGS:
            raise ValueError(f"PointSplicer: more than {MAX_TAGS} tags")
        self._tag_texts = tuple((<bytes?> key, <bytes?> text) for key, text in self._tag_texts)
        for i in range(len(self._tag_texts)):
            key, text = self._tag_texts[i]
            self._tags[i] = Tag(text_of(key), text_of(text))
        self._n_tags = len(self._tag_texts)
        return 0

    cdef int _locate(self, const uint32_t[:] block, const int64_t[:] start, const int64_t[:] end) except -1:
        """Find the bytes of each point, inside its payload."""
        cdef Py_ssize_t i, blocks = len(self._payloads), n = self._n
        cdef uint32_t number, current = 0
        cdef int64_t begin, stop, length = -1
        cdef const uint8_t* base = NULL
        cdef bytes payload
        if block.shape[0] != n or start.shape[0] != n or end.shape[0] != n:
            raise ValueError("PointSplicer: columns of unequal length")
        for i in range(n):
            number, begin, stop = block[i], start[i], end[i]
            if number != current or base == NULL:
                if number >= blocks:
                    raise InvalidData(f"span {i} lies outside its payload")
                payload = <bytes?> self._payloads[number]
                base, length, current = <const uint8_t*> PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload), number
            if not 0 <= begin <= stop <= length:
                raise InvalidData(f"span {i} lies outside its payload")
            self._points[i].data = base + begin
            self._points[i].length = stop - begin
        return 0

    cdef int _decide(
        self,
        const uint8_t[:] outcome,
        const uint8_t[:] method,
        const uint8_t[:] encode,
        const uint32_t[:] clock,
    ) except -1:
        """Note what each point is given, so that its size cannot change any more."""
        cdef Py_ssize_t i, n_links = len(self._links)
        cdef Point* point
        if outcome.shape[0] != self._n or method.shape[0] != self._n or encode.shape[0] != self._n:
            raise ValueError("PointSplicer: columns of unequal length")
        if (n_links and n_links != self._n) or (clock.shape[0] and clock.shape[0] != self._n):
            raise ValueError("PointSplicer: columns of unequal length")
        for i in range(self._n):
            point = &self._points[i]
            point.edited = outcome[i] == EXPORT
            point.method = method[i] if method[i] < METHODS else 0
            point.has_parent = self._parent_id[i] != 0
            point.has_ebpf_parent = self._ebpf_parent[i] != 0
            if encode[i] == DEC:
                point.trace_digits = digits_of(self._trace_lo[i])
                point.parent_digits = digits_of(self._parent_id[i])
            if clock.shape[0]:
                point.clock = clock[i]
                if point.clock >= self._n_clocks:
                    raise ValueError("PointSplicer: a row whose clock is not there")
            if n_links and point.edited:
                point.link = text_of(<bytes?> self._links[i])
        return 0

    cdef Py_ssize_t _walk_all(self) noexcept nogil:
        """-1, or the point that cannot be read, or -2 without memory."""
        cdef Py_ssize_t i
        cdef int failed
        for i in range(self._n):
            if i + FETCH_AHEAD < self._n:
                fetch(self._points[i + FETCH_AHEAD].data, self._points[i + FETCH_AHEAD].length)
            failed = self._walk(&self._points[i])
            if failed:
                return i if failed == -1 else failed
        return -1

    cdef int _repair(self) except -1:
        """Put other bytes in the place of those that may not leave as they are; add times that are missing."""
        cdef Py_ssize_t i
        cdef Point* point
        cdef bytes data, better
        self._repaired = []
        for i in range(self._n):
            point = &self._points[i]
            if point.odd:
                data = PyBytes_FromStringAndSize(<const char*> point.data, point.length)
                better = repaired(data)
                self._repaired.append(better)
                point.data, point.length = <const uint8_t*> PyBytes_AS_STRING(better), PyBytes_GET_SIZE(better)
                if self._walk(point):
                    raise MemoryError
            if point.start != NULL:
                point.time_ns = start_ns_of(PyBytes_FromStringAndSize(<const char*> point.start, point.start_bytes))
                point.size += 1 + varint_size(point.time_ns) if point.time_ns else 0
        return 0

    cdef int _walk(self, Point* point) noexcept nogil:
        """Find what is cut out of a point, and what it lacks. 0; -1 where it cannot be read, -2 without memory."""
        cdef const uint8_t* p = point.data
        cdef const uint8_t* end = point.data + point.length
        cdef const uint8_t* field
        cdef const uint8_t* content
        cdef const uint8_t* key
        cdef uint64_t tag, number = 0, time = 0
        cdef int64_t n
        cdef bint odd = False
        point.size, point.cut, point.cuts = point.length, self._n_cuts, 0
        point.start = NULL
        point.tags = ~<uint64_t> 0 >> (MAX_TAGS - self._n_tags) if self._n_tags else 0
        self._walks += 1
        while p < end:
            field = p
            if p[0] == FIELDS and end - p >= 2 and p[1] < 0x80 and p[1] <= end - p - 2:
                tag, content = FIELDS, p + 2
                p = content + field[1]
            else:
                p = read_number_or_field(p, end, MAX_GROUPS, &tag, &content, &number)
            if p == NULL:
                return -1
            if tag == TIME:
                time = number
            if tag != FIELDS:
                continue
            if not read_key(content, p, &key, &n):
                return -1
            if point.edited and (is_replaced_key(key, n) or (point.link.n and is_span_links(key, n))):
                if self._add_cut(point, field - point.data, p - point.data) < 0:
                    return -2
                continue
            odd = odd or not self._is_new(key, n)
            if n == 5 and memcmp(key, b"start", 5) == 0:
                point.start, point.start_bytes = content, p - content
            if point.tags:
                self._take_off(point, key, n)
        point.odd = odd
        if time:
            point.start = NULL
        self._grow(point)
        return 0

    cdef inline bint _is_new(self, const uint8_t* key, int64_t n) noexcept nogil:
        """Whether this walk has not met the key before. False also where that is not sure: work is bounded."""
        cdef uint64_t hashed = hash_of(key, n) >> 32
        cdef Met* met
        cdef int i
        for i in range(TRIES):
            met = &self._met[(hashed + <uint64_t> i) & (SLOTS - 1)]
            if met.walk != self._walks:
                met.key, met.n, met.walk = key, n, self._walks
                return True
            if met.n == n and memcmp(met.key, key, n) == 0:
                return False
        return False

    cdef inline void _take_off(self, Point* point, const uint8_t* key, int64_t n) noexcept nogil:
        """A tag that the point has itself is not added."""
        cdef int i
        for i in range(self._n_tags):
            if self._tags[i].key.n == n and memcmp(self._tags[i].key.data, key, n) == 0:
                point.tags &= ~(<uint64_t> 1 << i)

    cdef inline void _grow(self, Point* point) noexcept nogil:
        """Count what is added."""
        cdef int i
        for i in range(self._n_tags):
            if point.tags >> i & 1:
                point.size += self._tags[i].field.n
        if not point.edited:
            return
        point.size += TEXT_FRAME + 7 + 16
        point.size += TEXT_FRAME + 8 + (point.trace_digits if point.trace_digits else 32)
        point.size += TEXT_FRAME + 9 + parent_size(point.has_parent, point.parent_digits)
        point.size += TEXT_FRAME + 13 + 32
        point.size += TEXT_FRAME + 14 + parent_size(point.has_ebpf_parent, 0)
        if point.method:
            point.size += TEXT_FRAME + 17 + methods[point.method].n
            point.size += DOUBLE_FRAME + 21
        point.size += self._clocks[point.clock].n + point.link.n

    cdef int _add_cut(self, Point* point, int64_t start, int64_t end) noexcept nogil:
        cdef Cut* cuts
        cdef int64_t capacity
        point.size -= end - start
        if point.cuts and self._cuts[self._n_cuts - 1].end == start:
            self._cuts[self._n_cuts - 1].end = end
            return 0
        if self._n_cuts == self._cut_capacity:
            capacity = 2 * self._cut_capacity + 1024
            cuts = <Cut*> realloc(self._cuts, capacity * sizeof(Cut))
            if cuts == NULL:
                return -1
            self._cuts, self._cut_capacity = cuts, capacity
        self._cuts[self._n_cuts] = Cut(start, end)
        self._n_cuts += 1
        point.cuts += 1
        return 0

    cdef int _measure(self) except -1:
        cdef Py_ssize_t i
        sizes = np.empty(self._n, np.int64)
        cdef int64_t[::1] view = sizes
        for i in range(self._n):
            view[i] = self._framed(&self._points[i])
        sizes.flags.writeable = False
        self.sizes = sizes
        return 0

    cdef inline int64_t _framed(self, Point* point) noexcept nogil:
        return 1 + varint_size(point.size) + point.size

    def write(self, Py_ssize_t start, Py_ssize_t stop):
        """See PlainPointSplicer.write."""
        cdef Py_ssize_t i
        cdef int64_t total = 0
        cdef bytes written
        cdef uint8_t* out
        cdef const uint8_t* end
        if not 0 <= start <= stop <= self._n:
            raise IndexError(f"points {start} to {stop} of {self._n}")
        for i in range(start, stop):
            total += self._framed(&self._points[i])
        written = PyBytes_FromStringAndSize(NULL, total)
        out = <uint8_t*> PyBytes_AS_STRING(written)
        end = out + total
        with nogil:
            for i in range(start, stop):
                if i + FETCH_AHEAD < stop:
                    fetch(self._points[i + FETCH_AHEAD].data, self._points[i + FETCH_AHEAD].length)
                out = self._put_point(out, i)
        if out != end:
            raise AssertionError("a point was written in another size than it was measured in")
        return written

    cdef uint8_t* _put_point(self, uint8_t* out, Py_ssize_t row) noexcept nogil:
        cdef Point* point = &self._points[row]
        cdef int64_t at = 0, i
        out = put_varint(put_byte(out, ARR), point.size)
        for i in range(point.cut, point.cut + point.cuts):
            out = put(out, point.data + at, self._cuts[i].start - at)
            at = self._cuts[i].end
        out = put(out, point.data + at, point.length - at)
        if point.time_ns:
            out = put_varint(put_byte(out, TIME), point.time_ns)
        for i in range(self._n_tags):
            if point.tags >> i & 1:
                out = put(out, self._tags[i].field.data, self._tags[i].field.n)
        return self._put_decided(out, point, row) if point.edited else out

    cdef uint8_t* _put_decided(self, uint8_t* out, Point* point, Py_ssize_t row) noexcept nogil:
        out = put_hex(put_head(out, b"span_id", 7, 16), self._span_id[row])
        if point.trace_digits:
            out = put_head(out, b"trace_id", 8, point.trace_digits)
            out = put_decimal(out, self._trace_lo[row], point.trace_digits)
        else:
            out = put_hex(put_head(out, b"trace_id", 8, 32), self._trace_hi[row])
            out = put_hex(out, self._trace_lo[row])
        out = put_parent(out, b"parent_id", 9, point.has_parent, point.parent_digits, self._parent_id[row])
        out = put_hex(put_head(out, b"ebpf_trace_id", 13, 32), self._ebpf_hi[row])
        out = put_hex(out, self._ebpf_lo[row])
        out = put_parent(out, b"ebpf_parent_id", 14, point.has_ebpf_parent, 0, self._ebpf_parent[row])
        if point.method:
            out = put_head(out, b"espan_link_method", 17, <int> methods[point.method].n)
            out = put(out, methods[point.method].data, methods[point.method].n)
            out = put_double(out, b"espan_link_confidence", 21, self._confidence[row])
        out = put(out, self._clocks[point.clock].data, self._clocks[point.clock].n)
        return put(out, point.link.data, point.link.n) if point.link.n else out
