cimport cython
from _fastpath.log_line cimport LogLines, is_plain
from gateway.exchange cimport Exchange
from gateway.identity.gate cimport Caller
from gateway.routing.match cimport Matched
from gateway.scheduling.place cimport Placement
from gateway.scheduling.pool cimport ServerPool

cdef double _NEVER
cdef size_t _LONGEST_VALUE

cdef class AccessLog:
    cdef object _descriptor, _arrived, _ended, _thread
    cdef bint _enabled, _is_told, _is_torn
    cdef long long _most, _most_bytes
    cdef readonly LogLines _lines
    cdef readonly long long dropped
    cpdef finished(self, Exchange exchange, double now, double wall)

@cython.locals(
    placement=Placement, server=ServerPool, matched=Matched, caller=Caller, started=double, first=double, sent=double, ratio=double,
    waited=double)
cpdef add_line(LogLines lines, Exchange exchange, double now, double wall)
cpdef str _shown(str text)
