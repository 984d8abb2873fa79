cimport cython

cdef class ClientStream:
    cdef object _send, _taken, _socket, _limits, _source, _clock, _timer, _acknowledged_at_start
    cdef long long _handed_over, _unchecked, _check_bytes
    cdef double _deadline
    @cython.locals(size="long long", rest="long long")
    cpdef send(self, bytes piece)
