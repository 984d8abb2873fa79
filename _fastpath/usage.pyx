cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memchr, memcmp, memcpy

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <string.h>
    """
    void* memmem(const void* text, size_t length, const void* wanted, size_t wanted_length) nogil

from _fastpath.grammar cimport is_digit, is_space


# Members that hold a count; of the first two, and of the next two, the first that is there counts.
cdef enum:
    PROMPT = 0
    INPUT
    COMPLETION
    OUTPUT
    CACHED
    COUNTS
cdef const char* _names[COUNTS]
_names[:] = [b'"prompt_tokens"', b'"input_tokens"', b'"completion_tokens"', b'"output_tokens"', b'"cached_tokens"']
cdef size_t[COUNTS] _name_bytes = [15, 14, 19, 15, 15]


# The member whose name, with its quotes, is here and within the window; COUNTS when it is none of ours.
cdef inline int _named(const uint8_t* here, size_t left) noexcept nogil:
    cdef int count
    if left <= 14:
        return COUNTS
    count = (
        PROMPT if here[1] == c'p' else INPUT if here[1] == c'i' else OUTPUT if here[1] == c'o' else
        COMPLETION if here[1] == c'c' and here[2] == c'o' else CACHED if here[1] == c'c' else COUNTS
    )
    if count == COUNTS or left <= _name_bytes[count] or memcmp(here, _names[count], _name_bytes[count]) != 0:
        return COUNTS
    return count


# The number behind a name, -1 when there is none.
cdef inline int64_t _number(const uint8_t* text, size_t at, size_t length) noexcept nogil:
    cdef int64_t value = 0
    while at < length and (is_space(text[at]) or text[at] == c':'):
        at += 1
    if at == length or not is_digit(text[at]):
        return -1
    while at < length and is_digit(text[at]) and value < <int64_t>1000000000000:
        value = value * 10 + (text[at] - c'0')
        at += 1
    return value


# The first number of each member, -1 where there is none: every quote of the window is looked at once.
cdef void _read(const uint8_t* text, size_t window, size_t length, int64_t* numbers) noexcept nogil:
    cdef size_t at = 0
    cdef const uint8_t* quote
    cdef int count
    for count in range(COUNTS):
        numbers[count] = -1
    while at < window:
        quote = <const uint8_t*>memchr(text + at, c'"', window - at)
        if quote == NULL:
            return
        at = quote - text
        count = _named(quote, window - at)
        if count != COUNTS and numbers[count] < 0:
            numbers[count] = _number(text, at + _name_bytes[count], length)
            if numbers[PROMPT] >= 0 and numbers[COMPLETION] >= 0 and numbers[CACHED] >= 0:
                return
        at += 1


# Whether an object follows the name that ends here.
cdef bint _opens_object(const uint8_t* text, size_t length) noexcept nogil:
    cdef size_t at = 0
    while at < length and (is_space(text[at]) or text[at] == c':'):
        at += 1
    return at < length and text[at] == c'{'


# How many places before the one that was looked at `"usage"` cannot begin either, by the byte that stands there.
cdef uint8_t _back[256]
cdef int _place
for _place in range(256):
    _back[_place] = 6
for _place in range(1, 7):
    _back[(<const uint8_t*>b'"usage"')[7 - _place]] = <uint8_t>(6 - _place)


cpdef object scan_usage(bytes text):
    if text is None:
        raise TypeError("text must be bytes")
    cdef const uint8_t* start = <const uint8_t*>PyBytes_AS_STRING(text)
    cdef size_t length = PyBytes_GET_SIZE(text)
    cdef size_t left = length - 6 if length >= 7 else 0
    cdef size_t window
    cdef const uint8_t* here
    cdef int64_t numbers[COUNTS]
    while left > 0:
        left -= 1
        here = start + left
        if here[0] != c'"' or memcmp(here, b'"usage"', 7) != 0 or not _opens_object(here + 7, length - left - 7):
            left -= min(left, <size_t>_back[here[0]])
            continue
        window = min(length - left, <size_t>USAGE_BYTES)
        _read(here, window, length - left, numbers)
        if numbers[PROMPT] < 0:
            numbers[PROMPT] = numbers[INPUT]
        if numbers[PROMPT] >= 0:
            if numbers[COMPLETION] < 0:
                numbers[COMPLETION] = numbers[OUTPUT]
            return (numbers[PROMPT], max(numbers[COMPLETION], <int64_t>0), numbers[CACHED])
        left -= min(left, <size_t>_back[c'"'])
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


cpdef bint has_no_usage(bytes piece) except -1:
    if piece is None:
        raise TypeError("piece must be bytes")
    cdef const uint8_t* text = <const uint8_t*>PyBytes_AS_STRING(piece)
    cdef size_t length = PyBytes_GET_SIZE(piece)
    return (
        length >= 2 and text[length - 1] == c'\n' and text[length - 2] == c'\n' and memmem(text, length, b'"usage"', 7) == NULL
    )


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
