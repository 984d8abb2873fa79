from gateway.exchange cimport Exchange

cdef class BodyLedger:
    cdef long long _most
    cdef object _clock
    cdef dict _arriving
    cdef readonly long long held
    cpdef begin(self, Exchange exchange)
    cpdef end(self, Exchange exchange)
