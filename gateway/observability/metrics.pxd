from _fastpath.counters cimport Counters
from gateway.exchange cimport Exchange

cdef class RequestMetrics:
    cdef Counters _counters
    cdef dict _handles, _gaps
    cpdef gap(self, long series, double seconds)
    cpdef tuple _handles_of(self, Exchange exchange)
    cpdef finished(self, Exchange exchange, double now)

cpdef str _model(Exchange exchange)
