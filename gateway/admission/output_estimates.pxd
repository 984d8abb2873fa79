from _fastpath.output_lengths cimport OutputLengths
from gateway.routing.kinds cimport Kind

cdef class OutputEstimates:
    cdef long long _prior, _longest
    cdef object _hasher
    cdef OutputLengths _lengths
    cpdef long long expected(self, Kind kind, long long most, long long choices) except? -1
    cpdef learn(self, Kind kind, long long tokens, long long most, long long choices, double now)
    cpdef unsigned long long _identity(self, Kind kind) except? 0
