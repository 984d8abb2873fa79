cimport cython
from _fastpath.counters cimport CounterRow

cdef class Outcome:
    cdef readonly str server, policy, error_code
    cdef readonly long long status
    cdef readonly CounterRow row

cdef class Kind:
    cdef readonly str route, model, operation
    cdef public unsigned long long lengths
    cdef public list outcomes

cdef class Kinds:
    cdef str _route
    cdef dict _known
    @cython.locals(models=dict, found=Kind)
    cpdef Kind of(self, str model, str operation)
