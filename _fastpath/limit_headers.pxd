# What a client is told of its limits, x-ratelimit-*: read from the buckets and written as text in one call.
from _fastpath.token_bucket cimport TokenBuckets

cdef struct Tightest:             # of the limits that share a name: the one with the least left
    bint known
    double left
    double burst
    double seconds                # until it is full again

cdef str _decimal(double value)
cdef str _seconds(double value)
