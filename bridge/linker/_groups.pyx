# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The compiled twin of bridge.linker.groups.PlainGroups, which says what each method promises.

Three structures over plain C arrays:
- a map from key to one waiting row, with groups as union-find whose members form a ring (a merge swaps two links);
- a log of the keys of rows that left, hashed into chains that run from newest to oldest; rows are forgotten in the
  order they left, so a chain ends where it meets what is forgotten and nothing is ever unlinked;
- treaps (Seidel and Aragon, 1996), one per timeline, that know the latest end below each node.
All slots that come from outside are checked before anything is written.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memmove

import numpy as np

cdef enum:
    LANES = 5
    NET = 0
    THREAD = 1
    TRACE = 2
    MAX_CONTEXT = 64
    MAX_FRAGMENTS = 128
    MAX_TIES = 16
    MAX_STEPS = 4096  # along one chain, whose bucket other keys share
    LEFT = 1073741824
    ENTRY = 1073741824
    WAITING = 1
    CHECKED = 2
    MARKED = 4
    GONE = 8
    EXIT = 16
    HELD = 32
    IS_ENTRY = 1  # marks of a row: see groups.py
    BOTH_WAYS = 6
    MET = 32
    PARENTED = 64
    OPEN = 128
    NIL = -1
    FREE = -2

cdef uint64_t EXITS = 0x5851F42D4C957F2D  # turns the key of a thread's entries into that of its exits

# Keys come from what senders write, so whoever knows where a key goes could pile keys up in one place. Python's own
# hash seed (PYTHONHASHSEED) keeps that to this process; no answer depends on it.
cdef uint64_t SEED = (<uint64_t> (hash("bridge.linker") & 0xFFFFFFFFFFFFFFFF)) | 1


cdef struct Map:
    uint64_t* keys
    int32_t* values
    uint64_t capacity  # a power of two, or 0
    uint64_t used


cdef struct Row:
    int64_t first
    int64_t last
    int32_t root
    int32_t next
    int32_t size
    int32_t node
    int32_t context
    uint8_t state
    uint8_t marks


cdef struct Node:
    uint64_t line
    int64_t at
    int64_t end
    int64_t most
    int32_t l
    int32_t r
    int32_t up
    int32_t ref


cdef struct Numbers:
    int32_t* data
    Py_ssize_t n
    Py_ssize_t capacity
    bint failed


cdef inline uint64_t home(uint64_t key, uint64_t capacity) noexcept nogil:
    """Where a key belongs in a table of this size (multiply-shift hashing, Dietzfelbinger et al., 1997)."""
    return (key * SEED >> 32) & (capacity - 1)


cdef int32_t map_get(Map* m, uint64_t key) noexcept nogil:
    cdef uint64_t i
    if m.capacity == 0:
        return NIL
    i = home(key, m.capacity)
    while m.keys[i] != 0:
        if m.keys[i] == key:
            return m.values[i]
        i = (i + 1) & (m.capacity - 1)
    return NIL


cdef void map_set(Map* m, uint64_t key, int32_t value) noexcept nogil:
    """Room must have been reserved."""
    cdef uint64_t i = home(key, m.capacity)
    while m.keys[i] != 0 and m.keys[i] != key:
        i = (i + 1) & (m.capacity - 1)
    if m.keys[i] == 0:
        m.used += 1
        m.keys[i] = key
    m.values[i] = value


cdef void map_remove(Map* m, uint64_t key) noexcept nogil:
    cdef uint64_t mask = m.capacity - 1, i, j
    if m.capacity == 0:
        return
    i = home(key, m.capacity)
    while m.keys[i] != key:
        if m.keys[i] == 0:
            return
        i = (i + 1) & mask
    j = i
    while True:  # close the gap, so that no search stops at it
        j = (j + 1) & mask
        if m.keys[j] == 0:
            break
        if ((j - home(m.keys[j], m.capacity)) & mask) >= ((j - i) & mask):
            m.keys[i] = m.keys[j]
            m.values[i] = m.values[j]
            i = j
    m.keys[i] = 0
    m.used -= 1


cdef int map_reserve(Map* m, uint64_t more) except -1:
    cdef uint64_t capacity = 64, i
    cdef Map wider
    if m.capacity and (m.used + more) * 10 <= m.capacity * 7:
        return 0
    while capacity * 7 < (m.used + more) * 10:
        capacity *= 2
    wider.keys = <uint64_t*> calloc(capacity, sizeof(uint64_t))
    wider.values = <int32_t*> malloc(capacity * sizeof(int32_t))
    if wider.keys == NULL or wider.values == NULL:
        free(wider.keys)
        free(wider.values)
        raise MemoryError
    wider.capacity = capacity
    wider.used = 0
    for i in range(m.capacity):
        if m.keys[i] != 0:
            map_set(&wider, m.keys[i], m.values[i])
    free(m.keys)
    free(m.values)
    m[0] = wider
    return 0


cdef void push(Numbers* numbers, int32_t value) noexcept nogil:
    cdef int32_t* data
    cdef Py_ssize_t capacity
    if numbers.n == numbers.capacity:
        capacity = 2 * numbers.capacity + 64
        data = <int32_t*> realloc(numbers.data, capacity * sizeof(int32_t))
        if data == NULL:
            numbers.failed = True
            return
        numbers.data, numbers.capacity = data, capacity
    numbers.data[numbers.n] = value
    numbers.n += 1


cdef object taken(Numbers* numbers):
    """What was pushed, as an array; the list is empty then."""
    cdef int32_t[::1] view
    cdef Py_ssize_t n = numbers.n
    try:
        if numbers.failed:
            raise MemoryError
        out = np.empty(n, np.int32)
        if n:
            view = out
            memcpy(&view[0], numbers.data, n * sizeof(int32_t))
        return out
    finally:
        free(numbers.data)
        numbers.data, numbers.n, numbers.capacity, numbers.failed = NULL, 0, 0, False


cdef uint32_t priority(int32_t node) noexcept nogil:
    cdef uint64_t z = ((<uint64_t> node + 1) * <uint64_t> 0x9E3779B97F4A7C15) ^ SEED
    z = (z ^ (z >> 32)) * <uint64_t> 0xD6E8FEB86659FD93
    return <uint32_t> (z >> 32)


cdef class Groups:
    cdef Map _key
    cdef Row* _rows
    cdef Py_ssize_t _n_rows
    cdef Numbers _oversize
    cdef int32_t _max_size

    cdef Map _lines
    cdef Node* _nodes
    cdef int32_t _n_nodes, _node_capacity, _free_node

    cdef int32_t* _left  # node of each row that left, NIL without one, FREE where no row is
    cdef Py_ssize_t _n_left
    cdef uint64_t* _log_keys
    cdef uint32_t* _log_next
    cdef int32_t* _log_slots
    cdef uint32_t* _heads
    cdef uint64_t _log_capacity, _buckets, _head, _tail, _head_at

    cdef public int64_t fragments_capped
    cdef public int64_t context_capped

    def __cinit__(self):
        self._free_node = NIL
        self._max_size = LEFT

    def __dealloc__(self):
        free(self._key.keys)
        free(self._key.values)
        free(self._lines.keys)
        free(self._lines.values)
        free(self._rows)
        free(self._nodes)
        free(self._left)
        free(self._oversize.data)
        free(self._log_keys)
        free(self._log_next)
        free(self._log_slots)
        free(self._heads)

    @property
    def mark(self):
        return self._head

    @property
    def nbytes(self):
        """Bytes allocated."""
        return (
            12 * (self._key.capacity + self._lines.capacity)
            + sizeof(Row) * self._n_rows + sizeof(Node) * self._node_capacity
            + 4 * self._n_left + 16 * self._log_capacity + 4 * self._buckets
        )

    # --- room and bounds -------------------------------------------------------------------------------------------

    cdef int _check(self, const int32_t[::1] slots, Py_ssize_t least, Py_ssize_t below, Py_ssize_t n) except -1:
        """Raise IndexError unless there are n slots, each at least `least` and below `below`."""
        cdef Py_ssize_t i
        if slots.shape[0] != n:
            raise ValueError("columns of unequal length")
        for i in range(n):
            if slots[i] < least or slots[i] >= below:
                raise IndexError(f"slot {slots[i]} is not between {least} and {below}")
        return 0

    cdef int _reserve_rows(self, Py_ssize_t n) except -1:
        cdef Py_ssize_t capacity = self._n_rows, i
        cdef Row* rows
        if n <= capacity:
            return 0
        if n >= LEFT:
            raise IndexError("too many rows")
        capacity = max(n, capacity + capacity // 2, 1024)
        rows = <Row*> realloc(self._rows, capacity * sizeof(Row))
        if rows == NULL:
            raise MemoryError
        for i in range(self._n_rows, capacity):
            rows[i].state = 0
            rows[i].node = NIL
        self._rows, self._n_rows = rows, capacity
        return 0

    cdef int _reserve_left(self, Py_ssize_t n) except -1:
        cdef Py_ssize_t capacity = self._n_left, i
        cdef int32_t* left
        if n <= capacity:
            return 0
        if n >= LEFT:
            raise IndexError("too many rows")
        capacity = max(n, capacity + capacity // 2, 1024)
        left = <int32_t*> realloc(self._left, capacity * sizeof(int32_t))
        if left == NULL:
            raise MemoryError
        for i in range(self._n_left, capacity):
            left[i] = FREE
        self._left, self._n_left = left, capacity
        return 0

    cdef int _reserve_nodes(self, Py_ssize_t more) except -1:
        """Room for more nodes; free ones are not counted on."""
        cdef Py_ssize_t capacity = self._node_capacity
        cdef Node* nodes
        map_reserve(&self._lines, more)
        if self._n_nodes + more <= capacity:
            return 0
        capacity = max(self._n_nodes + more, capacity + capacity // 2, 1024)
        if capacity >= LEFT:
            raise IndexError("too many rows")
        nodes = <Node*> realloc(self._nodes, capacity * sizeof(Node))
        if nodes == NULL:
            raise MemoryError
        self._nodes, self._node_capacity = nodes, <int32_t> capacity
        return 0

    cdef int _reserve_log(self, uint64_t more) except -1:
        """The log is a ring that grows by an eighth, in place: it holds more than anything else here."""
        cdef uint64_t live = self._head - self._tail, old = self._log_capacity, capacity, tail_at, behind
        cdef void* keys
        cdef void* nexts
        cdef void* slots
        if live + more <= old:
            return 0
        capacity = max(<uint64_t> 1024, (live + more) // 8 * 9 + 9)
        keys = realloc(self._log_keys, capacity * sizeof(uint64_t))
        if keys != NULL:
            self._log_keys = <uint64_t*> keys
        nexts = realloc(self._log_next, capacity * sizeof(uint32_t))
        if nexts != NULL:
            self._log_next = <uint32_t*> nexts
        slots = realloc(self._log_slots, capacity * sizeof(int32_t))
        if slots != NULL:
            self._log_slots = <int32_t*> slots
        if keys == NULL or nexts == NULL or slots == NULL:
            raise MemoryError
        if live:
            tail_at = self._spot(self._tail + 1)
            if tail_at > self._head_at:  # what lies before the old end moves to the new one
                behind = old - tail_at
                memmove(self._log_keys + capacity - behind, self._log_keys + tail_at, behind * sizeof(uint64_t))
                memmove(self._log_next + capacity - behind, self._log_next + tail_at, behind * sizeof(uint32_t))
                memmove(self._log_slots + capacity - behind, self._log_slots + tail_at, behind * sizeof(int32_t))
        else:
            self._head_at = capacity - 1
        self._log_capacity = capacity
        self._reserve_buckets()
        return 0

    cdef int _reserve_buckets(self) except -1:
        """Two to four entries a bucket when the log is full."""
        cdef uint64_t buckets = max(<uint64_t> 1024, self._buckets), number, spot
        cdef uint32_t* heads
        while buckets < self._log_capacity // 4:
            buckets *= 2
        if buckets == self._buckets:
            return 0
        heads = <uint32_t*> realloc(self._heads, buckets * sizeof(uint32_t))
        if heads == NULL:
            raise MemoryError
        self._heads, self._buckets = heads, buckets
        for spot in range(buckets):
            heads[spot] = <uint32_t> self._tail
        for number in range(self._tail + 1, self._head + 1):
            spot = self._spot(number)
            self._log_next[spot] = heads[home(self._log_keys[spot], buckets)]
            heads[home(self._log_keys[spot], buckets)] = <uint32_t> number
        return 0

    cdef inline uint64_t _spot(self, uint64_t number) noexcept nogil:
        """Where in the ring a log entry lies that is not forgotten."""
        cdef uint64_t behind = self._head - number
        return self._head_at - behind if behind <= self._head_at else self._head_at + self._log_capacity - behind

    # --- groups ----------------------------------------------------------------------------------------------------

    cdef int32_t _find(self, int32_t slot) noexcept nogil:
        cdef Row* rows = self._rows
        while rows[slot].root != slot:
            rows[slot].root = rows[rows[slot].root].root
            slot = rows[slot].root
        return slot

    cdef void _union(self, int32_t a, int32_t b) noexcept nogil:
        cdef Row* rows = self._rows
        cdef int32_t before, swapped
        a, b = self._find(a), self._find(b)
        if a == b:
            return
        if rows[a].size < rows[b].size:
            a, b = b, a
        before = rows[a].size
        rows[b].root = a
        rows[a].size += rows[b].size
        rows[a].first = min(rows[a].first, rows[b].first)
        rows[a].last = max(rows[a].last, rows[b].last)
        swapped = rows[a].next
        rows[a].next = rows[b].next
        rows[b].next = swapped
        if before < self._max_size <= rows[a].size:
            push(&self._oversize, a)

    def add(
        self,
        const int32_t[::1] slots,
        const uint64_t[:, ::1] keys,
        const uint8_t[::1] kinds,
        const int64_t[::1] arrivals,
        int max_size,
    ):
        cdef Py_ssize_t n = slots.shape[0], i, lane, top = 0
        cdef int32_t slot, other
        cdef Row* row
        cdef uint64_t key
        self._check(slots, 0, LEFT, n)
        if keys.shape[0] != n or keys.shape[1] != LANES or kinds.shape[0] != n or arrivals.shape[0] != n:
            raise ValueError("columns of unequal length")
        for i in range(n):
            top = max(top, slots[i] + 1)
        self._reserve_rows(top)
        map_reserve(&self._key, n * LANES)
        self._max_size = max_size
        with nogil:
            for i in range(n):
                slot = slots[i]
                row = &self._rows[slot]
                row.first = row.last = arrivals[i]
                row.root = row.next = slot
                row.size = 1
                row.node = row.context = NIL
                row.state = WAITING
                row.marks = kinds[i]
                for lane in range(LANES):
                    key = keys[i, lane]
                    if key == 0:
                        continue
                    other = map_get(&self._key, key)
                    if other == NIL:
                        other = slot
                        map_set(&self._key, key, slot)
                    else:
                        self._union(slot, other & ~ENTRY)
                    if lane == NET:
                        self._meet(slot, other, key)
                    if lane == THREAD and kinds[i] & IS_ENTRY and not other & ENTRY:
                        map_set(&self._key, key, slot | ENTRY)
        if self._oversize.failed:
            raise MemoryError

    cdef void _meet(self, int32_t slot, int32_t other, uint64_t key) noexcept nogil:
        """With a NET key, ENTRY says that rows of both directions have it."""
        cdef Row* rows = self._rows
        if other & ENTRY:
            rows[slot].marks |= MET
        elif (rows[slot].marks | rows[other].marks) & BOTH_WAYS == BOTH_WAYS:
            map_set(&self._key, key, other | ENTRY)
            rows[slot].marks |= MET
            rows[other].marks |= MET

    def unite(self, const int32_t[::1] slots, const int32_t[::1] others):
        cdef Py_ssize_t n = slots.shape[0], i
        self._check(slots, 0, self._n_rows, n)
        self._check(others, 0, self._n_rows, n)
        with nogil:
            for i in range(n):
                if self._rows[slots[i]].state & self._rows[others[i]].state & WAITING:
                    self._union(slots[i], others[i])
        if self._oversize.failed:
            raise MemoryError

    def marks(self, const int32_t[::1] slots):
        cdef Py_ssize_t n = slots.shape[0], i
        cdef uint8_t[::1] view
        self._check(slots, 0, self._n_rows, n)
        out = np.empty(n, np.uint8)
        view = out
        with nogil:
            for i in range(n):
                view[i] = self._rows[slots[i]].marks if self._rows[slots[i]].state & WAITING else 0
        return out

    def set_open(self, const int32_t[::1] slots, bint value):
        cdef Py_ssize_t n = slots.shape[0], i
        self._check(slots, 0, self._n_rows, n)
        with nogil:
            for i in range(n):
                self._rows[slots[i]].marks = self._rows[slots[i]].marks & ~OPEN | (OPEN if value else 0)

    def met(self, const uint64_t[::1] keys):
        cdef Py_ssize_t n = keys.shape[0], i
        cdef int32_t other
        cdef uint8_t[::1] view
        out = np.empty(n, np.uint8)
        view = out
        with nogil:
            for i in range(n):
                other = map_get(&self._key, keys[i])
                view[i] = 1 if other != NIL and other & ENTRY or self._has_left(keys[i]) else 0
        return out

    def oversize(self):
        listed = taken(&self._oversize)
        cdef const int32_t[::1] slots = listed
        cdef Py_ssize_t i
        return listed[[i for i in range(slots.shape[0]) if self._rows[slots[i]].state & WAITING]]

    def due(
        self,
        const int32_t[::1] slots,
        int64_t now,
        int64_t window,
        int64_t max_age,
        int32_t max_size,
        *,
        bint force,
    ):
        cdef Py_ssize_t n = slots.shape[0], i
        cdef int32_t root, slot
        cdef int32_t reason
        cdef Numbers members, sizes, reasons, roots
        members = sizes = reasons = roots = Numbers(NULL, 0, 0, False)
        self._check(slots, 0, self._n_rows, n)
        with nogil:
            for i in range(n):
                if not self._rows[slots[i]].state & WAITING:
                    continue
                root = self._find(slots[i])
                if self._rows[root].state & MARKED:
                    continue
                reason = self._reason(root, now, window, max_age, max_size, force)
                self._rows[root].state |= MARKED
                push(&roots, root)
                if roots.failed:
                    self._rows[root].state &= ~MARKED
                if not reason:
                    continue
                slot = root
                while True:
                    push(&members, slot)
                    slot = self._rows[slot].next
                    if slot == root:
                        break
                push(&sizes, self._rows[root].size)
                push(&reasons, reason)
            for i in range(roots.n):
                self._rows[roots.data[i]].state &= ~MARKED
            free(roots.data)
        return taken(&members), taken(&sizes).astype(np.int64), taken(&reasons).astype(np.uint8)

    cdef int32_t _reason(
        self, int32_t root, int64_t now, int64_t window, int64_t max_age, int32_t max_size, bint force
    ) noexcept nogil:
        cdef Row* row = &self._rows[root]
        if row.last + window <= now:
            return 1
        if now - row.first >= max_age:
            return 2
        if row.size >= max_size:
            return 3
        return 4 if force else 0

    def checked(self, const int32_t[::1] slots):
        cdef Py_ssize_t n = slots.shape[0], i
        cdef Numbers done = Numbers(NULL, 0, 0, False)
        cdef Row* row
        self._check(slots, 0, self._n_rows, n)
        with nogil:
            for i in range(n):
                row = &self._rows[slots[i]]
                if row.state & GONE:
                    row.state = 0
                    push(&done, slots[i])
                elif row.state & WAITING:
                    row.state |= CHECKED
        return taken(&done)

    def depart(self, const int32_t[::1] slots, const uint64_t[:, ::1] keys):
        cdef Py_ssize_t n = slots.shape[0], i, lane
        cdef Numbers done = Numbers(NULL, 0, 0, False)
        cdef Row* row
        self._check(slots, 0, self._n_rows, n)
        if keys.shape[0] != n or keys.shape[1] != LANES:
            raise ValueError("columns of unequal length")
        with nogil:
            for i in range(n):
                row = &self._rows[slots[i]]
                for lane in range(LANES):
                    if keys[i, lane]:
                        map_remove(&self._key, keys[i, lane])
                row.context = NIL
                if row.state & CHECKED:
                    push(&done, slots[i])
                    row.state = row.state & EXIT
                else:
                    row.state = GONE | (row.state & EXIT)
        return taken(&done)

    # --- timelines -------------------------------------------------------------------------------------------------

    cdef int32_t _insert(self, uint64_t line, int64_t at, int64_t end, int32_t ref) noexcept nogil:
        """Room must have been reserved."""
        cdef int32_t x = self._free_node, p
        cdef Node* nodes = self._nodes
        if x != NIL:
            self._free_node = nodes[x].l
        else:
            x = self._n_nodes
            self._n_nodes += 1
        nodes[x] = Node(line, at, end, end, NIL, NIL, NIL, ref)
        p = map_get(&self._lines, line)
        if p == NIL:
            map_set(&self._lines, line, x)
            return x
        while True:
            nodes[p].most = max(nodes[p].most, end)
            if at < nodes[p].at:
                if nodes[p].l == NIL:
                    nodes[p].l = x
                    break
                p = nodes[p].l
            else:
                if nodes[p].r == NIL:
                    nodes[p].r = x
                    break
                p = nodes[p].r
        nodes[x].up = p
        while nodes[x].up != NIL and priority(x) > priority(nodes[x].up):
            self._rotate(x)
        return x

    cdef void _rotate(self, int32_t x) noexcept nogil:
        """Lift a node above its parent."""
        cdef Node* nodes = self._nodes
        cdef int32_t p = nodes[x].up, g = nodes[nodes[x].up].up, moved
        if nodes[p].l == x:
            moved = nodes[x].r
            nodes[p].l = moved
            nodes[x].r = p
        else:
            moved = nodes[x].l
            nodes[p].r = moved
            nodes[x].l = p
        if moved != NIL:
            nodes[moved].up = p
        nodes[p].up = x
        self._hang(x, p, g)
        nodes[x].most = nodes[p].most
        self._refresh(p)

    cdef void _hang(self, int32_t x, int32_t instead, int32_t g) noexcept nogil:
        """Put a node (or NIL) in another's place below g, at the top of the line where g is NIL."""
        cdef Node* nodes = self._nodes
        if x != NIL:
            nodes[x].up = g
        if g == NIL:
            if x == NIL:
                map_remove(&self._lines, nodes[instead].line)
            else:
                map_set(&self._lines, nodes[x].line, x)
        elif nodes[g].l == instead:
            nodes[g].l = x
        else:
            nodes[g].r = x

    cdef void _refresh(self, int32_t p) noexcept nogil:
        cdef Node* nodes = self._nodes
        cdef int64_t most = nodes[p].end
        if nodes[p].l != NIL:
            most = max(most, nodes[nodes[p].l].most)
        if nodes[p].r != NIL:
            most = max(most, nodes[nodes[p].r].most)
        nodes[p].most = most

    cdef void _remove(self, int32_t x) noexcept nogil:
        cdef Node* nodes = self._nodes
        cdef int32_t p
        while nodes[x].l != NIL and nodes[x].r != NIL:
            if priority(nodes[x].l) > priority(nodes[x].r):
                self._rotate(nodes[x].l)
            else:
                self._rotate(nodes[x].r)
        p = nodes[x].up
        self._hang(nodes[x].r if nodes[x].l == NIL else nodes[x].l, x, p)
        while p != NIL:
            self._refresh(p)
            p = nodes[p].up
        nodes[x].l = self._free_node
        self._free_node = x

    cdef int32_t _first(self, uint64_t line, int64_t at) noexcept nogil:
        """Earliest node of a line at or after a time."""
        cdef Node* nodes = self._nodes
        cdef int32_t p = map_get(&self._lines, line), found = NIL
        while p != NIL:
            if nodes[p].at >= at:
                found = p
                p = nodes[p].l
            else:
                p = nodes[p].r
        return found

    cdef int32_t _after(self, int32_t p) noexcept nogil:
        cdef Node* nodes = self._nodes
        cdef int32_t child
        if nodes[p].r != NIL:
            p = nodes[p].r
            while nodes[p].l != NIL:
                p = nodes[p].l
            return p
        child = p
        p = nodes[p].up
        while p != NIL and nodes[p].r == child:
            child = p
            p = nodes[p].up
        return p

    cdef int32_t _latest(self, uint64_t line, int64_t at) noexcept nogil:
        """Latest node of a line that began at or before a time and had not ended then."""
        cdef Node* nodes = self._nodes
        cdef int32_t p = map_get(&self._lines, line), below = NIL, child
        while p != NIL:  # the last node that began by then
            if nodes[p].at <= at:
                below = p
                p = nodes[p].r
            else:
                p = nodes[p].l
        p = below
        while p != NIL:
            if nodes[p].end >= at:
                return p
            if nodes[p].l != NIL and nodes[nodes[p].l].most >= at:
                p = nodes[p].l
                while True:
                    if nodes[p].r != NIL and nodes[nodes[p].r].most >= at:
                        p = nodes[p].r
                    elif nodes[p].end >= at:
                        return p
                    else:
                        p = nodes[p].l
            child = p
            p = nodes[p].up
            while p != NIL and nodes[p].l == child:
                child = p
                p = nodes[p].up
        return NIL

    def open(
        self,
        const int32_t[::1] refs,
        const uint64_t[::1] timelines,
        const int64_t[::1] at_ns,
        const int64_t[::1] end_ns,
    ):
        cdef Py_ssize_t n = refs.shape[0], i, top = 0
        cdef int32_t node, ref
        self._check(refs, 0, 2 * <Py_ssize_t> LEFT, n)
        if timelines.shape[0] != n or at_ns.shape[0] != n or end_ns.shape[0] != n:
            raise ValueError("columns of unequal length")
        for i in range(n):
            if refs[i] < LEFT:
                self._check(refs[i:i + 1], 0, self._n_rows, 1)
            else:
                top = max(top, refs[i] - LEFT + 1)
        self._reserve_left(top)
        self._reserve_nodes(n)
        with nogil:
            for i in range(n):
                if timelines[i] == 0:
                    continue
                ref = refs[i]
                node = self._insert(timelines[i], at_ns[i], end_ns[i], ref)
                if ref < LEFT:
                    self._rows[ref].node = node
                else:
                    self._left[ref - LEFT] = node

    def hold(self, const int32_t[::1] slots, const uint64_t[::1] timelines, const int64_t[::1] at_ns):
        cdef Py_ssize_t n = slots.shape[0], i
        cdef Row* row
        self._check(slots, 0, self._n_rows, n)
        if timelines.shape[0] != n or at_ns.shape[0] != n:
            raise ValueError("columns of unequal length")
        self._reserve_nodes(n)
        with nogil:
            for i in range(n):
                row = &self._rows[slots[i]]
                if timelines[i] and row.node == NIL:
                    row.node = self._insert(timelines[i] ^ EXITS, at_ns[i], at_ns[i], slots[i])
                    row.state |= EXIT | HELD

    def resolve(
        self,
        const int32_t[::1] slots,
        const uint64_t[::1] timelines,
        const int64_t[::1] at_ns,
        const uint64_t[::1] threads,
    ):
        cdef Py_ssize_t n = slots.shape[0], i
        self._check(slots, 0, self._n_rows, n)
        if timelines.shape[0] != n or at_ns.shape[0] != n or threads.shape[0] != n:
            raise ValueError("columns of unequal length")
        self._reserve_nodes(n)
        with nogil:
            for i in range(n):
                if self._rows[slots[i]].state & WAITING and timelines[i]:
                    self._resolve(slots[i], timelines[i], at_ns[i], threads[i])
        if self._oversize.failed:
            raise MemoryError

    cdef void _resolve(self, int32_t slot, uint64_t line, int64_t at, uint64_t thread) noexcept nogil:
        cdef Row* row = &self._rows[slot]
        cdef Node* nodes = self._nodes
        cdef int32_t found = NIL, ties = 0
        cdef int64_t began
        cdef bint known = thread and self._has_entry(thread)
        row.marks &= ~PARENTED
        row.state = row.state & ~HELD
        if not known:
            found = self._latest(line, at)
        if known or found != NIL:
            if row.node != NIL:
                self._remove(row.node)
                row.node = NIL
        elif row.node == NIL:
            row.node = self._insert(line ^ EXITS, at, at, slot)
            row.state |= EXIT
        if found != NIL or (known and not self._outside(at, thread)):
            row.marks |= PARENTED
        if found == NIL:
            return
        began = nodes[found].at
        found = self._first(line, began)
        while found != NIL and nodes[found].at == began and ties < MAX_TIES:
            if nodes[found].end >= at:
                ties += 1
                if nodes[found].ref >= LEFT:
                    row.context = nodes[found].ref - LEFT
                else:
                    self._union(slot, nodes[found].ref)
            found = self._after(found)

    cdef bint _outside(self, int64_t at, uint64_t thread) noexcept nogil:
        cdef int32_t entry = map_get(&self._key, thread)
        cdef Node* node
        if entry == NIL or not entry & ENTRY:
            return False
        entry &= ~ENTRY
        if self._rows[entry].node == NIL or self._rows[entry].state & EXIT:
            return False
        node = &self._nodes[self._rows[entry].node]
        return at < node.at or at > node.end

    cdef bint _has_left(self, uint64_t key) noexcept nogil:
        cdef uint64_t at = self._newest(key), spot
        cdef int32_t steps = 0
        while at and steps < MAX_STEPS:
            spot = self._spot(at)
            if self._log_keys[spot] == key:
                return True
            steps += 1
            at = self._older(self._log_next[spot])
        return False

    cdef bint _has_entry(self, uint64_t thread) noexcept nogil:
        cdef int32_t other = map_get(&self._key, thread)
        cdef uint64_t at = self._newest(thread), spot
        cdef int32_t steps = 0, seen = 0
        if other != NIL and other & ENTRY:
            return True
        while at and seen < MAX_CONTEXT and steps < MAX_STEPS:
            spot = self._spot(at)
            if self._log_keys[spot] == thread:
                seen += 1
                if self._log_slots[spot] & ENTRY:
                    return True
            steps += 1
            at = self._older(self._log_next[spot])
        return False

    def claim(self, const int32_t[::1] slots, *, bint held):
        cdef Py_ssize_t n = slots.shape[0], i
        self._check(slots, 0, self._n_rows, n)
        with nogil:
            for i in range(n):
                if self._rows[slots[i]].state & WAITING:
                    self._claim(slots[i], held)
        if self._oversize.failed:
            raise MemoryError

    cdef void _claim(self, int32_t slot, bint held) noexcept nogil:
        cdef Row* row = &self._rows[slot]
        cdef Node* nodes = self._nodes
        cdef int32_t found, following, seen = 0, ref
        if row.node == NIL or row.state & EXIT:
            return
        found = self._first(nodes[row.node].line ^ EXITS, nodes[row.node].at)
        while found != NIL and nodes[found].at <= nodes[row.node].end:
            if seen == MAX_FRAGMENTS:
                self.fragments_capped += 1
                return
            seen += 1
            following = self._after(found)
            ref = nodes[found].ref
            if ref < LEFT and not self._rows[ref].state & HELD:
                self._remove(found)
                self._rows[ref].node = NIL
                self._union(slot, ref)
                self._rows[ref].marks |= PARENTED
            elif ref < LEFT and held:
                self._resolve(ref, nodes[row.node].line, nodes[found].at, 0)
            found = following

    # --- rows that left --------------------------------------------------------------------------------------------

    cdef uint64_t _older(self, uint32_t number) noexcept nogil:
        """The full number of a log entry from its lower half; 0 when it is forgotten."""
        cdef uint64_t behind = <uint32_t> (<uint32_t> self._head - number)
        return self._head - behind if behind < self._head - self._tail else 0

    cdef uint64_t _newest(self, uint64_t key) noexcept nogil:
        if self._log_capacity == 0:
            return 0
        return self._older(self._heads[home(key, self._buckets)])

    def context(self, const int32_t[::1] slots, const uint64_t[:, ::1] keys):
        cdef Py_ssize_t n = slots.shape[0], i, lane
        cdef Numbers found = Numbers(NULL, 0, 0, False)
        cdef Row* row
        self._check(slots, 0, self._n_rows, n)
        if keys.shape[0] != n or keys.shape[1] != LANES:
            raise ValueError("columns of unequal length")
        with nogil:
            for i in range(n):
                row = &self._rows[slots[i]]
                for lane in range(LANES):
                    if keys[i, lane]:
                        self._by_key(keys[i, lane], lane == TRACE, &found)
                if row.context != NIL and self._left[row.context] != FREE:
                    push(&found, row.context)
                if row.node != NIL and not row.state & EXIT:
                    self._fragments(&self._nodes[row.node], &found)
        return np.unique(taken(&found))

    def parents(self, const uint64_t[:, ::1] keys, const uint64_t[::1] timelines, const int64_t[::1] at_ns):
        cdef Py_ssize_t n = keys.shape[0], i
        cdef Numbers found = Numbers(NULL, 0, 0, False)
        cdef int64_t capped = self.context_capped  # counted by `context` already
        if keys.shape[1] != LANES or timelines.shape[0] != n or at_ns.shape[0] != n:
            raise ValueError("columns of unequal length")
        with nogil:
            for i in range(n):
                if keys[i, NET]:
                    self._by_key(keys[i, NET], False, &found)
                if keys[i, THREAD]:
                    self._by_key(keys[i, THREAD], False, &found)
                if timelines[i]:
                    self._latest_that_left(timelines[i], at_ns[i], &found)
        self.context_capped = capped
        return np.unique(taken(&found))

    cdef void _latest_that_left(self, uint64_t line, int64_t at, Numbers* out) noexcept nogil:
        cdef Node* nodes = self._nodes
        cdef int32_t found = self._latest(line, at), ties = 0
        cdef int64_t began
        if found == NIL:
            return
        began = nodes[found].at
        found = self._first(line, began)
        while found != NIL and nodes[found].at == began and ties < MAX_TIES:
            if nodes[found].end >= at:
                ties += 1
                if nodes[found].ref >= LEFT:
                    push(out, nodes[found].ref - LEFT)
            found = self._after(found)

    cdef void _by_key(self, uint64_t key, bint one, Numbers* found) noexcept nogil:
        cdef uint64_t at = self._newest(key), spot
        cdef int32_t steps = 0, seen = 0
        while at:
            spot = self._spot(at)
            if self._log_keys[spot] == key:
                if seen == MAX_CONTEXT:
                    self.context_capped += 1
                    return
                seen += 1
                push(found, self._log_slots[spot] & ~ENTRY)
                if one:
                    return
            steps += 1
            if steps == MAX_STEPS:
                self.context_capped += 1
                return
            at = self._older(self._log_next[spot])

    cdef void _fragments(self, Node* entry, Numbers* out) noexcept nogil:
        cdef Node* nodes = self._nodes
        cdef int32_t found = self._first(entry.line ^ EXITS, entry.at), seen = 0
        while found != NIL and nodes[found].at <= entry.end and seen < MAX_FRAGMENTS:
            seen += 1
            if nodes[found].ref >= LEFT:
                push(out, nodes[found].ref - LEFT)
            found = self._after(found)

    def settle(
        self,
        const int32_t[::1] slots,
        const int32_t[::1] left,
        const uint64_t[:, ::1] keys,
        const uint8_t[::1] entry,
        const uint64_t[::1] timelines,
        const int64_t[::1] at_ns,
        const uint8_t[::1] parentless,
    ):
        cdef Py_ssize_t n = slots.shape[0], i, lane, top = 0
        cdef uint64_t at, bucket
        cdef int32_t new
        self._check(slots, NIL, self._n_rows, n)
        self._check(left, NIL, LEFT, n)
        if keys.shape[0] != n or keys.shape[1] != LANES or entry.shape[0] != n or timelines.shape[0] != n:
            raise ValueError("columns of unequal length")
        if at_ns.shape[0] != n or parentless.shape[0] != n:
            raise ValueError("columns of unequal length")
        for i in range(n):
            top = max(top, left[i] + 1)
        self._reserve_left(top)
        self._reserve_nodes(n)
        self._reserve_log(n * LANES)
        with nogil:
            for i in range(n):
                new = left[i]
                if new >= 0 and self._left[new] == FREE:
                    self._left[new] = NIL
                if slots[i] >= 0:
                    self._move_node(&self._rows[slots[i]], new, parentless[i])
                if new < 0:
                    continue
                if parentless[i] and timelines[i] and self._left[new] == NIL:
                    self._left[new] = self._insert(timelines[i] ^ EXITS, at_ns[i], at_ns[i], new | LEFT)
                for lane in range(LANES):
                    if keys[i, lane] == 0:
                        continue
                    self._head += 1
                    self._head_at = self._head_at + 1 if self._head_at + 1 < self._log_capacity else 0
                    at = self._head_at
                    self._log_keys[at] = keys[i, lane]
                    self._log_slots[at] = new | (ENTRY if lane == THREAD and entry[i] else 0)
                    bucket = home(keys[i, lane], self._buckets)
                    self._log_next[at] = self._heads[bucket]
                    self._heads[bucket] = <uint32_t> self._head

    cdef void _move_node(self, Row* row, int32_t new, bint parentless) noexcept nogil:
        if row.node == NIL:
            return
        if new >= 0 and (parentless or not row.state & EXIT):
            self._nodes[row.node].ref = new | LEFT
            self._left[new] = row.node
        else:
            self._remove(row.node)
        row.node = NIL
        row.state = row.state & ~(EXIT | HELD)

    def forget(self, const int32_t[::1] left, uint64_t mark):
        cdef Py_ssize_t n = left.shape[0], i
        self._check(left, 0, self._n_left, n)
        with nogil:
            for i in range(n):
                if self._left[left[i]] >= 0:
                    self._remove(self._left[left[i]])
                self._left[left[i]] = FREE
        self._tail = min(max(mark, self._tail), self._head)
