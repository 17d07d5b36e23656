# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Keys that were looked up before: spans of one request have much the same ones, so that most are known again."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t
from libc.string cimport memcmp, memcpy

from bridge.codec._espan cimport Names, head_of, number_of
from bridge.codec._wire cimport is_utf8

cdef enum:
    KEY_SLOT_BITS = 9
    KEY_SLOTS = 1 << KEY_SLOT_BITS
    NO_TEXT = -2  # the number of a key that is no UTF-8


cdef struct Key:
    const uint8_t* text
    uint64_t head, tail  # its first and its last bytes, 8 at most: the whole of most keys
    int32_t n, number  # no bytes: none is known yet


cdef inline int key_number(Key* keys, const Names* names, const uint8_t* key, int64_t n) noexcept nogil:
    """`number_of` the key, NO_TEXT where it is no UTF-8.

    keys: KEY_SLOTS of them, zeroed at first. Keys have to stay where they are as long as these are used.
    """
    cdef uint64_t head = 0, tail = 0
    cdef Key* known
    if n >= 8:
        memcpy(&head, key, 8)
        memcpy(&tail, key + n - 8, 8)
    elif n:
        head = head_of(key, n)
    else:
        return -1
    known = &keys[((head ^ tail * 0x9E3779B97F4A7C15U) * 0xBF58476D1CE4E5B9U) >> (64 - KEY_SLOT_BITS)]
    if known.n == n and known.head == head and known.tail == tail:
        if n <= 16 or memcmp(known.text + 8, key + 8, n - 16) == 0:
            return known.number
    if not is_utf8(key, key + n):
        return NO_TEXT
    known.text, known.n, known.head, known.tail, known.number = key, <int32_t> n, head, tail, number_of(names, key, n)
    return known.number
