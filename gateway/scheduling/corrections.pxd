from _fastpath.hashing cimport BlockHashes

cdef class Corrections:
    cdef object _prefixes, _later, _beside
    cdef readonly dict in_vain
    cdef dict _before
    cdef bint _is_due
    cdef double _old_seconds
    cpdef str missed(self, tuple endpoint, BlockHashes hashes, long long cached_tokens, long long matched_at, double sent,
                     bint age_is_known=*)
    cpdef str answered(self, tuple endpoint, BlockHashes hashes, long long cached_tokens)
    cpdef bint _forget_if_doubted(self, tuple endpoint, BlockHashes hashes) except -1
