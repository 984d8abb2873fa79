# What a client is told of its limits, x-ratelimit-*: read from the buckets and written as text in one call.
from libc.stdint cimport int64_t, uint64_t

from _fastpath.token_bucket cimport LimitSet, TokenBuckets

cdef enum:
    TOLD_HEADERS = 6              # limit, remaining and reset of tokens, and of requests

cdef struct Tightest:             # of the limits that share a name: the one with the least left
    bint known
    double left
    double burst
    double seconds                # until it is full again

# What was told last of a set of limits: most numbers are the same the next time.
cdef class _Told:
    cdef int64_t numbers[TOLD_HEADERS]
    cdef list pairs               # of name and text
    cdef tuple headers            # those of them that there are

cpdef tuple limit_headers(TokenBuckets buckets, LimitSet limits, uint64_t now)
cdef tuple _headers(LimitSet limits, const int64_t* numbers)
cdef int64_t _whole_number(double value, double most) noexcept nogil
cdef str _written(int64_t number, bint is_time)
