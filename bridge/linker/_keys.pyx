# cython: language_level=3, boundscheck=True, wraparound=False, cdivision=True
"""The compiled twin of bridge.linker.keys.row_keys_plain, which says what keys are made of: one pass over rows."""

from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint32_t, uint64_t

import numpy as np

from bridge.spans import Kind

cdef enum:
    LANES = 5
    NET = 0
    THREAD = 1
    TRACE = 2
    OWN = 3
    NAMED = 4
    COPY = 5
    TIMELINE = 6

cdef uint8_t ORDINARY = Kind.ORDINARY, ENTRY = Kind.ENTRY, EXIT = Kind.EXIT


cdef inline uint64_t key(uint64_t salt, uint64_t a, uint64_t b, uint64_t c) noexcept nogil:
    cdef uint64_t z = (salt + 1) * <uint64_t> 0x9FB21C651E98DF25 + <uint64_t> 0x9E3779B97F4A7C15
    z += a * <uint64_t> 0x9E3779B97F4A7C15 + b * <uint64_t> 0xC2B2AE3D27D4EB4F + c * <uint64_t> 0x165667B19E3779F9
    z = (z ^ z >> 30) * <uint64_t> 0xBF58476D1CE4E5B9  # bridge.spans.ids.mix
    z = (z ^ z >> 27) * <uint64_t> 0x94D049BB133111EB
    z ^= z >> 31
    return z if z else 1


def row_keys(columns):
    cdef const uint8_t[:] kind = columns.kind
    cdef const uint32_t[:] faults = columns.faults
    cdef const uint64_t[:] req_seq = columns.req_seq, resp_seq = columns.resp_seq, thread = columns.thread_trace_id
    cdef const uint64_t[:] sender = columns.sender, pid = columns.pid, tid = columns.tid, tid_usr = columns.tid_usr
    cdef const int64_t[:] ktime = columns.ktime, start = columns.start_ns, end = columns.end_ns
    cdef const uint64_t[:] span_id = columns.span_id, digest = columns.digest, sent = columns.sent_span_id
    cdef const uint64_t[:] trace_hi = columns.trace_hi, trace_lo = columns.trace_lo, parent = columns.parent_id
    cdef const uint64_t[:] app_hi = columns.app_trace_hi, app_lo = columns.app_trace_lo, app_parent = columns.app_parent
    cdef Py_ssize_t n = kind.shape[0], i
    keys_of, lines_of, ends_of = np.zeros((n, LANES), np.uint64), np.zeros(n, np.uint64), np.empty(n, np.int64)
    cdef uint64_t[:, ::1] keys = keys_of
    cdef uint64_t[::1] lines = lines_of
    cdef int64_t[::1] ends = ends_of
    cdef bint espan, sound, app, own
    cdef uint64_t own_id
    for i in range(n):
        ends[i] = ended(ktime[i], start[i], end[i])
        espan = kind[i] != ORDINARY
        sound = espan and faults[i] == 0
        own = (trace_hi[i] | trace_lo[i]) != 0
        if sound and (req_seq[i] | resp_seq[i]) != 0:
            keys[i, NET] = key(NET, req_seq[i], resp_seq[i], 0)
        elif espan:
            keys[i, NET] = key(COPY, span_id[i], digest[i], 0)
        own_id = sent[i] if espan else span_id[i]
        if (sound or not espan) and own and own_id != 0:
            keys[i, OWN] = key(OWN, trace_hi[i], trace_lo[i], own_id)
        if not sound:
            continue
        if thread[i] != 0:
            keys[i, THREAD] = key(THREAD, thread[i], 0, 0)
        app = (app_hi[i] | app_lo[i]) != 0
        if app:
            keys[i, TRACE] = key(TRACE, app_hi[i], app_lo[i], 0)
            if app_parent[i] != 0:
                keys[i, NAMED] = key(OWN, app_hi[i], app_lo[i], app_parent[i])
        elif own and parent[i] != 0:
            keys[i, TRACE] = key(TRACE, trace_hi[i], trace_lo[i], 0)
            keys[i, NAMED] = key(OWN, trace_hi[i], trace_lo[i], parent[i])
        if (kind[i] == ENTRY or kind[i] == EXIT) and (tid[i] | tid_usr[i]) != 0 and ktime[i] != 0:
            lines[i] = key(TIMELINE, sender[i], pid[i], tid_usr[i] if tid_usr[i] else tid[i])
    return keys_of, lines_of, ends_of


cdef inline int64_t ended(int64_t at, int64_t start, int64_t end) noexcept nogil:
    """As bridge.linker.times.ends."""
    if start <= 0 or end <= start or at > INT64_MAX - (end - start):
        return INT64_MAX
    return at + (end - start)
