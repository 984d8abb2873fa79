from gateway.downstream.stream cimport ClientStream
from gateway.downstream.usage_event cimport UsageEventFilter
from gateway.exchange cimport Exchange

cdef class Replier:
    cdef object _settings, _sockets, _clock, _first_token
    cdef object _limiter
    cdef object _metrics

cdef class Tail:
    cdef object _pieces
    cdef long long _size
    cpdef add(self, bytes piece)
    cpdef bytes text(self)

cdef class Forwarding:
    cdef readonly Tail tail
    cdef Replier _replier
    cdef Exchange _exchange
    cdef ClientStream _stream
    cdef UsageEventFilter _hidden
    cdef object _metrics
    cdef long _gaps
    cdef bint _events
    cpdef take(self, bytes piece)
