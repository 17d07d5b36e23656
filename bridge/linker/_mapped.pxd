"""Memory that is mapped for one array alone. It grows where it is or moves without being copied, and since it is no
block of the heap, what it grew out of leaves no holes there, between blocks of others, that fit nobody.

Where sanitizers watch every access it is of the heap: they do not watch maps.
"""

cdef extern from *:
    """
    #include <stdlib.h>
    #include <string.h>
    #if defined(__linux__) && !defined(__SANITIZE_ADDRESS__)
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <sys/mman.h>

    static inline void *espan_mapped(void *old, size_t had, size_t wanted) {
        void *found = old ? mremap(old, had, wanted, MREMAP_MAYMOVE)
                          : mmap(NULL, wanted, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        return found == MAP_FAILED ? NULL : found;
    }

    static inline void espan_unmap(void *old, size_t had) {
        if (old) munmap(old, had);
    }
    #else
    static inline void *espan_mapped(void *old, size_t had, size_t wanted) {
        void *found = realloc(old, wanted);
        if (found && wanted > (old ? had : 0)) memset((char *) found + (old ? had : 0), 0, wanted - (old ? had : 0));
        return found;
    }

    static inline void espan_unmap(void *old, size_t had) {
        (void) had;
        free(old);
    }
    #endif
    """
    # so many bytes, more than none, that begin with what the old ones hold; more than there ever were are 0. NULL: there
    # is no room, and the old ones are as they were. An old of NULL has no bytes
    void* mapped "espan_mapped" (void* old, size_t had, size_t wanted) noexcept nogil
    void unmap "espan_unmap" (void* old, size_t had) noexcept nogil
