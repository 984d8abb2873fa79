from _fastpath.output_lengths cimport OutputLengths

cdef class OutputEstimates:
    cdef object _prior, _clock, _hasher
    cdef OutputLengths _lengths
    cdef dict _known
