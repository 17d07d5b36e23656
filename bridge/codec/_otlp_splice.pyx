# cython: language_level=3, boundscheck=True, wraparound=False, cdivision=True
"""The compiled twin of bridge.codec.otlp_encode.PlainSplicer, which says what it promises.

The constructor walks each eSpan once and notes what is cut out of it, so that sizes are known before anything is
written; `write` then copies what lies between the cuts. Both release the GIL. Nothing is read or written by an address
that was not checked here: what is checked is copied out of the caller's arrays first.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcmp, memcpy

from bridge.codec._fetch cimport FETCH_AHEAD, fetch
from bridge.codec._text cimport Text, text_of, texts_of
from bridge.codec._wire cimport read_field
from bridge.codec.points._point_write cimport put, put_big_endian, put_byte, put_hex, put_varint, varint_size

import numpy as np

from bridge.codec.decided import confidence_of
from bridge.errors import InvalidData
from bridge.spans import Method

cdef enum:
    TRACE_ID = 0x0A  # tags: field number << 3 | 2
    SPAN_ID = 0x12
    PARENT_ID = 0x22
    ATTRIBUTE = 0x4A
    LINK = 0x6A
    KEY = 0x0A
    VALUE = 0x12
    SPANS = 0x12
    LINK_BYTES = 28
    EXPORT = 1
    MAX_METHODS = 16
    MAX_GROUPS = 100


NO_CLOCK = np.zeros(0, np.uint32)


cdef bytes attribute(bytes key, bytes text):
    """An attribute of a span that is a text."""
    return any_attribute(key, b"\x0a" + bytes((len(text),)) + text)


cdef bytes any_attribute(bytes key, bytes value):
    """An attribute of a span as it is written; all lengths are below 128."""
    pair = b"\x0a" + bytes((len(key),)) + key + b"\x12" + bytes((len(value),)) + value
    return bytes((ATTRIBUTE, len(pair))) + pair


cdef bytes EBPF_TRACE = attribute(b"ebpf_trace_id", b"0" * 32)
cdef bytes EBPF_PARENT = attribute(b"ebpf_parent_id", b"0" * 16)
cdef bytes EBPF_ROOT = attribute(b"ebpf_parent_id", b"0")
cdef bytes CONFIDENCE = any_attribute(b"espan.link.confidence", b"\x21" + bytes(8))
cdef list METHOD = [b"", *(attribute(b"espan.link.method", m.name.lower().encode()) for m in Method if m)]
cdef int METHODS = len(METHOD)

cdef Text ebpf_trace, ebpf_parent, ebpf_root, confidence
cdef Text[MAX_METHODS] methods


ebpf_trace, ebpf_parent, ebpf_root = text_of(EBPF_TRACE), text_of(EBPF_PARENT), text_of(EBPF_ROOT)
confidence = text_of(CONFIDENCE)
for _number in range(METHODS):
    methods[_number] = text_of(METHOD[_number])


cdef struct Cut:
    int64_t start
    int64_t end


cdef struct Span:
    const uint8_t* data
    int64_t length
    int64_t size  # as it leaves, without tag and length
    int64_t cut
    int64_t cuts
    int64_t link
    int64_t links
    uint32_t clock
    uint8_t edited
    uint8_t method
    uint8_t has_parent
    uint8_t has_ebpf_parent


# --- reading ----------------------------------------------------------------------------------------------------------


cdef inline bint is_replaced_key(const uint8_t* key, uint64_t n) noexcept nogil:
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
    if n == 17:
        return memcmp(key, b"espan.link.method", 17) == 0
    if n == 21:
        return (
            memcmp(key, b"espan.link.confidence", 21) == 0
            or memcmp(key, b"espan.clock.reference", 21) == 0
            or memcmp(key, b"espan.clock.offset_ns", 21) == 0
        )
    return n == 26 and memcmp(key, b"espan.clock.uncertainty_ns", 26) == 0


cdef inline int is_replaced(const uint8_t* p, const uint8_t* end) noexcept nogil:
    """Whether this attribute is cut out; -1 where it is no KeyValue. Of a key given twice the last counts."""
    cdef const uint8_t* key = p
    cdef const uint8_t* content
    cdef uint64_t n = 0, tag
    # nearly all are a key and a value with lengths of one byte each, and nothing else
    if end - p >= 4 and p[0] == KEY and p[1] < 0x80 and p[1] <= end - p - 4:
        content = p + 2 + p[1]
        if content[0] == VALUE and content[1] < 0x80 and content[1] == end - content - 2:
            return is_replaced_key(p + 2, p[1])
    while p < end:
        p = read_field(p, end, MAX_GROUPS, &tag, &content)
        if p == NULL:
            return -1
        if tag == KEY:
            key, n = content, p - content
    return is_replaced_key(key, n)


cdef int has_strange_id(const uint8_t* p, const uint8_t* end) noexcept nogil:
    """Whether this link is cut out, for an id that has neither its length nor none; -1 where it is no message."""
    cdef const uint8_t* content
    cdef uint64_t tag
    cdef bint strange = False
    while p < end:
        p = read_field(p, end, MAX_GROUPS, &tag, &content)
        if p == NULL:
            return -1
        if (tag == TRACE_ID or tag == SPAN_ID) and p != content:
            strange |= p - content != (16 if tag == TRACE_ID else 8)
    return strange


# --- writing: each returns where it stopped ----------------------------------------------------------------------------


cdef inline void put_double(uint8_t* out, double value) noexcept nogil:
    """8 bytes, little-endian."""
    cdef int i
    cdef uint64_t bits
    memcpy(&bits, &value, 8)
    for i in range(8):
        out[i] = <uint8_t> (bits >> 8 * i)


cdef inline uint8_t* put_span_id(uint8_t* out, uint8_t tag, uint64_t span_id) noexcept nogil:
    return put_big_endian(put_byte(put_byte(out, tag), 8), span_id)


cdef inline uint8_t* put_trace_id(uint8_t* out, uint64_t hi, uint64_t lo) noexcept nogil:
    return put_big_endian(put_big_endian(put_byte(put_byte(out, TRACE_ID), 16), hi), lo)


cdef const uint64_t[:] column(const uint64_t[:] values, Py_ssize_t n):
    """The column, sure to have n rows: what is read without the GIL cannot raise."""
    if values.shape[0] != n:
        raise ValueError("Splicer: columns of unequal length")
    return values


cdef class Splicer:
    cdef readonly object sizes
    cdef object _payloads  # holds what the spans point into
    cdef Span* _spans
    cdef Py_ssize_t _n
    cdef Cut* _cuts
    cdef int64_t _n_cuts, _cut_capacity
    cdef object _clock_texts  # holds what `_clocks` points into
    cdef Text* _clocks  # the first is none
    cdef Py_ssize_t _n_clocks
    cdef const double[:] _confidence
    cdef const uint64_t[:] _trace_hi, _trace_lo, _span_id, _parent_id, _ebpf_hi, _ebpf_lo, _ebpf_parent
    cdef const uint64_t[:] _link_hi, _link_lo, _link_id

    def __cinit__(
        self,
        data,
        const uint32_t[:] block,
        const int64_t[:] start,
        const int64_t[:] end,
        decisions,
        links,
        clocks=(),
        clock=NO_CLOCK,
    ):
        cdef Py_ssize_t n = len(decisions), failed
        cdef const double[:] sure = confidence_of(decisions)
        self._payloads = tuple(data)
        self._trace_hi, self._trace_lo = column(decisions.trace_hi, n), column(decisions.trace_lo, n)
        self._span_id, self._parent_id = column(decisions.span_id, n), column(decisions.parent_span_id, n)
        self._ebpf_hi, self._ebpf_lo = column(decisions.ebpf_trace_hi, n), column(decisions.ebpf_trace_lo, n)
        self._ebpf_parent = column(decisions.ebpf_parent_id, n)
        self._link_hi, self._link_lo = column(links.trace_hi, len(links)), column(links.trace_lo, len(links))
        self._link_id = column(links.span_id, len(links))
        self._spans = <Span*> calloc(n + 1, sizeof(Span))
        if self._spans == NULL:
            raise MemoryError
        self._n = n
        if sure.shape[0] != n:
            raise ValueError("Splicer: columns of unequal length")
        self._confidence = sure
        self._clock_texts = (b"", *clocks)
        self._n_clocks = len(self._clock_texts)
        self._clocks = texts_of(self._clock_texts)
        self._locate(block, start, end)
        self._decide(decisions.outcome, decisions.method, links.row, clock)
        with nogil:
            failed = self._walk()
        if failed == -2:
            raise MemoryError
        if failed >= 0:
            raise InvalidData(f"span {failed}: its bytes are no protobuf message")
        self._measure()

    def __dealloc__(self):
        free(self._spans)
        free(self._cuts)
        free(self._clocks)

    cdef int _locate(self, const uint32_t[:] block, const int64_t[:] start, const int64_t[:] end) except -1:
        """Find the bytes of each span, inside its payload."""
        cdef Py_ssize_t i, blocks = len(self._payloads), n = self._n
        cdef uint32_t number, current = 0
        cdef int64_t begin, stop, length = -1
        cdef const uint8_t* base = NULL
        cdef bytes payload
        if block.shape[0] != n or start.shape[0] != n or end.shape[0] != n:
            raise ValueError("Splicer: columns of unequal length")
        for i in range(n):
            number, begin, stop = block[i], start[i], end[i]
            if number != current or base == NULL:
                if number >= blocks:
                    raise InvalidData(f"span {i} lies outside its payload")
                payload = <bytes?> self._payloads[number]
                base, length, current = <const uint8_t*> PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload), number
            if not 0 <= begin <= stop <= length:
                raise InvalidData(f"span {i} lies outside its payload")
            self._spans[i].data = base + begin
            self._spans[i].length = stop - begin
        return 0

    cdef int _decide(
        self,
        const uint8_t[:] outcome,
        const uint8_t[:] method,
        const int64_t[:] link_row,
        const uint32_t[:] clock,
    ) except -1:
        """Note what each span is given, so that its size cannot change any more."""
        cdef Py_ssize_t i, j = 0, m = link_row.shape[0]
        cdef Span* span
        if clock.shape[0] and clock.shape[0] != self._n:
            raise ValueError("Splicer: columns of unequal length")
        if m != self._link_id.shape[0] or outcome.shape[0] != self._n or method.shape[0] != self._n:
            raise ValueError("Splicer: columns of unequal length")
        for i in range(self._n):
            span = &self._spans[i]
            span.edited = outcome[i] == EXPORT
            span.method = method[i] if method[i] < METHODS else 0
            span.has_parent = self._parent_id[i] != 0
            span.has_ebpf_parent = self._ebpf_parent[i] != 0
            if clock.shape[0]:
                span.clock = clock[i]
                if span.clock >= self._n_clocks:
                    raise ValueError("Splicer: a row whose clock is not there")
            span.link = j
            while j < m and link_row[j] == i:
                j += 1
            span.links = j - span.link
        if j != m:
            raise ValueError("Splicer: a link at a row that is not there, or links that are not sorted by row")
        return 0

    cdef Py_ssize_t _walk(self) noexcept nogil:
        """Find what is cut out of each eSpan. -1, or the span that cannot be read, or -2 without memory."""
        cdef Py_ssize_t i
        cdef Span* span
        cdef const uint8_t* p
        cdef const uint8_t* end
        cdef const uint8_t* field
        cdef const uint8_t* content
        cdef uint64_t tag
        cdef int cut
        for i in range(self._n):
            span = &self._spans[i]
            if i + FETCH_AHEAD < self._n:
                fetch(self._spans[i + FETCH_AHEAD].data, self._spans[i + FETCH_AHEAD].length)
            span.size = span.length
            span.cut = self._n_cuts
            if not span.edited:
                continue
            p, end = span.data, span.data + span.length
            while p < end:
                field = p
                if p[0] == ATTRIBUTE and end - p >= 2 and p[1] < 0x80 and p[1] <= end - p - 2:
                    tag, content = ATTRIBUTE, p + 2
                    p = content + field[1]
                else:
                    p = read_field(p, end, MAX_GROUPS, &tag, &content)
                if p == NULL:
                    return i
                if tag == ATTRIBUTE:
                    cut = is_replaced(content, p)
                elif tag == LINK:
                    cut = has_strange_id(content, p)
                else:
                    cut = tag == TRACE_ID or tag == SPAN_ID or tag == PARENT_ID
                if cut < 0:
                    return i
                if cut and self._add_cut(span, field - span.data, p - span.data) < 0:
                    return -2
            span.size += 18 + 10 + 10 * span.has_parent + ebpf_trace.n + methods[span.method].n
            span.size += ebpf_parent.n if span.has_ebpf_parent else ebpf_root.n
            span.size += confidence.n if span.method else 0
            span.size += self._clocks[span.clock].n
            span.size += span.links * (2 + LINK_BYTES)
        return -1

    cdef int _add_cut(self, Span* span, int64_t start, int64_t end) noexcept nogil:
        cdef Cut* cuts
        cdef int64_t capacity
        span.size -= end - start
        if span.cuts and self._cuts[self._n_cuts - 1].end == start:
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
        span.cuts += 1
        return 0

    cdef int _measure(self) except -1:
        cdef Py_ssize_t i
        sizes = np.empty(self._n, np.int64)
        cdef int64_t[::1] view = sizes
        for i in range(self._n):
            view[i] = self._framed(&self._spans[i])
        sizes.flags.writeable = False
        self.sizes = sizes
        return 0

    cdef inline int64_t _framed(self, Span* span) noexcept nogil:
        return 1 + varint_size(span.size) + span.size

    def write(self, const int64_t[:] rows, heads, const int64_t[:] before):
        """See PlainSplicer.write."""
        cdef Py_ssize_t i, n_heads = len(heads)
        cdef int64_t total = 0, last = 0
        cdef Text* texts
        # Copies, which nobody else can change between check and use.
        cdef const int64_t[::1] picked = np.array(rows, np.int64)
        cdef const int64_t[::1] at = np.array(before, np.int64)
        heads = tuple(heads)
        if at.shape[0] != n_heads or len(heads) != n_heads:
            raise ValueError("Splicer: columns of unequal length")
        for i in range(picked.shape[0]):
            if not 0 <= picked[i] < self._n:
                raise IndexError(f"row {picked[i]} of {self._n}")
            total += self._framed(&self._spans[picked[i]])
        texts = <Text*> calloc(n_heads + 1, sizeof(Text))
        if texts == NULL:
            raise MemoryError
        try:
            for i in range(n_heads):
                if not last <= at[i] < picked.shape[0]:
                    raise ValueError("Splicer: heads must stand before rows that are written, in order")
                last = at[i]
                texts[i] = text_of(<bytes?> heads[i])
                total += texts[i].n
            return self._written(total, picked, texts, at)
        finally:
            free(texts)

    cdef bytes _written(self, int64_t total, const int64_t[::1] rows, Text* heads, const int64_t[::1] before):
        cdef bytes written = PyBytes_FromStringAndSize(NULL, total)
        cdef uint8_t* out = <uint8_t*> PyBytes_AS_STRING(written)
        cdef const uint8_t* end = out + total
        cdef Py_ssize_t i, j = 0, n_heads = before.shape[0]
        with nogil:  # once: taking the GIL back may take long, so not once a head
            for i in range(rows.shape[0]):
                if i + FETCH_AHEAD < rows.shape[0]:
                    fetch(self._spans[rows[i + FETCH_AHEAD]].data, self._spans[rows[i + FETCH_AHEAD]].length)
                while j < n_heads and before[j] == i:
                    out = put(out, heads[j].data, heads[j].n)
                    j += 1
                out = self._put_span(out, rows[i])
        if out != end:
            raise AssertionError("a span was written in another size than it was measured in")
        return written

    cdef uint8_t* _put_span(self, uint8_t* out, int64_t row) noexcept nogil:
        cdef Span* span = &self._spans[row]
        out = put_varint(put_byte(out, SPANS), span.size)
        if not span.edited:
            return put(out, span.data, span.length)
        out = put_trace_id(out, self._trace_hi[row], self._trace_lo[row])
        out = put_span_id(out, SPAN_ID, self._span_id[row])
        if span.has_parent:
            out = put_span_id(out, PARENT_ID, self._parent_id[row])
        out = self._put_kept(out, span)
        return self._put_links(self._put_attributes(out, span, row), span)

    cdef uint8_t* _put_kept(self, uint8_t* out, Span* span) noexcept nogil:
        cdef int64_t at = 0, i
        for i in range(span.cut, span.cut + span.cuts):
            out = put(out, span.data + at, self._cuts[i].start - at)
            at = self._cuts[i].end
        return put(out, span.data + at, span.length - at)

    cdef uint8_t* _put_attributes(self, uint8_t* out, Span* span, int64_t row) noexcept nogil:
        out = put(out, ebpf_trace.data, ebpf_trace.n)
        put_hex(out - 32, self._ebpf_hi[row])
        put_hex(out - 16, self._ebpf_lo[row])
        if span.has_ebpf_parent:
            out = put(out, ebpf_parent.data, ebpf_parent.n)
            put_hex(out - 16, self._ebpf_parent[row])
        else:
            out = put(out, ebpf_root.data, ebpf_root.n)
        if span.method:
            out = put(out, methods[span.method].data, methods[span.method].n)
            out = put(out, confidence.data, confidence.n)
            put_double(out - 8, self._confidence[row])
        return put(out, self._clocks[span.clock].data, self._clocks[span.clock].n)

    cdef uint8_t* _put_links(self, uint8_t* out, Span* span) noexcept nogil:
        cdef int64_t i
        for i in range(span.link, span.link + span.links):
            out = put_byte(put_byte(out, LINK), LINK_BYTES)
            out = put_trace_id(out, self._link_hi[i], self._link_lo[i])
            out = put_span_id(out, SPAN_ID, self._link_id[i])
        return out
