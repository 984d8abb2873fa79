from _fastpath.counters cimport Counters
from gateway.exchange cimport Exchange

cdef class RequestMetrics:
    cdef Counters _counters
    cdef dict _handles, _gaps
    cpdef finished(self, Exchange exchange, double now)
