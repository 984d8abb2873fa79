# Lines of the access log: JSON, written into one buffer of bytes, without a dictionary, a text or a number object on the way.
from libc.stdint cimport int64_t, uint8_t

cdef enum:
    FIXED_BYTES = 1024            # names of all fields, and the longest numbers
    ESCAPED_BYTES = 6             # of one byte of text: \u001f
    KEPT_BYTES = 1048576          # a buffer that grew beyond is not kept once it is empty

cdef class LogLines:
    cdef uint8_t* _start
    cdef size_t _room
    cdef readonly size_t size
    cdef int64_t _second          # that `_date` is of
    cdef uint8_t _date[20]
    cdef readonly long long count
    cpdef object add(
        self, double wall, str request_id, str path, int64_t status, str operation, str model,
        str route, str server, str pod, bint stream, double duration, double first_byte, double overhead, int64_t attempts,
        int64_t bytes_in, int64_t bytes_out, double match_ratio, tuple usage, int64_t prompt_tokens, int64_t output_tokens,
        bint cancelled, str error_code, str error_source, str error_message, str tenant,
        str refusal, double waited, bytes decision=*)
    cpdef bytes take(self)
    cdef int _make_room(self, size_t size) except -1
    cdef uint8_t* _moment(self, uint8_t* at, double wall) noexcept nogil

cpdef bint is_plain(str text, size_t longest) except -1
cpdef str server_timing(double overhead, double waited, double first)

# A number: of an integer, and of an integer of thousandths that is not below 0.
cdef uint8_t* write_number(uint8_t* at, int64_t value) noexcept nogil
cdef uint8_t* write_fraction(uint8_t* at, int64_t thousandths) noexcept nogil
