cimport cython
from gateway.exchange cimport Exchange
from gateway.observability.metrics cimport RequestMetrics
from gateway.scheduling.place cimport Placement, Placer

cdef class HealthNotes:
    cdef Placer _placer
    cdef RequestMetrics _metrics
    cpdef answers(self, Exchange exchange)
    @cython.locals(outcome=long, now=double)
    cpdef over(self, Exchange exchange, Placement placement, object error)
    @cython.locals(event=long)
    cpdef _note(self, Exchange exchange, Placement placement, long outcome, error, double now=*)

@cython.locals(status="long long")
cpdef long outcome_of(Exchange exchange) except -1
