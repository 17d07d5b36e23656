"""The keys of rows that left, in the order they left: a ring of entries, hashed into chains from newest to oldest.

Rows are forgotten in the order they left. A chain ends where it meets what is forgotten, so that nothing is ever
unlinked, and forgetting moves a mark.

Almost every key that is looked for is not here, which a Bloom filter says at the cost of one line of cache (Putze,
Sanders and Singler, 2007: a block per key). A block has a word for each of eight generations of keys: by the time the
word of the oldest is needed again all of its keys are forgotten.
"""

from libc.stdint cimport int32_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport memmove

from bridge.linker._mapped cimport mapped, unmap
from bridge.linker._prefetch cimport prefetch
from bridge.linker._slot_map cimport home


cdef enum:
    GENERATIONS = 8
    KEYS_PER_WORD = 4


cdef struct Entry:
    uint64_t key
    uint32_t next  # number, lower half, of the one before it in its chain
    int32_t slot


cdef struct Log:
    Entry* entries
    uint64_t capacity
    uint64_t head  # number of the newest entry; the first one is 1
    uint64_t tail  # number of the newest one that is forgotten
    uint64_t head_at  # where in the ring the newest one is
    uint32_t* heads
    uint64_t buckets  # a power of two
    uint64_t seed
    uint64_t* words  # of the filter: GENERATIONS a block
    uint64_t* filter  # the first block, at the start of a line of cache
    uint64_t blocks
    uint64_t generation
    uint64_t started  # number of the entry before its first


cdef inline uint64_t* block_of(Log* log, uint64_t key) noexcept nogil:
    return log.filter + ((key * log.seed >> 32) * log.blocks >> 32) * GENERATIONS


cdef inline uint64_t bits_of(uint64_t key) noexcept nogil:
    """Four bits of a word."""
    return (
        <uint64_t> 1 << (key & 63) | <uint64_t> 1 << (key >> 6 & 63)
        | <uint64_t> 1 << (key >> 12 & 63) | <uint64_t> 1 << (key >> 18 & 63)
    )


cdef inline bint may_hold(Log* log, uint64_t key) noexcept nogil:
    """False: no entry has this key."""
    cdef uint64_t* words
    cdef uint64_t bits = bits_of(key)
    cdef bint found = False
    cdef int i
    if log.blocks == 0:
        return False
    words = block_of(log, key)
    for i in range(GENERATIONS):
        found |= (words[i] & bits) == bits
    return found


cdef inline void filter_push(Log* log, uint64_t key, uint64_t number) noexcept nogil:
    cdef uint64_t i
    if number - log.started > KEYS_PER_WORD * log.blocks:
        log.generation = (log.generation + 1) % GENERATIONS
        log.started = number - 1
        for i in range(log.blocks):
            log.filter[i * GENERATIONS + log.generation] = 0
    block_of(log, key)[log.generation] |= bits_of(key)


cdef inline uint64_t older(Log* log, uint32_t number) noexcept nogil:
    """The full number of an entry from its lower half; 0 when it is forgotten."""
    cdef uint64_t behind = <uint32_t> (<uint32_t> log.head - number)
    return log.head - behind if behind < log.head - log.tail else 0


cdef inline Entry* entry_at(Log* log, uint64_t number) noexcept nogil:
    """An entry that is not forgotten."""
    cdef uint64_t behind = log.head - number
    return &log.entries[log.head_at - behind if behind <= log.head_at else log.head_at + log.capacity - behind]


cdef inline uint64_t newest(Log* log, uint64_t key) noexcept nogil:
    """Number of the newest entry of the chain a key is in; 0 for none, and mostly where no entry has the key."""
    if not may_hold(log, key):
        return 0
    return older(log, log.heads[home(key, log.seed, log.buckets)])


cdef inline void filter_prefetch(Log* log, uint64_t key) noexcept nogil:
    """Have what `newest` needs for most keys in cache soon."""
    if key != 0 and log.blocks != 0:
        prefetch(block_of(log, key))


cdef inline void push_prefetch(Log* log, uint64_t key) noexcept nogil:
    """Have what `log_push` needs in cache soon."""
    if key != 0:
        prefetch(block_of(log, key))
        prefetch(&log.heads[home(key, log.seed, log.buckets)])


cdef inline void log_push(Log* log, uint64_t key, int32_t slot) noexcept nogil:
    """Room must have been reserved."""
    cdef uint32_t* head = &log.heads[home(key, log.seed, log.buckets)]
    log.head += 1
    log.head_at = log.head_at + 1 if log.head_at + 1 < log.capacity else 0
    log.entries[log.head_at] = Entry(key, head[0], slot)
    head[0] = <uint32_t> log.head
    filter_push(log, key, log.head)


cdef inline int log_reserve(Log* log, uint64_t more) except -1:
    """Room for more entries. Where memory runs out, what is there stays as it is."""
    log_reserve_entries(log, more)
    log_reserve_buckets(log)
    return log_reserve_filter(log)


cdef inline int log_reserve_entries(Log* log, uint64_t more) except -1:
    """The ring grows by an eighth, in place: it holds more than anything else here."""
    cdef uint64_t live = log.head - log.tail, old = log.capacity, capacity, tail_at
    cdef Entry* entries
    if live + more <= old:
        return 0
    capacity = max(<uint64_t> 1024, (live + more) // 8 * 9 + 9)
    entries = <Entry*> mapped(log.entries, old * sizeof(Entry), capacity * sizeof(Entry))
    if entries == NULL:
        raise MemoryError
    log.entries = entries
    if live:
        tail_at = entry_at(log, log.tail + 1) - entries
        if tail_at > log.head_at:  # what lies before the old end moves to the new one
            memmove(entries + capacity - (old - tail_at), entries + tail_at, (old - tail_at) * sizeof(Entry))
    else:
        log.head_at = capacity - 1
    log.capacity = capacity
    return 0


cdef inline int log_reserve_buckets(Log* log) except -1:
    """Four to eight entries a bucket when the log is full."""
    cdef uint64_t buckets = max(<uint64_t> 1024, log.buckets), number, i
    cdef uint32_t* heads
    cdef uint32_t* head
    cdef Entry* entry
    while buckets < log.capacity // 8:
        buckets *= 2
    if buckets == log.buckets:
        return 0
    heads = <uint32_t*> mapped(log.heads, log.buckets * sizeof(uint32_t), buckets * sizeof(uint32_t))
    if heads == NULL:
        raise MemoryError
    log.heads, log.buckets = heads, buckets
    for i in range(buckets):
        heads[i] = <uint32_t> log.tail
    for number in range(log.tail + 1, log.head + 1):
        entry = entry_at(log, number)
        head = &heads[home(entry.key, log.seed, buckets)]
        entry.next = head[0]
        head[0] = <uint32_t> number
    return 0


cdef inline size_t filter_bytes(uint64_t blocks) noexcept nogil:
    return (blocks + 1) * GENERATIONS * sizeof(uint64_t)


cdef inline int log_reserve_filter(Log* log) except -1:
    """Seven generations hold all that the ring does."""
    cdef uint64_t blocks = log.capacity // ((GENERATIONS - 1) * KEYS_PER_WORD) + 1, number
    cdef uint64_t* words
    if blocks <= log.blocks:
        return 0
    blocks += blocks // 4
    words = <uint64_t*> mapped(NULL, 0, filter_bytes(blocks))
    if words == NULL:
        raise MemoryError
    unmap(log.words, filter_bytes(log.blocks))
    log.words, log.blocks = words, blocks
    log.filter = <uint64_t*> ((<uintptr_t> words + 63) & ~<uintptr_t> 63)
    log.started = log.tail
    for number in range(log.tail + 1, log.head + 1):
        filter_push(log, entry_at(log, number).key, number)
    return 0


cdef inline void log_drop(Log* log) noexcept nogil:
    """Give its memory back."""
    unmap(log.entries, log.capacity * sizeof(Entry))
    unmap(log.heads, log.buckets * sizeof(uint32_t))
    unmap(log.words, filter_bytes(log.blocks))
