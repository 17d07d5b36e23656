# cython: language_level=3, boundscheck=True, wraparound=False, cdivision=True
"""The compiled twins of bridge.codec.digest, XXH64 with seed 0, and of bridge.codec.rows.span_ids_plain."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy

import numpy as np

from bridge.codec._espan cimport Row
from bridge.codec._text cimport Text, texts_of
from bridge.codec._xxh64 cimport digest

from bridge.spans.ids import MIN_KEYS


def cut_out(tuple datas not None, const int64_t[:] starts, const int64_t[:] lengths):
    cdef Py_ssize_t i, n = starts.shape[0], number = 0, numbers = len(datas)
    cdef int64_t total = 0, room = 0, start, length, before = 0, last = 0
    cdef uint64_t[::1] found = np.empty(n, np.uint64)
    cdef bytes cut
    cdef uint8_t* out
    cdef uint8_t* end
    cdef Text* texts
    cdef bint inside = lengths.shape[0] == n
    for data in datas:
        room += len(data)
    for i in range(n if inside else 0):
        inside = inside and 0 <= lengths[i] <= room - total
        total += lengths[i] if inside else 0
    if not inside:
        raise ValueError("cut_out: places of unequal number, or of more bytes than there are")
    texts = texts_of(datas)
    try:
        cut = PyBytes_FromStringAndSize(NULL, total)
        out = <uint8_t*> PyBytes_AS_STRING(cut)
        end = out + total
        with nogil:
            for i in range(n):
                start, length = starts[i], lengths[i]
                while number < numbers and start >= before + texts[number].n:
                    before += texts[number].n
                    number += 1
                # what is checked here is what is used, whoever changes the arrays meanwhile
                inside = (
                    number < numbers and start >= last and 0 <= length <= end - out
                    and 0 <= start - before <= texts[number].n - length
                )
                if not inside:
                    break
                memcpy(out, texts[number].data + (start - before), length)
                found[i] = digest(out, out + length)  # while it is in cache
                out += length
                last = start + length
    finally:
        free(texts)
    if not inside or out != end:
        raise ValueError("cut_out: a place outside the texts, or not in their order")
    return cut, found.base


cdef int LEAST_KEYS = MIN_KEYS


cdef inline uint64_t mixed(uint64_t value) noexcept nogil:
    """bridge.spans.ids.mix"""
    value += 0x9E3779B97F4A7C15U
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9U
    value = (value ^ value >> 27) * 0x94D049BB133111EBU
    return value ^ value >> 31


cdef inline uint64_t identity(const Row* row) noexcept nogil:
    """The parts of a derived id in the order of docs/span-ids.md."""
    cdef uint64_t h = mixed(mixed(mixed(row.kind) ^ row.direction) ^ row.req_seq)
    h = mixed(mixed(mixed(h ^ row.resp_seq) ^ row.thread_trace_id) ^ row.pid)
    h = mixed(mixed(mixed(h ^ row.tid) ^ row.tid_usr) ^ <uint64_t> row.ktime)
    h = mixed(mixed(mixed(h ^ <uint64_t> row.start_ns) ^ row.duration_ns) ^ row.src_ip)
    return mixed(mixed(mixed(h ^ row.src_port) ^ row.dst_ip) ^ row.dst_port)


def span_ids(const Row[::1] rows, const uint64_t[::1] digests):
    """See bridge.codec.rows.span_ids_plain."""
    cdef int64_t i
    cdef uint64_t[::1] found = np.empty(rows.shape[0], np.uint64)
    if digests.shape[0] != rows.shape[0]:
        raise ValueError("span_ids: as many digests as rows")
    with nogil:
        for i in range(rows.shape[0]):
            found[i] = rows[i].sent_span_id
            if not found[i]:
                found[i] = identity(&rows[i]) if rows[i].keys_present >= LEAST_KEYS else mixed(digests[i])
            if not found[i]:
                found[i] = 1
    return found.base
