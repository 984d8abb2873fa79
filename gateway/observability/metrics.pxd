cimport cython
from _fastpath.counters cimport Counters
from gateway.exchange cimport Exchange
from gateway.routing.match cimport Matched
from gateway.scheduling.place cimport Placement
from gateway.scheduling.pool cimport ServerPool

cdef class RequestMetrics:
    cdef Counters _counters
    cdef dict _handles, _gaps
    cpdef gap(self, long series, double seconds)
    @cython.locals(matched=Matched, pool=ServerPool)
    cpdef tuple _handles_of(self, Exchange exchange)
    @cython.locals(started=double, sent=double, first=double, usage=tuple, placement=Placement, tokens_out="long long")
    cpdef finished(self, Exchange exchange, double now)

cpdef str _model(Exchange exchange)
