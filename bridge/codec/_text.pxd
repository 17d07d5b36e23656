# cython: language_level=3, boundscheck=False, wraparound=False
"""Texts of Python's as the kernels that write them use them."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdlib cimport calloc

cdef struct Text:
    const char* data
    Py_ssize_t n


cdef inline Text text_of(bytes text):
    """Its bytes; whoever asks keeps it alive."""
    return Text(PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))


cdef inline Text* texts_of(tuple texts) except NULL:
    """Those of each of these, one at least, which are to be kept alive; whoever asks frees the memory."""
    cdef Py_ssize_t i, n = len(texts)
    cdef Text* found
    for text in texts:
        if not isinstance(text, bytes):
            raise TypeError("texts are bytes")
    found = <Text*> calloc(n if n else 1, sizeof(Text))
    if found == NULL:
        raise MemoryError
    for i in range(n):
        found[i] = text_of(<bytes> texts[i])
    return found
