# Answers of HTTP/1.1: the head of one, where its body ends, and the body's bytes without the framing. No I/O: bytes in, bytes out.
#
# Strict (RFC 9112): lines end with CR LF, chunk sizes are plain hexadecimal digits, nothing stands between a chunk's data and its CR LF.
# What one parser takes and another does not is how answers get mixed up, so it is refused here and the connection is closed.
from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef enum Framing:
    LENGTH = 0                    # so many bytes
    CHUNKED
    UNTIL_CLOSE                   # whatever comes until the connection ends

cdef enum Step:                   # where in a chunked body the next byte stands
    SIZE = 0                      # first digit of a size
    MORE_SIZE
    EXTENSION
    SIZE_LF
    DATA
    DATA_CR
    DATA_LF
    TRAILER                       # first byte of a trailer line
    TRAILER_LINE
    TRAILER_LF
    LAST_LF                       # of the empty line that ends the body

cdef class Head:
    cdef readonly int status
    cdef readonly list headers            # of (name in lower case, value): what may be passed on
    cdef int64_t announced                # bytes of the body, -1 when it says nothing
    cdef readonly bint chunked
    cdef readonly bint keeps_alive        # the connection can carry another request
    cdef readonly bint is_event_stream
    cdef tuple hop_names                  # headers that the connection header names
    cdef readonly size_t end              # where in the bytes that were read the body begins

    cdef int _header(self, const unsigned char* line, size_t colon, size_t length) except -1
    cdef int _pass_on(self, str name, const unsigned char* value, size_t length) except -1
    cdef int _content_type(self, const unsigned char* value, size_t length) except -1
    cdef int _content_length(self, const unsigned char* value, size_t length) except -1
    cdef int _connection(self, bytes value) except -1

cdef class BodyReader:
    cdef Framing framing
    cdef Step step
    cdef uint64_t left            # bytes of the body (LENGTH) or of the present chunk
    cdef uint32_t digits          # of the present size
    cdef uint32_t overhead        # bytes of extensions and trailers so far
    cdef readonly bint complete
    cdef readonly size_t excess   # bytes that came after the end

    cpdef bytes feed(self, bytes data, size_t start=*)
    cdef bytes _feed_length(self, bytes data, size_t start)
    cdef bytes _feed_chunks(self, bytes data, size_t start)
    cdef const char* _frame(self, unsigned char byte) noexcept nogil
    cdef const char* _size_byte(self, unsigned char byte) noexcept nogil
    cdef const char* _overhead_byte(self, unsigned char byte) noexcept nogil

cpdef object body_of(Head head)
cpdef object parse_head(bytes data, size_t start=*)
