from gateway.exchange cimport Exchange
from gateway.observability.metrics cimport RequestMetrics
from gateway.scheduling.place cimport Placement, Placer

cdef class HealthNotes:
    cdef Placer _placer
    cdef RequestMetrics _metrics
    cpdef answers(self, Exchange exchange)
    cpdef over(self, Exchange exchange, Placement placement, object error)
    cpdef _note(self, Exchange exchange, Placement placement, long outcome, error)

cpdef outcome_of(Exchange exchange)
