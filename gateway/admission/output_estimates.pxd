from _fastpath.output_lengths cimport OutputLengths

cdef class OutputEstimates:
    cdef object _prior, _clock, _hasher
    cdef OutputLengths _lengths
    cdef dict _known
    cpdef long long expected(self, kind, long long most, long long choices) except? -1
    cpdef learn(self, kind, long long tokens, long long most, long long choices)
