cdef class AnswerLength:
    cdef readonly double mean
    cdef readonly long long count

cdef class OutputEstimates:
    cdef object _prior
    cdef dict _lengths
