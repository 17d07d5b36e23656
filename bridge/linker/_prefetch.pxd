"""Asking for memory some time before it is read: what rows are looked up in is larger than any cache."""

cdef extern from *:
    """
    #if defined(__GNUC__) || defined(__clang__)
    #define espan_prefetch(p) __builtin_prefetch(p)
    #else
    #define espan_prefetch(p) ((void) (p))
    #endif
    """
    void prefetch "espan_prefetch" (const void*) noexcept nogil
