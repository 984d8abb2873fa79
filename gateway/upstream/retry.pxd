cdef class RetryBudget:
    cdef public long under_way
