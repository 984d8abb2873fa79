# The head of a request to an engine, written into one buffer.
from libc.stdint cimport uint64_t

cdef enum:
    PASSED_ON = 5                 # headers of the client that may go to an engine, its credentials the last of them

cpdef str passed_on(str request_id, object header, bint with_authorization)
cpdef bytes request_head(bytes start, str lines, uint64_t length)
cdef Py_ssize_t _printable(object value) except -1
cdef char* _copy(char* at, const void* text, size_t size) noexcept nogil
