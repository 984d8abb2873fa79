cimport cython
from _fastpath.clock cimport seconds
from _fastpath.http1 cimport Head
from _fastpath.log_line cimport server_timing
from _fastpath.usage cimport Tail, events_in, scan_usage
from gateway.admission.limits cimport RateLimiter
from gateway.downstream.coalescer cimport Coalescer
from gateway.downstream.stream cimport ClientStream
from gateway.downstream.usage_event cimport UsageEventFilter
from gateway.exchange cimport Exchange
from gateway.observability.metrics cimport RequestMetrics
from gateway.scheduling.place cimport Placement
from gateway.upstream.connection cimport Answer, Sink

cdef class Replier:
    cdef object _settings, _sockets, _clock, _first_token
    cdef bint _has_details
    cdef RateLimiter _limiter
    cdef RequestMetrics _metrics
    cdef Coalescer _coalescer
    @cython.locals(head=Head, body=bytes, now=double)
    cpdef bint answer_at_once(self, Exchange exchange, Answer answer) except -1
    @cython.locals(status=long)
    cpdef _send_whole(self, Exchange exchange, list given, bytes body, double now)
    cpdef whole(self, Exchange exchange, long status, list headers, bytes body, double now)
    cpdef note(self, Exchange exchange, long long size, double now)
    @cython.locals(headers=list)
    cpdef list _headers(self, Exchange exchange, list given)
    @cython.locals(placement=Placement, now=double, sent=double, overhead=double, first=double)
    cpdef list _with_details(self, Exchange exchange, list headers)

cpdef _note_status(Exchange exchange, long status, list headers)
cpdef long long estimated_output(Exchange exchange) except? -1

cdef class Forwarding(Sink):
    cdef readonly Tail tail
    cdef Replier _replier
    cdef Exchange _exchange
    cdef ClientStream _stream
    cdef UsageEventFilter _hidden
    cdef RequestMetrics _metrics
    cdef Coalescer _coalescer
    cdef long _gaps
    cdef bint _events
    @cython.locals(exchange=Exchange, earlier=double)
    cpdef take(self, bytes piece, double now)
