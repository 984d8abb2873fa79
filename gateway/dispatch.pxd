cimport cython
from _fastpath.clock cimport seconds
from _fastpath.scanner cimport Scan
from gateway.deadlines cimport Deadlines
from gateway.exchange cimport Exchange
from gateway.identity.gate cimport Caller
from gateway.observability.metrics cimport RequestMetrics
from gateway.scheduling.health cimport HealthNotes
from gateway.scheduling.place cimport Placement, Placer, session_named, session_of
from gateway.scheduling.pool cimport ServerPool
from gateway.scheduling.waiting_room cimport WaitingRoom
from gateway.connectors.direct cimport send_at_once
from gateway.upstream.client cimport UpstreamClient
from gateway.upstream.connection cimport Answer
from gateway.upstream.retry cimport RetryBudget

cdef class Dispatcher:
    cdef Placer _placer
    cdef UpstreamClient _client
    cdef RequestMetrics _metrics
    cdef WaitingRoom _room
    cdef Deadlines _deadlines
    cdef object _tokens, _engine_tokens
    cdef bint _forwards_authorization
    cdef object _in_flight
    cdef object _clock
    cdef object _random
    cdef double _shown
    cdef RetryBudget _budget
    cdef HealthNotes _health
    cpdef Answer try_start(self, Exchange exchange)
    @cython.locals(server=ServerPool, scan=Scan, caller=Caller, begun=double)
    cpdef Answer _begin(self, Exchange exchange)
    cpdef Answer _send(self, Exchange exchange, double now)
    @cython.locals(took=double)
    cpdef first_token(self, Exchange exchange)
    cpdef release(self, Exchange exchange, object error=*)
    cpdef bint _has_room(self, Exchange exchange, double begun) except -1
    cpdef bint _leaves_kept_places(self, ServerPool server, double now) except -1
    @cython.locals(adapter="unsigned long long", placement=Placement)
    cpdef bint _choose(self, Exchange exchange, bint narrow, double begun) except -1
    @cython.locals(begun=double, narrow=bint)
    cpdef _place(self, Exchange exchange, bint is_owed)
    cpdef unsigned long long _waiting_session(self, Exchange exchange) except? 0
    cpdef _note_session(self, Exchange exchange)

cpdef bytes cache_of(Exchange exchange)
