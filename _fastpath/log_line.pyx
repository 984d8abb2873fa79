from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeASCII
from libc.math cimport isfinite
from libc.string cimport memcpy

cdef extern from "Python.h":
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL

cdef char* HEX = b"0123456789abcdef"
cdef double LARGEST = 9e15


cdef inline uint8_t* _raw(uint8_t* at, const char* text, size_t length) noexcept nogil:
    memcpy(at, text, length)
    return at + length


cdef uint8_t* _whole(uint8_t* at, int64_t value) noexcept nogil:
    cdef uint8_t digits[20]
    cdef int count = 0
    if value < 0:
        at[0] = 45
        at += 1
        value = -value
    while value >= 10:
        digits[count] = <uint8_t>(48 + value % 10)
        value = value // 10
        count += 1
    at[0] = <uint8_t>(48 + value)
    at += 1
    while count > 0:
        count -= 1
        at[0] = digits[count]
        at += 1
    return at


# A number with three decimals; null for what is no number.
cdef uint8_t* _thousandths(uint8_t* at, double value) noexcept nogil:
    cdef int64_t scaled, rest
    if not isfinite(value) or value < -LARGEST or value > LARGEST:
        return _raw(at, b"null", 4)
    scaled = <int64_t>(value * 1000 + (0.5 if value >= 0 else -0.5))
    if scaled < 0:
        at[0] = 45
        at += 1
        scaled = -scaled
    at = _whole(at, scaled // 1000)
    rest = scaled % 1000
    at[0] = 46
    at[1] = <uint8_t>(48 + rest // 100)
    at[2] = <uint8_t>(48 + rest // 10 % 10)
    at[3] = <uint8_t>(48 + rest % 10)
    return at + 4


cdef uint8_t* _escaped(uint8_t* at, const uint8_t* text, size_t length) noexcept nogil:
    cdef size_t i
    cdef uint8_t c
    for i in range(length):
        c = text[i]
        if c == 34 or c == 92:
            at[0] = 92
            at[1] = c
            at += 2
        elif c < 0x20 or c == 0x7F:
            at = _raw(at, b"\\u00", 4)
            at[0] = HEX[c >> 4]
            at[1] = HEX[c & 15]
            at += 2
        else:
            at[0] = c
            at += 1
    return at


# A string in quotes, or null.
cdef uint8_t* _text(uint8_t* at, str text) except NULL:
    cdef Py_ssize_t size = 0
    cdef const char* utf8
    if text is None:
        return _raw(at, b"null", 4)
    utf8 = PyUnicode_AsUTF8AndSize(text, &size)
    at[0] = 34
    at = _escaped(at + 1, <const uint8_t*>utf8, size)
    at[0] = 34
    return at + 1


cdef size_t _bytes_of(str text) except? 0:
    cdef Py_ssize_t size = 0
    if text is None:
        return 4
    PyUnicode_AsUTF8AndSize(text, &size)
    return size * ESCAPED_BYTES + 2


cpdef bytes request_line(
    str timestamp, str request_id, str path, int64_t status, str operation, str model,
    str route, str server, str pod, bint stream, double duration, double first_byte, double overhead, int64_t attempts,
    int64_t bytes_in, int64_t bytes_out, double match_ratio, tuple usage, int64_t prompt_tokens, int64_t output_tokens,
    bint cancelled, str error_code, str error_source, str error_message, str tenant,
    str refusal, double waited, bytes decision=b"",
):
    cdef size_t most = FIXED_BYTES
    cdef uint8_t* start
    cdef uint8_t* at
    cdef bytes line
    cdef int64_t tokens_in, tokens_out, cached
    for text in (timestamp, request_id, path, operation, model, error_code, error_source, error_message, tenant, refusal):
        if text is None:
            raise TypeError("only route, server and pod may be None")
        most += _bytes_of(text)
    if decision is None:
        raise TypeError("decision may be empty, not None")
    most += PyBytes_GET_SIZE(decision)
    for text in (route, server, pod):
        most += _bytes_of(text)
    line = PyBytes_FromStringAndSize(NULL, most)
    start = at = <uint8_t*>PyBytes_AS_STRING(line)
    at = _text(_raw(at, b'{"timestamp":', 13), timestamp)
    at = _raw(at, b',"level":"error"', 16) if status >= 500 else _raw(at, b',"level":"info"', 15)
    at = _text(_raw(at, b',"event":"request","request_id":', 32), request_id)
    at = _text(_raw(at, b',"method":"POST","path":', 24), path)
    at = _whole(_raw(at, b',"status_code":', 15), status)
    at = _text(_raw(at, b',"operation":', 13), operation)
    at = _text(_raw(at, b',"model_name":', 14), model)
    at = _text(_raw(at, b',"model_route":', 15), route)
    at = _text(_raw(at, b',"model_server":', 16), server)
    at = _text(_raw(at, b',"selected_pod":', 16), pod)
    at = _raw(at, b',"stream":true', 14) if stream else _raw(at, b',"stream":false', 15)
    at = _thousandths(_raw(at, b',"duration_ms":', 15), duration * 1000)
    at = _raw(at, b',"ttft_ms":', 11)
    at = _thousandths(at, first_byte * 1000) if first_byte >= 0 else _raw(at, b"null", 4)
    at = _raw(at, b',"overhead_ms":', 15)
    at = _thousandths(at, overhead * 1000) if overhead >= 0 else _raw(at, b"null", 4)
    if waited > 0:
        at = _thousandths(_raw(at, b',"queue_ms":', 12), waited * 1000)
    at = _whole(_raw(at, b',"upstream_attempts":', 21), attempts)
    at = _whole(_raw(at, b',"bytes_in":', 12), bytes_in)
    at = _whole(_raw(at, b',"bytes_out":', 13), bytes_out)
    if match_ratio >= 0:
        at = _thousandths(_raw(at, b',"prefix_match_ratio":', 22), match_ratio)
    if usage is not None:
        tokens_in, tokens_out, cached = usage
        at = _whole(_raw(at, b',"input_tokens":', 16), tokens_in)
        at = _whole(_raw(at, b',"output_tokens":', 17), tokens_out)
        if cached >= 0:
            at = _whole(_raw(at, b',"cached_tokens":', 17), cached)
        at = _raw(at, b',"tokens_source":"engine"', 25)
    elif prompt_tokens > 0:
        at = _whole(_raw(at, b',"input_tokens":', 16), prompt_tokens)
        at = _whole(_raw(at, b',"output_tokens":', 17), output_tokens)
        at = _raw(at, b',"tokens_source":"estimate"', 27)
    if tenant:
        at = _text(_raw(at, b',"tenant":', 10), tenant)
    if cancelled:
        at = _raw(at, b',"cancelled":true', 17)
    if error_code:
        at = _text(_raw(at, b',"error.code":', 14), error_code)
        at = _text(_raw(at, b',"error.origin":', 16), error_source)
        at = _text(_raw(at, b',"error.message":', 17), error_message)
    if refusal:
        at = _text(_raw(at, b',"auth.reason":', 15), refusal)
    if decision:
        at = _raw(at, b',"decision":', 12)
        at = _raw(at, PyBytes_AS_STRING(decision), PyBytes_GET_SIZE(decision))
    at = _raw(at, b"}\n", 2)
    return PyBytes_FromStringAndSize(<const char*>start, at - start)


cpdef str server_timing(double overhead, double waited, double first):
    cdef uint8_t text[160]
    cdef uint8_t* at = _thousandths(_raw(text, b"penstock;dur=", 13), overhead * 1000)
    if waited > 0:
        at = _thousandths(_raw(at, b", queue;dur=", 12), waited * 1000)
    at = _thousandths(_raw(at, b", engine;dur=", 13), first * 1000)
    return PyUnicode_DecodeASCII(<const char*>text, at - text, NULL)


cpdef str moment(str seconds, int64_t milliseconds):
    cdef uint8_t text[64]
    cdef uint8_t* at = text
    cdef Py_ssize_t size = 0
    cdef const char* utf8 = PyUnicode_AsUTF8AndSize(seconds, &size)
    if size > 32 or not 0 <= milliseconds < 1000:
        raise ValueError("a moment is a time of up to 32 characters and 0 to 999 milliseconds")
    at = _raw(at, utf8, size)
    at[0] = 46
    at[1] = <uint8_t>(48 + milliseconds // 100)
    at[2] = <uint8_t>(48 + milliseconds // 10 % 10)
    at[3] = <uint8_t>(48 + milliseconds % 10)
    at = _raw(at + 4, b"+00:00", 6)
    return PyUnicode_DecodeASCII(<const char*>text, at - text, NULL)
