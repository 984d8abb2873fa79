from gateway.exchange cimport Exchange
from gateway.observability.metrics cimport RequestMetrics
from gateway.scheduling.health cimport HealthNotes
from gateway.scheduling.place cimport Placer
from gateway.upstream.retry cimport RetryBudget

cdef class Dispatcher:
    cdef Placer _placer
    cdef object _client
    cdef RequestMetrics _metrics
    cdef object _room
    cdef object _tokens
    cdef bint _forwards_authorization
    cdef object _in_flight
    cdef object _clock
    cdef object _random
    cdef double _shown
    cdef RetryBudget _budget
    cdef HealthNotes _health
    cpdef release(self, Exchange exchange, object error=*)
