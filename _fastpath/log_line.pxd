# One line of the access log: JSON, written into one buffer of bytes, without a dictionary or a number object on the way.
from libc.stdint cimport int64_t, uint8_t

cdef enum:
    FIXED_BYTES = 1024            # names of all fields, and the longest numbers
    ESCAPED_BYTES = 6             # of one byte of text: \u001f

cpdef bytes request_line(
    str timestamp, str request_id, str path, int64_t status, str operation, str model,
    str route, str server, str pod, bint stream, double duration, double first_byte, double overhead, int64_t attempts,
    int64_t bytes_in, int64_t bytes_out, double match_ratio, tuple usage, int64_t prompt_tokens, int64_t output_tokens,
    bint cancelled, str error_code, str error_source, str error_message, str tenant,
    str refusal, double waited, bytes decision=*,
)
cpdef str server_timing(double overhead, double waited, double first)
cpdef str moment(str seconds, int64_t milliseconds)
cdef uint8_t* _raw(uint8_t* at, const char* text, size_t length) noexcept nogil
cdef uint8_t* _whole(uint8_t* at, int64_t value) noexcept nogil
cdef uint8_t* _thousandths(uint8_t* at, double value) noexcept nogil
cdef uint8_t* _escaped(uint8_t* at, const uint8_t* text, size_t length) noexcept nogil
cdef uint8_t* _text(uint8_t* at, str text) except NULL
cdef size_t _bytes_of(str text) except? 0
