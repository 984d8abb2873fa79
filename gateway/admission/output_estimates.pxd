cdef class AnswerLength:
    cdef readonly double mean
    cdef readonly long long count

cdef class OutputEstimates:
    cdef object _prior
    cdef dict _lengths
    cpdef long long expected(self, kind, long long most, long long choices) except? -1
    cpdef learn(self, kind, long long tokens, long long most, long long choices)
