cdef class Waiter:
    cdef public str tenant, outcome
    cdef public object place, signal, error, number
    cdef public double tokens, deadline, answered, tag, joined, estimate
    cdef public long long priority, position
    cdef public bint is_waiting

cdef class FairQueue:
    cdef object _longest
    cdef double _credit
    cdef object _share
    cdef readonly unsigned long long server
    cdef readonly list _line
    cdef readonly dict _counts
    cdef long long _joined
    cpdef Waiter next(self)
