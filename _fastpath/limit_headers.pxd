# What a client is told of its limits, x-ratelimit-*: read from the buckets and written as text in one call.
from libc.stdint cimport uint64_t

from _fastpath.token_bucket cimport LimitSet, TokenBuckets

cdef struct Tightest:             # of the limits that share a name: the one with the least left
    bint known
    double left
    double burst
    double seconds                # until it is full again

cpdef list limit_headers(TokenBuckets buckets, LimitSet limits, uint64_t now)
cdef str _decimal(double value)
cdef str _seconds(double value)
