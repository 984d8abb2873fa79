from _fastpath.token_bucket cimport Journal, LimitSet, TokenBuckets

cdef class Reservation:
    cdef readonly LimitSet limits
    cdef readonly long handle

cdef class RateLimiter:
    cdef TokenBuckets _buckets
    cdef readonly Journal _journal
    cdef object _names, _generation, _clock, _ring
    cdef readonly dict _sets
