from _fastpath.log_line cimport server_timing
from _fastpath.usage cimport Tail, events_in, scan_usage
from gateway.admission.limits cimport RateLimiter
from gateway.downstream.stream cimport ClientStream
from gateway.downstream.usage_event cimport UsageEventFilter
from gateway.exchange cimport Exchange
from gateway.observability.metrics cimport RequestMetrics

cdef class Replier:
    cdef object _settings, _sockets, _clock, _first_token
    cdef bint _has_details
    cdef RateLimiter _limiter
    cdef RequestMetrics _metrics
    cpdef bint answer_at_once(self, Exchange exchange, answer) except -1
    cpdef _send_whole(self, Exchange exchange, answer, bytes body)
    cpdef whole(self, Exchange exchange, long status, list headers, bytes body)
    cpdef note(self, Exchange exchange, long long size)
    cpdef list _headers(self, Exchange exchange, answer)
    cpdef list _with_details(self, Exchange exchange, list headers)

cpdef long long estimated_output(Exchange exchange) except? -1

cdef class Forwarding:
    cdef readonly Tail tail
    cdef Replier _replier
    cdef Exchange _exchange
    cdef ClientStream _stream
    cdef UsageEventFilter _hidden
    cdef RequestMetrics _metrics
    cdef long _gaps
    cdef bint _events
    cpdef take(self, bytes piece)
