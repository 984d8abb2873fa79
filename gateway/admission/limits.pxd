from _fastpath.limit_headers cimport limit_headers
from _fastpath.token_bucket cimport Journal, LimitSet, TokenBuckets

cdef class Reservation:
    cdef readonly LimitSet limits
    cdef readonly long handle

cdef class RateLimiter:
    cdef TokenBuckets _buckets
    cdef readonly Journal _journal
    cdef object _names, _generation, _clock, _ring
    cdef readonly dict _sets
    cpdef reserve(self, route, header, str tenant, long long input_tokens, long long output_tokens, bint again=*, own=*)
    cpdef headers(self, Reservation reservation)
    cpdef settle(self, Reservation reservation, long long input_tokens, long long output_tokens)
    cpdef cancel(self, Reservation reservation)

cpdef str _key(limit, header, str tenant)
