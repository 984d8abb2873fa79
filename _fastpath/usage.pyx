cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memchr, memcmp, memcpy
from _fastpath.grammar cimport is_digit, is_space


# The number of a member: its name with quotes, a colon, digits; -1 when there is none.
cdef int64_t _number_after(const uint8_t* text, size_t window, size_t length, const char* name, size_t name_length) noexcept nogil:
    cdef size_t i, at
    cdef int64_t value
    for i in range(window - name_length if window > name_length else 0):
        if text[i] != c'"' or memcmp(text + i, name, name_length) != 0:
            continue
        at = i + name_length
        while at < length and (is_space(text[at]) or text[at] == c':'):
            at += 1
        if at < length and is_digit(text[at]):
            value = 0
            while at < length and is_digit(text[at]) and value < <int64_t>1000000000000:
                value = value * 10 + (text[at] - c'0')
                at += 1
            return value
    return -1


# Whether an object follows the name that ends here.
cdef bint _opens_object(const uint8_t* text, size_t length) noexcept nogil:
    cdef size_t at = 0
    while at < length and (is_space(text[at]) or text[at] == c':'):
        at += 1
    return at < length and text[at] == c'{'


cpdef object scan_usage(bytes text):
    if text is None:
        raise TypeError("text must be bytes")
    cdef const uint8_t* start = <const uint8_t*>PyBytes_AS_STRING(text)
    cdef size_t length = PyBytes_GET_SIZE(text)
    cdef size_t left = length - 6 if length >= 7 else 0
    cdef size_t window
    cdef const uint8_t* here
    cdef int64_t prompt, completion, cached
    while left > 0:
        left -= 1
        here = start + left
        if here[0] != c'"' or memcmp(here, b'"usage"', 7) != 0 or not _opens_object(here + 7, length - left - 7):
            continue
        window = min(length - left, <size_t>USAGE_BYTES)
        prompt = _number_after(here, window, length - left, b'"prompt_tokens"', 15)
        if prompt < 0:
            prompt = _number_after(here, window, length - left, b'"input_tokens"', 14)
        if prompt >= 0:
            completion = _number_after(here, window, length - left, b'"completion_tokens"', 19)
            if completion < 0:
                completion = _number_after(here, window, length - left, b'"output_tokens"', 15)
            cached = _number_after(here, window, length - left, b'"cached_tokens"', 15)
            return (prompt, max(completion, <int64_t>0), cached)
    return None


# Looked for by the brace: in text of JSON it is rarer than any letter of `data`, and what stands before it is compared at once.
cpdef Py_ssize_t events_in(bytes piece) except -1:
    if piece is None:
        raise TypeError("piece must be bytes")
    cdef const uint8_t* start = <const uint8_t*>PyBytes_AS_STRING(piece)
    cdef const uint8_t* end = start + PyBytes_GET_SIZE(piece)
    cdef const uint8_t* here = start
    cdef Py_ssize_t count = 0
    while here < end:
        here = <const uint8_t*>memchr(here, c'{', end - here)
        if here == NULL:
            break
        if here - start >= 6 and memcmp(here - 6, b"data: ", 6) == 0:
            count += 1
        here += 1
    return count


@cython.final
cdef class Tail:
    def __cinit__(self):
        self.size = 0

    cpdef object add(self, bytes piece):
        if piece is None:
            raise TypeError("piece must be bytes")
        cdef const uint8_t* data = <const uint8_t*>PyBytes_AS_STRING(piece)
        cdef size_t length = PyBytes_GET_SIZE(piece)
        cdef size_t at, first
        if length > TAIL_BYTES:
            self.size += length - TAIL_BYTES
            data += length - TAIL_BYTES
            length = TAIL_BYTES
        at = self.size % TAIL_BYTES
        first = min(length, TAIL_BYTES - at)
        memcpy(self.kept + at, data, first)
        memcpy(self.kept, data + first, length - first)
        self.size += length

    cpdef bytes text(self):
        cdef size_t at = self.size % TAIL_BYTES
        cdef bytes found
        if self.size <= TAIL_BYTES:
            return PyBytes_FromStringAndSize(<const char*>self.kept, self.size)
        found = PyBytes_FromStringAndSize(NULL, TAIL_BYTES)
        memcpy(PyBytes_AS_STRING(found), self.kept + at, TAIL_BYTES - at)
        memcpy(PyBytes_AS_STRING(found) + TAIL_BYTES - at, self.kept, at)
        return found
