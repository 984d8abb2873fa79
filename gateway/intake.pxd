cimport cython
from _fastpath.scanner cimport Forbidden, Scan, scan
from gateway.exchange cimport Exchange

cdef class BodyLedger:
    cdef long long _most
    cdef object _clock
    cdef dict _arriving
    cdef readonly long long held
    cpdef begin(self, Exchange exchange)
    cpdef end(self, Exchange exchange)
    cpdef take(self, long long count)
    cpdef give(self, long long count)

@cython.locals(encoding=str, content_type=str)
cpdef check_headers(Exchange exchange, long long most)
@cython.locals(count="long long", digit=Py_UCS4)
cpdef long long _announced(str length) except? -2
cpdef long long choices_of(Scan found) except? -1

cdef class BodyRules:
    cdef readonly size_t depth, members, digits
    cdef readonly Forbidden forbidden, refused

@cython.locals(found=Scan, wanted=str)
cpdef scan_body(Exchange exchange, BodyRules rules)
