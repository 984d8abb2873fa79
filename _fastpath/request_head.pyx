from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t
from libc.string cimport memcpy

cdef extern from "Python.h":
    str PyUnicode_New(Py_ssize_t size, Py_UCS4 largest)
    void* PyUnicode_DATA(object text)
    Py_ssize_t PyUnicode_GET_LENGTH(object text)
    bint PyUnicode_IS_ASCII(object text)

cdef const char* BEFORE = b"content-type: application/json\r\naccept-encoding: identity\r\nx-request-id: "
cdef const char* ANYTHING = b"\r\naccept: */*"
cdef const char* LENGTH = b"content-length: "
cdef enum:
    BEFORE_BYTES = 73
    ANYTHING_BYTES = 13
    LENGTH_BYTES = 16
    DIGITS = 20                   # of the largest length
cdef tuple _names = ("accept", "traceparent", "tracestate", "user-agent", "authorization")
cdef const char* _lines[PASSED_ON]
_lines[:] = [b"\r\naccept: ", b"\r\ntraceparent: ", b"\r\ntracestate: ", b"\r\nuser-agent: ", b"\r\nauthorization: "]
cdef size_t[PASSED_ON] _line_bytes = [10, 15, 14, 14, 17]


cdef inline char* _copy(char* at, const void* text, size_t size) noexcept nogil:
    memcpy(at, text, size)
    return at + size


# Bytes of a value that may stand in a head, 0 for one that may not, or is none.
cdef Py_ssize_t _printable(object value) except -1:
    cdef Py_ssize_t i, size
    cdef const uint8_t* text
    cdef int bad = 0
    if value is None:
        return 0
    if not isinstance(value, str):
        raise TypeError("a header's value must be a string")
    if not PyUnicode_IS_ASCII(value):
        return 0
    text = <const uint8_t*>PyUnicode_DATA(value)
    size = PyUnicode_GET_LENGTH(value)
    for i in range(size):
        bad |= (text[i] < 32) | (text[i] == 127)
    return 0 if bad else size


cpdef str passed_on(str request_id, object header, bint with_authorization):
    cdef list values = [None, None, None, None, None]
    cdef Py_ssize_t sizes[PASSED_ON]
    cdef int i, count = PASSED_ON if with_authorization else PASSED_ON - 1
    cdef Py_ssize_t id_bytes = _printable(request_id)
    cdef Py_ssize_t size = BEFORE_BYTES + id_bytes + ANYTHING_BYTES + 2
    cdef str found
    cdef char* at
    if id_bytes == 0:
        raise ValueError("a request's id must be printable ASCII")
    for i in range(count):
        values[i] = header(_names[i])
        sizes[i] = _printable(values[i])
        if sizes[i] > 0:
            size += _line_bytes[i] + sizes[i]
    if sizes[0] > 0:
        size -= ANYTHING_BYTES
    found = PyUnicode_New(size, 127)
    at = _copy(<char*>PyUnicode_DATA(found), BEFORE, BEFORE_BYTES)
    at = _copy(at, PyUnicode_DATA(request_id), id_bytes)
    if sizes[0] == 0:
        at = _copy(at, ANYTHING, ANYTHING_BYTES)
    for i in range(count):
        if sizes[i] > 0:
            at = _copy(_copy(at, _lines[i], _line_bytes[i]), PyUnicode_DATA(values[i]), sizes[i])
    _copy(at, b"\r\n", 2)
    return found


cpdef bytes request_head(bytes start, str lines, uint64_t length):
    if start is None or lines is None:
        raise TypeError("start must be bytes, and lines a string")
    if not PyUnicode_IS_ASCII(lines):
        raise ValueError("a head's lines must be ASCII")
    cdef char digits[DIGITS]
    cdef int first = DIGITS
    while True:
        first -= 1
        digits[first] = <char>(48 + length % 10)
        length //= 10
        if length == 0:
            break
    cdef size_t start_bytes = PyBytes_GET_SIZE(start), line_bytes = PyUnicode_GET_LENGTH(lines)
    cdef bytes found = PyBytes_FromStringAndSize(NULL, start_bytes + line_bytes + LENGTH_BYTES + (DIGITS - first) + 4)
    cdef char* at = _copy(PyBytes_AS_STRING(found), PyBytes_AS_STRING(start), start_bytes)
    at = _copy(_copy(at, PyUnicode_DATA(lines), line_bytes), LENGTH, LENGTH_BYTES)
    _copy(_copy(at, digits + first, DIGITS - first), b"\r\n\r\n", 4)
    return found
