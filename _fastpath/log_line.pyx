cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeASCII
from libc.math cimport isfinite
from libc.stdint cimport uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy

cdef extern from "Python.h":
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL
    bint PyUnicode_IS_COMPACT_ASCII(object text)
    Py_ssize_t PyUnicode_GET_LENGTH(object text)
    void* PyUnicode_DATA(object text)

cdef extern from "<time.h>" nogil:
    ctypedef long time_t
    struct tm:
        int tm_sec, tm_min, tm_hour, tm_mday, tm_mon, tm_year
    tm* gmtime_r(const time_t* seconds, tm* found)

cdef char* HEX = b"0123456789abcdef"
cdef char* PAIRS = (
    b"00010203040506070809101112131415161718192021222324252627282930313233343536373839404142434445464748495051525354555657585960"
    b"616263646566676869707172737475767778798081828384858687888990919293949596979899"
)
cdef double LARGEST = 9e15
cdef double LAST_MOMENT = 253402300799.0     # 9999-12-31T23:59:59

cdef enum:
    DELETE = 0x7F                 # a control character as well

cdef extern from *:
    """
    #define PENSTOCK_EIGHT 0x0101010101010101ull
    """
    const uint64_t EIGHT "PENSTOCK_EIGHT"    # a byte, eight times over

# A text as UTF-8; NULL for None.
cdef struct Text:
    const uint8_t* start
    size_t length


cdef inline int _read(Text* found, str text) except -1:
    cdef Py_ssize_t size = 0
    if text is None:
        found.start = NULL
        found.length = 0
    elif PyUnicode_IS_COMPACT_ASCII(text):
        found.start = <const uint8_t*>PyUnicode_DATA(text)
        found.length = <size_t>PyUnicode_GET_LENGTH(text)
    else:
        found.start = <const uint8_t*>PyUnicode_AsUTF8AndSize(text, &size)
        found.length = <size_t>size
    return 0


cdef inline uint8_t* _raw(uint8_t* at, const char* text, size_t length) noexcept nogil:
    memcpy(at, text, length)
    return at + length


cdef inline uint8_t* _two_digits(uint8_t* at, uint64_t value) noexcept nogil:
    memcpy(at, PAIRS + 2 * value, 2)
    return at + 2


cdef uint8_t* write_number(uint8_t* at, int64_t value) noexcept nogil:
    cdef uint8_t digits[20]
    cdef size_t first = 20
    cdef uint64_t left = <uint64_t>value
    if value < 0:
        at[0] = c'-'
        at += 1
        left = 0 - left
    while left >= 100:
        first -= 2
        _two_digits(&digits[first], left % 100)
        left = left // 100
    if left >= 10:
        at = _two_digits(at, left)
    else:
        at[0] = <uint8_t>(c'0' + left)
        at += 1
    while first < 20:
        memcpy(at, &digits[first], 2)
        at += 2
        first += 2
    return at


cdef uint8_t* write_fraction(uint8_t* at, int64_t thousandths) noexcept nogil:
    cdef uint64_t rest = <uint64_t>(thousandths % 1000)
    at = write_number(at, thousandths // 1000)
    at[0] = c'.'
    at[1] = <uint8_t>(c'0' + rest // 100)
    return _two_digits(at + 2, rest % 100)


# A number with three decimals; null for what is no number.
cdef uint8_t* _decimals(uint8_t* at, double value) noexcept nogil:
    cdef int64_t scaled
    if not isfinite(value) or value < -LARGEST or value > LARGEST:
        return _raw(at, b"null", 4)
    scaled = <int64_t>(value * 1000 + (0.5 if value >= 0 else -0.5))
    if scaled < 0:
        at[0] = c'-'
        at += 1
        scaled = -scaled
    return write_fraction(at, scaled)


cdef inline bint _is_special(uint8_t c) noexcept nogil:
    return c < 0x20 or c == c'"' or c == c'\\' or c == DELETE


# Not 0 if there is a zero among eight bytes, as only such a byte or one after it has its top bit set.
cdef inline uint64_t _zeros(uint64_t word) noexcept nogil:
    return (word - EIGHT) & ~word


# Not 0 if a byte of eight is a control character, a quote, a backslash or DEL.
cdef inline uint64_t _specials(uint64_t word) noexcept nogil:
    cdef uint64_t found = (word - 0x20 * EIGHT) & ~word
    found |= _zeros(word ^ c'"' * EIGHT) | _zeros(word ^ c'\\' * EIGHT) | _zeros(word ^ DELETE * EIGHT)
    return found & 0x80 * EIGHT


# Whether JSON has a text as it is, read eight bytes at a time, the last ones twice.
cdef inline bint _is_as_it_is(const uint8_t* text, size_t length) noexcept nogil:
    cdef uint64_t word, found = 0
    cdef size_t i = 0
    if length < 8:
        while i < length:
            if _is_special(text[i]):
                return False
            i += 1
        return True
    while i + 8 <= length:
        memcpy(&word, text + i, 8)
        found |= _specials(word)
        i += 8
    memcpy(&word, text + length - 8, 8)
    return (found | _specials(word)) == 0


cdef uint8_t* _escaped(uint8_t* at, const uint8_t* text, size_t length) noexcept nogil:
    cdef size_t i
    cdef uint8_t c
    for i in range(length):
        c = text[i]
        if not _is_special(c):
            at[0] = c
            at += 1
        elif c == c'"' or c == c'\\':
            at[0] = c'\\'
            at[1] = c
            at += 2
        else:
            at = _raw(at, b"\\u00", 4)
            at[0] = HEX[c >> 4]
            at[1] = HEX[c & 15]
            at += 2
    return at


# A string in quotes, or null.
cdef uint8_t* _text(uint8_t* at, const Text* text) noexcept nogil:
    if text.start == NULL:
        return _raw(at, b"null", 4)
    at[0] = c'"'
    if _is_as_it_is(text.start, text.length):
        at = _raw(at + 1, <const char*>text.start, text.length)
    else:
        at = _escaped(at + 1, text.start, text.length)
    at[0] = c'"'
    return at + 1


# A time in milliseconds, null below 0.
cdef inline uint8_t* _time(uint8_t* at, double seconds) noexcept nogil:
    return _decimals(at, seconds * 1000) if seconds >= 0 else _raw(at, b"null", 4)


@cython.final
cdef class LogLines:
    def __cinit__(self):
        self._start = NULL
        self.size = self._room = 0
        self._second = -1
        self.count = 0

    def __dealloc__(self):
        free(self._start)

    cdef int _make_room(self, size_t size) except -1:
        cdef size_t room = max(self._room, 4096)
        cdef uint8_t* start
        if self._room - self.size >= size:
            return 0
        while room - self.size < size:
            room *= 2
        start = <uint8_t*>realloc(self._start, room)
        if start == NULL:
            raise MemoryError
        self._start = start
        self._room = room
        return 0

    # RFC 3339 in UTC with milliseconds; all but those is made once a second.
    cdef uint8_t* _moment(self, uint8_t* at, double wall) noexcept nogil:
        cdef int64_t milliseconds = <int64_t>((wall if 0 <= wall <= LAST_MOMENT else 0.0) * 1000 + 0.5)
        cdef time_t second = milliseconds // 1000
        cdef uint8_t* date = self._date
        cdef tm found
        if second != self._second:
            gmtime_r(&second, &found)
            date = _two_digits(_two_digits(date, (found.tm_year + 1900) // 100), (found.tm_year + 1900) % 100)
            date[0] = date[3] = c'-'
            _two_digits(_two_digits(date + 1, found.tm_mon + 1) + 1, found.tm_mday)
            date[6] = c'T'
            date[9] = date[12] = c':'
            _two_digits(_two_digits(_two_digits(date + 7, found.tm_hour) + 1, found.tm_min) + 1, found.tm_sec)
            self._second = second
        at = _raw(at, <const char*>self._date, 19)
        at[0] = c'.'
        at[1] = <uint8_t>(c'0' + milliseconds % 1000 // 100)
        return _raw(_two_digits(at + 2, milliseconds % 100), b"+00:00", 6)

    cpdef object add(
        self, double wall, str request_id, str path, int64_t status, str operation, str model,
        str route, str server, str pod, bint stream, double duration, double first_byte, double overhead, int64_t attempts,
        int64_t bytes_in, int64_t bytes_out, double match_ratio, tuple usage, int64_t prompt_tokens, int64_t output_tokens,
        bint cancelled, str error_code, str error_source, str error_message, str tenant,
        str refusal, double waited, bytes decision=b"",
    ):
        cdef Text texts[12]
        cdef size_t most = FIXED_BYTES
        cdef int i
        cdef uint8_t* at
        cdef int64_t tokens_in = prompt_tokens, tokens_out = output_tokens, cached = -1
        if (request_id is None or path is None or operation is None or model is None or error_code is None or error_source is None
                or error_message is None or tenant is None or refusal is None or decision is None):
            raise TypeError("only route, server, pod and usage may be None")
        _read(&texts[0], request_id)
        _read(&texts[1], path)
        _read(&texts[2], operation)
        _read(&texts[3], model)
        _read(&texts[4], route)
        _read(&texts[5], server)
        _read(&texts[6], pod)
        _read(&texts[7], error_code)
        _read(&texts[8], error_source)
        _read(&texts[9], error_message)
        _read(&texts[10], tenant)
        _read(&texts[11], refusal)
        for i in range(12):
            most += texts[i].length * ESCAPED_BYTES
        if usage is not None:
            tokens_in, tokens_out, cached = usage
        self._make_room(most + <size_t>PyBytes_GET_SIZE(decision))
        at = self._moment(_raw(self._start + self.size, b'{"timestamp":"', 14), wall)
        at = _raw(at, b'","level":"error"', 17) if status >= 500 else _raw(at, b'","level":"info"', 16)
        at = _text(_raw(at, b',"event":"request","request_id":', 32), &texts[0])
        at = _text(_raw(at, b',"method":"POST","path":', 24), &texts[1])
        at = write_number(_raw(at, b',"status_code":', 15), status)
        at = _text(_raw(at, b',"operation":', 13), &texts[2])
        at = _text(_raw(at, b',"model_name":', 14), &texts[3])
        at = _text(_raw(at, b',"model_route":', 15), &texts[4])
        at = _text(_raw(at, b',"model_server":', 16), &texts[5])
        at = _text(_raw(at, b',"selected_pod":', 16), &texts[6])
        at = _raw(at, b',"stream":true', 14) if stream else _raw(at, b',"stream":false', 15)
        at = _decimals(_raw(at, b',"duration_ms":', 15), duration * 1000)
        at = _time(_raw(at, b',"ttft_ms":', 11), first_byte)
        at = _time(_raw(at, b',"overhead_ms":', 15), overhead)
        if waited > 0:
            at = _time(_raw(at, b',"queue_ms":', 12), waited)
        at = write_number(_raw(at, b',"upstream_attempts":', 21), attempts)
        at = write_number(_raw(at, b',"bytes_in":', 12), bytes_in)
        at = write_number(_raw(at, b',"bytes_out":', 13), bytes_out)
        if match_ratio >= 0:
            at = _decimals(_raw(at, b',"prefix_match_ratio":', 22), match_ratio)
        if usage is not None or prompt_tokens > 0:
            at = write_number(_raw(at, b',"input_tokens":', 16), tokens_in)
            at = write_number(_raw(at, b',"output_tokens":', 17), tokens_out)
            if cached >= 0:
                at = write_number(_raw(at, b',"cached_tokens":', 17), cached)
            at = _raw(at, b',"tokens_source":', 17)
            at = _raw(at, b'"estimate"', 10) if usage is None else _raw(at, b'"engine"', 8)
        if texts[10].length:
            at = _text(_raw(at, b',"tenant":', 10), &texts[10])
        if cancelled:
            at = _raw(at, b',"cancelled":true', 17)
        if texts[7].length:
            at = _text(_raw(at, b',"error.code":', 14), &texts[7])
            at = _text(_raw(at, b',"error.origin":', 16), &texts[8])
            at = _text(_raw(at, b',"error.message":', 17), &texts[9])
        if texts[11].length:
            at = _text(_raw(at, b',"auth.reason":', 15), &texts[11])
        if PyBytes_GET_SIZE(decision):
            at = _raw(at, b',"decision":', 12)
            at = _raw(at, PyBytes_AS_STRING(decision), PyBytes_GET_SIZE(decision))
        at = _raw(at, b"}\n", 2)
        self.size = at - self._start
        self.count += 1

    cpdef bytes take(self):
        cdef bytes lines = PyBytes_FromStringAndSize(<const char*>self._start, self.size)
        self.size = self.count = 0
        if self._room > KEPT_BYTES:
            free(self._start)
            self._start = NULL
            self._room = 0
        return lines


cpdef bint is_plain(str text, size_t longest) except -1:
    cdef Text found
    cdef size_t i
    if text is None:
        raise TypeError("text must be there")
    if not PyUnicode_IS_COMPACT_ASCII(text) or <size_t>PyUnicode_GET_LENGTH(text) > longest:
        return False
    _read(&found, text)
    if _is_as_it_is(found.start, found.length):
        return True
    for i in range(found.length):
        if found.start[i] < 0x20 or found.start[i] == DELETE:
            return False
    return True


cpdef str server_timing(double overhead, double waited, double first):
    cdef uint8_t text[160]
    cdef uint8_t* at = _decimals(_raw(text, b"penstock;dur=", 13), overhead * 1000)
    if waited > 0:
        at = _decimals(_raw(at, b", queue;dur=", 12), waited * 1000)
    at = _decimals(_raw(at, b", engine;dur=", 13), first * 1000)
    return PyUnicode_DecodeASCII(<const char*>text, at - text, NULL)
