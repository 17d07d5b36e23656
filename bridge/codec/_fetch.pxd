# cython: language_level=3, boundscheck=False, wraparound=False
"""Asks the processor for bytes before they are needed.

Spans that leave lie scattered over payloads of megabytes, so that each begins where no cache and no prefetcher of the
processor's expects it: waiting for them takes as long as all that is done with them.
"""

from libc.stdint cimport int64_t, uint8_t

cdef extern from *:
    """
    #if defined(__GNUC__) || defined(__clang__)
    #define ESPAN_FETCH(p) __builtin_prefetch(p)
    #else
    #define ESPAN_FETCH(p) ((void) (p))
    #endif
    """
    void ESPAN_FETCH(const void* p) noexcept nogil

cdef enum:
    FETCH_AHEAD = 4  # spans
    FETCH_BYTES = 1024  # of each; from there on the processor sees where it goes


cdef inline void fetch(const uint8_t* p, int64_t n) noexcept nogil:
    """Begin to load these bytes. What is not there does no harm."""
    cdef int64_t i
    for i in range(0, n if n < FETCH_BYTES else FETCH_BYTES, 64):
        ESPAN_FETCH(p + i)
