# cython: language_level=3, boundscheck=True, wraparound=False, cdivision=True
"""The compiled twins of bridge.codec.digest.digests_plain, XXH64 with seed 0, and bridge.codec.rows.span_ids_plain."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

import numpy as np

from bridge.codec._espan cimport Row

from bridge.spans.ids import MIN_KEYS

cdef uint64_t P1 = 0x9E3779B185EBCA87U
cdef uint64_t P2 = 0xC2B2AE3D27D4EB4FU
cdef uint64_t P3 = 0x165667B19E3779F9U
cdef uint64_t P4 = 0x85EBCA77C2B2AE63U
cdef uint64_t P5 = 0x27D4EB2F165667C5U


cdef inline uint64_t rotated(uint64_t value, int by) noexcept nogil:
    return value << by | value >> (64 - by)


cdef inline uint64_t read_8(const uint8_t* p) noexcept nogil:
    """Little-endian, on any machine; compilers make one load of it."""
    return (
        <uint64_t> p[0] | <uint64_t> p[1] << 8 | <uint64_t> p[2] << 16 | <uint64_t> p[3] << 24
        | <uint64_t> p[4] << 32 | <uint64_t> p[5] << 40 | <uint64_t> p[6] << 48 | <uint64_t> p[7] << 56
    )


cdef inline uint64_t read_4(const uint8_t* p) noexcept nogil:
    return <uint64_t> p[0] | <uint64_t> p[1] << 8 | <uint64_t> p[2] << 16 | <uint64_t> p[3] << 24


cdef inline uint64_t round_of(uint64_t state, uint64_t word) noexcept nogil:
    return rotated(state + word * P2, 31) * P1


cdef inline uint64_t merged(uint64_t state, uint64_t lane) noexcept nogil:
    return (state ^ round_of(0, lane)) * P1 + P4


cdef uint64_t digest(const uint8_t* p, const uint8_t* end) noexcept nogil:
    cdef uint64_t length = end - p, state = P5
    cdef uint64_t a = P1 + P2, b = P2, c = 0, d = 0 - P1
    if length >= 32:
        while end - p >= 32:
            a, b = round_of(a, read_8(p)), round_of(b, read_8(p + 8))
            c, d = round_of(c, read_8(p + 16)), round_of(d, read_8(p + 24))
            p += 32
        state = rotated(a, 1) + rotated(b, 7) + rotated(c, 12) + rotated(d, 18)
        state = merged(merged(merged(merged(state, a), b), c), d)
    state += length
    while end - p >= 8:
        state = rotated(state ^ round_of(0, read_8(p)), 27) * P1 + P4
        p += 8
    if end - p >= 4:
        state = rotated(state ^ read_4(p) * P1, 23) * P2 + P3
        p += 4
    while p < end:
        state = rotated(state ^ p[0] * P5, 11) * P1
        p += 1
    state = (state ^ state >> 33) * P2
    state = (state ^ state >> 29) * P3
    return state ^ state >> 32


def digests(bytes data not None, const int64_t[:] offsets):
    """See bridge.codec.digest.digests_plain."""
    cdef const uint8_t* start = <const uint8_t*> PyBytes_AS_STRING(data)
    # a copy, which nobody else can change between check and use
    cdef const int64_t[::1] at = np.array(offsets, np.int64)
    cdef int64_t i, n = at.shape[0] - 1, last = 0
    cdef uint64_t[::1] found = np.empty(max(n, 0), np.uint64)
    if n < 0 or at[n] > PyBytes_GET_SIZE(data):
        raise ValueError("digests: offsets that are not sorted, or outside the data")
    for i in range(n + 1):
        if at[i] < last:
            raise ValueError("digests: offsets that are not sorted, or outside the data")
        last = at[i]
    with nogil:
        for i in range(n):
            found[i] = digest(start + at[i], start + at[i + 1])
    return found.base


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
