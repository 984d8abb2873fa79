cimport cython
from _fastpath.clock cimport seconds
from _fastpath.scanner cimport Scan
from gateway.admission.limits cimport RateLimiter
from gateway.admission.output_estimates cimport OutputEstimates
from gateway.deadlines cimport Deadlines
from gateway.dispatch cimport Dispatcher
from gateway.exchange cimport Exchange
from gateway.identity.gate cimport Caller, Gate
from gateway.intake cimport BodyLedger, BodyRules, check_headers, choices_of, scan_body
from gateway.observability.access_log cimport AccessLog
from gateway.observability.metrics cimport RequestMetrics
from gateway.reply cimport Replier, estimated_output
from gateway.scheduling.place cimport Placer
from gateway.routing.match cimport Matched, match
from gateway.routing.split cimport split
from gateway.scheduling.waiting_room cimport WaitingRoom
from gateway.waiting cimport Run
from gateway.watch cimport Watches

cdef class Parts:
    cdef readonly object settings, world, sockets, tokens, coalescer, clock, wall
    cdef public object random
    cdef readonly RateLimiter limiter
    cdef readonly OutputEstimates estimates
    cdef readonly Placer placer
    cdef readonly object client
    cdef readonly WaitingRoom room
    cdef readonly RequestMetrics metrics
    cdef readonly AccessLog access_log
    cdef readonly Deadlines deadlines
    cdef readonly Gate gate

cdef class Pipeline:
    cdef readonly Parts _parts
    cdef object _requests
    cdef readonly OutputEstimates _estimates
    cdef Dispatcher _dispatcher
    cdef Replier _replier
    cdef readonly BodyLedger _bodies
    cdef BodyRules _body_rules
    cdef Gate _gate
    cdef Watches _watches
    cdef set _exchanges
    cdef double _body_seconds
    cdef long long _most_bytes
    cdef AccessLog _access_log
    cdef RateLimiter _limiter
    cdef RequestMetrics _metrics
    cdef object _world
    cdef object _clock, _wall
    cdef public bint draining
    cpdef Run start(self, Exchange exchange)
    cpdef _refuse_when_draining(self)
    cpdef bint _admit(self, Exchange exchange) except -1
    cpdef _permit(self, Exchange exchange)
    cpdef _match(self, Exchange exchange)
    @cython.locals(found=Scan, matched=Matched)
    cpdef _expect(self, Exchange exchange)
    @cython.locals(caller=Caller, matched=Matched)
    cpdef bint _limit(self, Exchange exchange) except -1
    @cython.locals(name=str)
    cpdef _split(self, Exchange exchange)
    cpdef _let_go_of_body(self, Exchange exchange)
    @cython.locals(now=double)
    cpdef _finish(self, Exchange exchange)
    @cython.locals(usage=tuple)
    cpdef _settle(self, Exchange exchange)
    @cython.locals(found=Scan)
    cpdef _learn(self, Exchange exchange, double now)
