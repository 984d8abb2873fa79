from gateway.deadlines cimport Deadlines
from gateway.exchange cimport Exchange
from gateway.observability.metrics cimport RequestMetrics
from gateway.scheduling.health cimport HealthNotes
from gateway.scheduling.place cimport Placer, session_of
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
    cpdef Answer _begin(self, Exchange exchange)
    cpdef Answer _send(self, Exchange exchange)
    cpdef first_token(self, Exchange exchange)
    cpdef release(self, Exchange exchange, object error=*)
    cpdef _expect_prefill(self, Exchange exchange)
    cpdef bint _is_placed(self, Exchange exchange) except -1
    cpdef bint _has_room(self, Exchange exchange) except -1
    cpdef _place(self, Exchange exchange, bint is_owed)

cpdef bytes cache_of(Exchange exchange)
