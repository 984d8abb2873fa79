from _fastpath.fair_share cimport FairShare
from gateway.scheduling.fair_queue cimport FairQueue

cdef class _Room:
    cdef public FairQueue queue
    cdef public double interval, last, gives_way_until
    cdef public str tenant
    cdef public unsigned long long tenant_identity

cdef class WaitingRoom:
    cdef object _longest, _clock, _timer
    cdef readonly double seconds, session_seconds
    cdef double _credit
    cdef FairShare _share
    cdef dict _rooms
    cpdef bint comes(self, str server, str tenant, double now=*) except -1
    cpdef bint is_contested(self, str server, double now=*) except -1
    cpdef move(self, str server)
    cpdef _Room _room(self, str server)
