# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The compiled twin of bridge.linker.groups.PlainGroups, which says what each method promises.

Three structures over plain C arrays, a file each: a map from key to one waiting row (`_slot_map`); a log of the keys of
rows that left (`_left_log`); threads' timelines (`_timeline`, `_timeline_search`). Groups are union-find: their members
form a ring (a merge swaps two links), and what they have in common is kept once a group. Each structure is larger than
any cache: a loop over rows asks for what it will need a few rows ahead. All slots that come from outside are checked
before anything is written.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy

from bridge.linker._left_log cimport (
    Entry, Log, entry_at, filter_prefetch, log_drop, log_push, log_reserve, newest, older, push_prefetch,
)
from bridge.linker._mapped cimport mapped, unmap
from bridge.linker._prefetch cimport prefetch
from bridge.linker._slot_map cimport (
    NIL, Map, map_add, map_drop, map_get, map_prefetch, map_remove, map_reserve, map_set,
)
from bridge.linker._timeline cimport (
    LEFT, SIZES, Place, Timelines, block, block_prefetch, compact, insert, line_prefetch, lines_drop, place, refs_prefetch,
    remove, rename, was_sparse,
)
from bridge.linker._timeline_search cimport GROUP, between, descend, ties

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
    ENTRY = 1073741824
    FREE = -2  # no row is remembered there
    TAKEN = -2  # the place of a group that is not free
    WAITING = 1
    CHECKED = 2
    MARKED = 4
    GONE = 8
    EXIT = 16
    HELD = 32
    SERVED = 64  # an entry of its group has its thread trace id, and will until they leave
    IS_ENTRY = 1  # marks of a row: see groups.py
    BOTH_WAYS = 6
    MET = 32
    PARENTED = 64
    OPEN = 128
    FAR = 16  # rows ahead at which places in maps are asked for
    NEAR = 8  # rows ahead at which what they name is
    NEXT = 4  # rows ahead at which what that names is

cdef uint64_t EXITS = 0x5851F42D4C957F2D  # turns the key of a thread's entries into that of its exits

# Python's own hash seed (PYTHONHASHSEED): what makes up a bad set of keys in one process does not in another.
cdef uint64_t SEED = (<uint64_t> (hash("bridge.linker") & 0xFFFFFFFFFFFFFFFF)) | 1


cdef struct Row:
    int32_t root  # another row of its group, nearer to the root; at the root itself below 0: ~ the place of the group
    int32_t next  # of its group
    int32_t context
    uint8_t state
    uint8_t marks


cdef struct Group:
    int64_t first  # arrival
    int64_t last
    int32_t size
    int32_t free  # TAKEN, or the next place that is free, where this one is


cdef struct Numbers:
    int32_t* data
    Py_ssize_t n
    Py_ssize_t capacity
    bint failed


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


cdef Py_ssize_t grown(Py_ssize_t least, Py_ssize_t capacity) except -1:
    """How much room to make: an eighth more than there is, at least."""
    if least >= LEFT:
        raise IndexError("too many rows")
    return max(least, capacity + capacity // 8, 1024)


cdef class Groups:
    cdef Map _key
    cdef Log _log
    cdef Timelines _lines
    cdef Row* _rows
    cdef Py_ssize_t _n_rows
    cdef Py_ssize_t _rows_room  # the same, or more where memory ran out
    cdef Group* _groups
    cdef Py_ssize_t _n_groups
    cdef Py_ssize_t _groups_used  # places that were ever taken
    cdef Py_ssize_t _groups_free
    cdef int32_t _free_group
    cdef Py_ssize_t _n_left
    cdef Numbers _oversize
    cdef int32_t _max_size

    cdef public int64_t fragments_capped
    cdef public int64_t context_capped

    def __cinit__(self):
        self._max_size = LEFT
        self._free_group = NIL
        self._key.seed = self._log.seed = self._lines.tops.seed = self._lines.random = SEED
        for size in range(SIZES):
            self._lines.free[size] = NIL

    def __dealloc__(self):
        map_drop(&self._key)
        log_drop(&self._log)
        lines_drop(&self._lines)
        unmap(self._lines.of_row, self._n_rows * sizeof(int32_t))
        unmap(self._lines.of_left, self._n_left * sizeof(int32_t))
        unmap(self._rows, self._rows_room * sizeof(Row))
        unmap(self._groups, self._n_groups * sizeof(Group))
        free(self._oversize.data)

    @property
    def mark(self):
        return self._log.head

    @property
    def nbytes(self):
        """Bytes allocated."""
        return (
            12 * (self._key.capacity + self._lines.tops.capacity) + 8 * self._lines.capacity
            + (sizeof(Row) + 4) * self._n_rows + sizeof(Group) * self._n_groups + 4 * self._n_left
            + sizeof(Entry) * self._log.capacity + 4 * self._log.buckets + 64 * self._log.blocks
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
        cdef int32_t* of_row
        if n <= capacity:
            return 0
        capacity = grown(n, capacity)
        rows = <Row*> mapped(self._rows, self._rows_room * sizeof(Row), capacity * sizeof(Row))
        if rows == NULL:
            raise MemoryError
        self._rows, self._rows_room = rows, capacity
        of_row = <int32_t*> mapped(self._lines.of_row, self._n_rows * sizeof(int32_t), capacity * sizeof(int32_t))
        if of_row == NULL:
            raise MemoryError
        for i in range(self._n_rows, capacity):
            of_row[i] = NIL
        self._lines.of_row, self._n_rows = of_row, capacity
        return 0

    cdef int _reserve_groups(self, Py_ssize_t more) except -1:
        cdef Py_ssize_t least = self._groups_used - self._groups_free + more
        cdef Group* groups
        if least <= self._n_groups:
            return 0
        least = grown(least, self._n_groups)
        groups = <Group*> mapped(self._groups, self._n_groups * sizeof(Group), least * sizeof(Group))
        if groups == NULL:
            raise MemoryError
        self._groups, self._n_groups = groups, least
        return 0

    cdef int _reserve_left(self, Py_ssize_t n) except -1:
        cdef Py_ssize_t capacity = self._n_left, i
        cdef int32_t* of_left
        if n <= capacity:
            return 0
        capacity = grown(n, capacity)
        of_left = <int32_t*> mapped(self._lines.of_left, self._n_left * sizeof(int32_t), capacity * sizeof(int32_t))
        if of_left == NULL:
            raise MemoryError
        for i in range(self._n_left, capacity):
            of_left[i] = FREE
        self._lines.of_left, self._n_left = of_left, capacity
        return 0

    cdef int _done(self) except -1:
        """Raise MemoryError if what was just done could not be done in full."""
        cdef bint failed = self._oversize.failed or self._lines.failed
        self._lines.failed = False
        if failed:
            raise MemoryError
        return 0

    # --- groups ----------------------------------------------------------------------------------------------------

    cdef inline int32_t _new_group(self, int64_t arrival) noexcept nogil:
        """A group of one row; room must have been reserved."""
        cdef int32_t place = self._free_group
        if place == NIL:
            place = <int32_t> self._groups_used
            self._groups_used += 1
        else:
            self._free_group = self._groups[place].free
            self._groups_free -= 1
        self._groups[place] = Group(arrival, arrival, 1, TAKEN)
        return place

    cdef inline void _drop_group(self, int32_t place) noexcept nogil:
        if self._groups[place].free != TAKEN:  # somebody left without their group
            return
        self._groups[place].free = self._free_group
        self._free_group = place
        self._groups_free += 1

    cdef inline Group* _group_of(self, int32_t root) noexcept nogil:
        return &self._groups[~self._rows[root].root]

    cdef int32_t _find(self, int32_t slot) noexcept nogil:
        """The root of a row's group; a row that is about to get one is its own."""
        cdef Row* rows = self._rows
        cdef int32_t near = rows[slot].root, far
        while near >= 0:
            far = rows[near].root
            if far < 0 or far == near:
                return near
            rows[slot].root = far
            slot = far
            near = rows[slot].root
        return slot

    cdef void _union(self, int32_t a, int32_t b) noexcept nogil:
        cdef Row* rows = self._rows
        cdef Group* group
        cdef Group* other
        cdef int32_t before, swapped
        a, b = self._find(a), self._find(b)
        if a == b:
            return
        if self._group_of(a).size < self._group_of(b).size:
            a, b = b, a
        group, other = self._group_of(a), self._group_of(b)
        before = group.size
        group.size += other.size
        group.first = min(group.first, other.first)
        group.last = max(group.last, other.last)
        self._drop_group(~rows[b].root)
        rows[b].root = a
        swapped = rows[a].next
        rows[a].next = rows[b].next
        rows[b].next = swapped
        if before < self._max_size <= group.size:
            push(&self._oversize, a)

    def add(
        self,
        const int32_t[::1] slots,
        const uint64_t[:, ::1] keys,
        const uint8_t[::1] kinds,
        const int64_t[::1] arrivals,
        int max_size,
    ):
        cdef Py_ssize_t n = slots.shape[0], i, lane, top = 0, used = 0
        cdef int32_t slot, other
        cdef Row* row
        cdef uint64_t key
        self._check(slots, 0, LEFT, n)
        if keys.shape[0] != n or keys.shape[1] != LANES or kinds.shape[0] != n or arrivals.shape[0] != n:
            raise ValueError("columns of unequal length")
        for i in range(n):
            top = max(top, slots[i] + 1)
            for lane in range(LANES):
                used += keys[i, lane] != 0
        self._reserve_rows(top)
        self._reserve_groups(n)
        map_reserve(&self._key, used)
        self._max_size = max_size
        with nogil:
            for i in range(n):
                slot = slots[i]
                self._ask_keys(&keys[i, 0], n - i)
                row = &self._rows[slot]
                row.root = row.next = slot
                row.context = self._lines.of_row[slot] = NIL
                row.state = WAITING
                row.marks = kinds[i]
                for lane in range(LANES):
                    key = keys[i, lane]
                    if key == 0:
                        continue
                    other = map_add(&self._key, key, slot)
                    if other & ~ENTRY != slot:
                        if row.root == slot:
                            self._join(slot, other & ~ENTRY, arrivals[i])
                        else:
                            self._union(slot, other & ~ENTRY)
                    if lane == NET:
                        self._meet(slot, other, key)
                    if lane == THREAD and kinds[i] & IS_ENTRY and not other & ENTRY:
                        map_set(&self._key, key, slot | ENTRY)
                if row.root == slot:
                    row.root = ~self._new_group(arrivals[i])
        self._done()

    cdef inline void _join(self, int32_t slot, int32_t other, int64_t arrival) noexcept nogil:
        """Have a row that is in no group, its own root and next, join that of another."""
        cdef Row* rows = self._rows
        cdef int32_t root = self._find(other)
        cdef Group* group
        if root == slot:
            return
        group = self._group_of(root)
        group.size += 1
        group.first = min(group.first, arrival)
        group.last = max(group.last, arrival)
        rows[slot].root, rows[slot].next = root, rows[root].next
        rows[root].next = slot
        if group.size == self._max_size:
            push(&self._oversize, root)

    cdef inline void _ask_keys(self, const uint64_t* keys, Py_ssize_t more) noexcept nogil:
        """Ask for the places of a row's keys some rows before it is its turn; `more`: rows behind this one."""
        cdef int lane
        if more > FAR:
            for lane in range(LANES):
                map_prefetch(&self._key, keys[FAR * LANES + lane])

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
        self._done()

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
                push(&sizes, self._group_of(root).size)
                push(&reasons, reason)
            for i in range(roots.n):
                self._rows[roots.data[i]].state &= ~MARKED
            free(roots.data)
        return taken(&members), taken(&sizes).astype(np.int64), taken(&reasons).astype(np.uint8)

    cdef int32_t _reason(
        self, int32_t root, int64_t now, int64_t window, int64_t max_age, int32_t max_size, bint force
    ) noexcept nogil:
        cdef Group* group = self._group_of(root)
        if now - group.last >= window:
            return 1
        if now - group.first >= max_age:
            return 2
        if group.size >= max_size:
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
                self._ask_keys(&keys[i, 0], n - i)
                row = &self._rows[slots[i]]
                for lane in range(LANES):
                    if keys[i, lane]:
                        map_remove(&self._key, keys[i, lane])
                if row.state & WAITING and row.root < 0:  # all of a group leave together
                    self._drop_group(~row.root)
                row.context = NIL
                if row.state & CHECKED:
                    push(&done, slots[i])
                    row.state = row.state & EXIT
                else:
                    row.state = GONE | (row.state & EXIT)
        return taken(&done)

    # --- timelines -------------------------------------------------------------------------------------------------

    cdef inline void _ask_lines(self, const uint64_t* timeline, Py_ssize_t more, uint64_t turn) noexcept nogil:
        """Ask for what lies ahead on the lines of a row and `more` behind it."""
        if more > FAR:
            map_prefetch(&self._lines.tops, timeline[FAR] ^ turn)
        if more > NEAR:
            line_prefetch(&self._lines, timeline[NEAR] ^ turn)

    cdef inline void _ask_places(self, const int32_t* of, const int32_t* slot, Py_ssize_t more) noexcept nogil:
        """The same for rows that are on lines, given the blocks of all."""
        if more > FAR and slot[FAR] >= 0 and of[slot[FAR]] >= 0:
            block_prefetch(&self._lines, of[slot[FAR]])
        if more > NEAR and slot[NEAR] >= 0 and of[slot[NEAR]] >= 0:
            refs_prefetch(&self._lines, of[slot[NEAR]])

    cdef inline void _ask_exits(self, const int32_t* slot, Py_ssize_t more) noexcept nogil:
        """And for the exits of the threads of entries."""
        cdef const int32_t* of = self._lines.of_row
        self._ask_places(of, slot, more)
        if more > NEAR and of[slot[NEAR]] >= 0:
            map_prefetch(&self._lines.tops, block(&self._lines, of[slot[NEAR]]).line ^ EXITS)
        if more > NEXT and of[slot[NEXT]] >= 0:
            line_prefetch(&self._lines, block(&self._lines, of[slot[NEXT]]).line ^ EXITS)

    def open(
        self,
        const int32_t[::1] refs,
        const uint64_t[::1] timelines,
        const int64_t[::1] at_ns,
        const int64_t[::1] end_ns,
    ):
        cdef Py_ssize_t n = refs.shape[0], i, top = 0
        self._check(refs, 0, 2 * <Py_ssize_t> LEFT, n)
        if timelines.shape[0] != n or at_ns.shape[0] != n or end_ns.shape[0] != n:
            raise ValueError("columns of unequal length")
        for i in range(n):
            if refs[i] < LEFT:
                self._check(refs[i:i + 1], 0, self._n_rows, 1)
            else:
                top = max(top, refs[i] - LEFT + 1)
        self._reserve_left(top)
        map_reserve(&self._lines.tops, n)
        with nogil:
            for i in range(n):
                self._ask_lines(&timelines[i], n - i, 0)
                if timelines[i]:
                    insert(&self._lines, timelines[i], at_ns[i], end_ns[i], refs[i])
        self._done()

    def hold(self, const int32_t[::1] slots, const uint64_t[::1] timelines, const int64_t[::1] at_ns):
        cdef Py_ssize_t n = slots.shape[0], i
        self._check(slots, 0, self._n_rows, n)
        if timelines.shape[0] != n or at_ns.shape[0] != n:
            raise ValueError("columns of unequal length")
        map_reserve(&self._lines.tops, n)
        with nogil:
            for i in range(n):
                self._ask_lines(&timelines[i], n - i, EXITS)
                if timelines[i] and self._lines.of_row[slots[i]] == NIL:
                    insert(&self._lines, timelines[i] ^ EXITS, at_ns[i], at_ns[i], slots[i])
                    self._rows[slots[i]].state |= EXIT | HELD
        self._done()

    def resolve(
        self,
        const int32_t[::1] slots,
        const uint64_t[::1] timelines,
        const int64_t[::1] at_ns,
        const uint64_t[::1] threads,
    ):
        cdef Py_ssize_t n = slots.shape[0], i, j
        cdef int32_t[GROUP] row
        cdef int64_t[GROUP] at
        cdef uint64_t[GROUP] line, thread
        cdef int some = 0
        self._check(slots, 0, self._n_rows, n)
        if timelines.shape[0] != n or at_ns.shape[0] != n or threads.shape[0] != n:
            raise ValueError("columns of unequal length")
        map_reserve(&self._lines.tops, n)
        with nogil:
            for i in range(n):
                if timelines[i] and self._rows[slots[i]].state & (WAITING | SERVED) == WAITING:
                    row[some], line[some], at[some], thread[some] = slots[i], timelines[i], at_ns[i], threads[i]
                    map_prefetch(&self._key, threads[i])
                    filter_prefetch(&self._log, threads[i])
                    some += 1
                if some == GROUP or i == n - 1:
                    self._ask_entries(row, line, at, thread, some)
                    for j in range(some):
                        self._resolve(row[j], line[j], at[j], thread[j])
                    some = 0
        self._done()

    cdef void _ask_entries(
        self, const int32_t* slots, const uint64_t* timelines, const int64_t* at_ns, const uint64_t* threads, int n
    ) noexcept nogil:
        """Have in cache what is read to resolve up to GROUP rows."""
        cdef uint64_t[GROUP] lines
        cdef int32_t entry
        cdef int i
        for i in range(n):
            if self._lines.of_row[slots[i]] != NIL:
                block_prefetch(&self._lines, self._lines.of_row[slots[i]])
        for i in range(n):
            if self._lines.of_row[slots[i]] != NIL:
                refs_prefetch(&self._lines, self._lines.of_row[slots[i]])
            entry = map_get(&self._key, threads[i]) if threads[i] else NIL
            lines[i] = timelines[i]
            if entry != NIL and entry & ENTRY:
                lines[i] = 0
                prefetch(&self._rows[entry & ~ENTRY])
                prefetch(&self._lines.of_row[entry & ~ENTRY])
        descend(&self._lines, lines, at_ns, n)

    cdef void _resolve(self, int32_t slot, uint64_t line, int64_t at, uint64_t thread) noexcept nogil:
        cdef Row* row = &self._rows[slot]
        cdef bint known = thread and self._has_entry(thread, slot)
        cdef int32_t[MAX_TIES] found
        cdef int n = 0, i
        row.marks &= ~PARENTED
        row.state = row.state & ~HELD
        if not known:
            n = ties(&self._lines, line, at, found, MAX_TIES)
        if known or n:
            if self._lines.of_row[slot] != NIL:
                remove(&self._lines, slot)
        elif self._lines.of_row[slot] == NIL:
            insert(&self._lines, line ^ EXITS, at, at, slot)
            row.state |= EXIT
        if n or (known and not self._outside(at, thread)):
            row.marks |= PARENTED
        for i in range(n):
            if found[i] >= LEFT:
                row.context = found[i] - LEFT
            else:
                self._union(slot, found[i])

    cdef bint _outside(self, int64_t at, uint64_t thread) noexcept nogil:
        cdef int32_t entry = map_get(&self._key, thread)
        cdef Place where
        if entry == NIL or not entry & ENTRY:
            return False
        entry &= ~ENTRY
        if self._lines.of_row[entry] == NIL or self._rows[entry].state & EXIT:
            return False
        where = place(&self._lines, entry)
        return at < where.at or at > where.end

    cdef bint _has_left(self, uint64_t key) noexcept nogil:
        cdef uint64_t at = newest(&self._log, key)
        cdef int32_t steps = 0
        cdef Entry* entry
        while at and steps < MAX_STEPS:
            entry = entry_at(&self._log, at)
            if entry.key == key:
                return True
            steps += 1
            at = older(&self._log, entry.next)
        return False

    cdef bint _has_entry(self, uint64_t thread, int32_t slot) noexcept nogil:
        cdef int32_t other = map_get(&self._key, thread), steps = 0, seen = 0
        cdef uint64_t at
        cdef Entry* entry
        if other != NIL and other & ENTRY:
            if self._find(other & ~ENTRY) == self._find(slot):
                self._rows[slot].state |= SERVED
            return True
        at = newest(&self._log, thread)
        while at and seen < MAX_CONTEXT and steps < MAX_STEPS:
            entry = entry_at(&self._log, at)
            if entry.key == thread:
                seen += 1
                if entry.slot & ENTRY:
                    return True
            steps += 1
            at = older(&self._log, entry.next)
        return False

    def claim(self, const int32_t[::1] slots, *, bint held):
        cdef Py_ssize_t n = slots.shape[0], i
        self._check(slots, 0, self._n_rows, n)
        with nogil:
            for i in range(n):
                self._ask_exits(&slots[i], n - i)
                if self._rows[slots[i]].state & WAITING:
                    self._claim(slots[i], held)
        self._done()

    cdef void _claim(self, int32_t slot, bint held) noexcept nogil:
        cdef int32_t[MAX_FRAGMENTS + 1] found
        cdef int n, i
        cdef Place entry
        if self._lines.of_row[slot] == NIL or self._rows[slot].state & EXIT:
            return
        entry = place(&self._lines, slot)
        n = between(&self._lines, entry.line ^ EXITS, entry.at, entry.end, found, MAX_FRAGMENTS + 1)
        if n > MAX_FRAGMENTS:
            self.fragments_capped += 1
            n = MAX_FRAGMENTS
        for i in range(n):
            if found[i] >= LEFT:
                continue
            if not self._rows[found[i]].state & HELD:
                remove(&self._lines, found[i])
                self._union(slot, found[i])
                self._rows[found[i]].marks |= PARENTED
            elif held:
                self._resolve(found[i], entry.line, place(&self._lines, found[i]).at, 0)

    # --- rows that left --------------------------------------------------------------------------------------------

    cdef inline void _ask_log(self, const uint64_t* keys, Py_ssize_t more) noexcept nogil:
        cdef int lane
        if more > FAR:
            for lane in range(LANES):
                filter_prefetch(&self._log, keys[FAR * LANES + lane])

    def context(self, const int32_t[::1] slots, const uint64_t[:, ::1] keys):
        cdef Py_ssize_t n = slots.shape[0], i, lane
        cdef Numbers found = Numbers(NULL, 0, 0, False)
        cdef Row* row
        self._check(slots, 0, self._n_rows, n)
        if keys.shape[0] != n or keys.shape[1] != LANES:
            raise ValueError("columns of unequal length")
        with nogil:
            for i in range(n):
                self._ask_log(&keys[i, 0], n - i)
                self._ask_exits(&slots[i], n - i)
                row = &self._rows[slots[i]]
                for lane in range(LANES):
                    if keys[i, lane]:
                        self._by_key(keys[i, lane], lane == TRACE, &found)
                if 0 <= row.context < self._n_left and self._lines.of_left[row.context] != FREE:
                    push(&found, row.context)
                if self._lines.of_row[slots[i]] != NIL and not row.state & EXIT:
                    self._fragments(place(&self._lines, slots[i]), &found)
        return np.unique(taken(&found))

    def parents(self, const uint64_t[:, ::1] keys, const uint64_t[::1] timelines, const int64_t[::1] at_ns):
        cdef Py_ssize_t n = keys.shape[0], i
        cdef Numbers found = Numbers(NULL, 0, 0, False)
        cdef int64_t capped = self.context_capped  # counted by `context` already
        if keys.shape[1] != LANES or timelines.shape[0] != n or at_ns.shape[0] != n:
            raise ValueError("columns of unequal length")
        with nogil:
            for i in range(n):
                self._ask_log(&keys[i, 0], n - i)
                if keys[i, NET]:
                    self._by_key(keys[i, NET], False, &found)
                if keys[i, THREAD]:
                    self._by_key(keys[i, THREAD], False, &found)
                if timelines[i]:
                    self._latest_that_left(timelines[i], at_ns[i], &found)
        self.context_capped = capped
        return np.unique(taken(&found))

    cdef void _latest_that_left(self, uint64_t line, int64_t at, Numbers* out) noexcept nogil:
        cdef int32_t[MAX_TIES] found
        cdef int i
        for i in range(ties(&self._lines, line, at, found, MAX_TIES)):
            if found[i] >= LEFT:
                push(out, found[i] - LEFT)

    cdef void _by_key(self, uint64_t key, bint one, Numbers* found) noexcept nogil:
        cdef uint64_t at = newest(&self._log, key)
        cdef int32_t steps = 0, seen = 0
        cdef Entry* entry
        while at:
            entry = entry_at(&self._log, at)
            if entry.key == key:
                if seen == MAX_CONTEXT:
                    self.context_capped += 1
                    return
                seen += 1
                push(found, entry.slot & ~ENTRY)
                if one:
                    return
            steps += 1
            if steps == MAX_STEPS:
                self.context_capped += 1
                return
            at = older(&self._log, entry.next)

    cdef void _fragments(self, Place entry, Numbers* out) noexcept nogil:
        cdef int32_t[MAX_FRAGMENTS] found
        cdef int i
        for i in range(between(&self._lines, entry.line ^ EXITS, entry.at, entry.end, found, MAX_FRAGMENTS)):
            if found[i] >= LEFT:
                push(out, found[i] - LEFT)

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
        if was_sparse(&self._lines):
            self.compact()
        map_reserve(&self._lines.tops, n)
        log_reserve(&self._log, n * LANES)
        with nogil:
            for i in range(n):
                if i + FAR < n:
                    for lane in range(LANES):
                        push_prefetch(&self._log, keys[i + FAR, lane])
                self._ask_places(self._lines.of_row, &slots[i], n - i)
                new = left[i]
                if new >= 0 and self._lines.of_left[new] == FREE:
                    self._lines.of_left[new] = NIL
                if slots[i] >= 0:
                    self._leave_line(slots[i], new, parentless[i])
                if new < 0:
                    continue
                if parentless[i] and timelines[i] and self._lines.of_left[new] == NIL:
                    insert(&self._lines, timelines[i] ^ EXITS, at_ns[i], at_ns[i], new | LEFT)
                for lane in range(LANES):
                    if keys[i, lane]:
                        log_push(&self._log, keys[i, lane], new | (ENTRY if lane == THREAD and entry[i] else 0))
        self._done()

    def compact(self):
        with nogil:
            compact(&self._lines)

    cdef void _leave_line(self, int32_t slot, int32_t new, bint parentless) noexcept nogil:
        cdef Row* row = &self._rows[slot]
        if self._lines.of_row[slot] == NIL:
            return
        if new >= 0 and (parentless or not row.state & EXIT):
            rename(&self._lines, slot, new | LEFT)
        else:
            remove(&self._lines, slot)
        row.state = row.state & ~(EXIT | HELD)

    def forget(self, const int32_t[::1] left, uint64_t mark):
        cdef Py_ssize_t n = left.shape[0], i
        self._check(left, 0, self._n_left, n)
        with nogil:
            for i in range(n):
                self._ask_places(self._lines.of_left, &left[i], n - i)
                if self._lines.of_left[left[i]] >= 0:
                    remove(&self._lines, left[i] | LEFT)
                self._lines.of_left[left[i]] = FREE
        self._done()
        self._log.tail = min(max(mark, self._log.tail), self._log.head)
