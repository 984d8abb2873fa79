from cpython.unicode cimport PyUnicode_DecodeASCII
from libc.math cimport floor
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from _fastpath.atomics cimport atomic_load_f64, atomic_load_u64
from _fastpath.log_line cimport _thousandths, _whole
from _fastpath.token_bucket cimport Bucket, LimitSet, PLACE_BITS, PLACE_MASK, REQUESTS, _limits, _moment, _span

cdef tuple NAMES = (
    ("x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"),
    ("x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"),
)
cdef double LARGEST = 9e15


cdef str _decimal(double value):
    cdef uint8_t digits[24]
    cdef uint8_t* end = _whole(digits, <int64_t>min(max(floor(value + 0.5), 0.0), LARGEST))
    return PyUnicode_DecodeASCII(<const char*>digits, end - digits, NULL)


cdef str _seconds(double value):
    cdef uint8_t digits[32]
    cdef uint8_t* end = _thousandths(digits, min(max(value, 0.0), LARGEST / 1000))
    end[0] = c's'
    return PyUnicode_DecodeASCII(<const char*>digits, end + 1 - digits, NULL)


cpdef list limit_headers(TokenBuckets buckets, LimitSet limits, uint64_t now):
    if buckets is None or limits is None:
        raise TypeError("buckets and limits must be there")
    cdef Tightest found[2]
    cdef Tightest* one
    cdef Bucket* bucket
    cdef uint32_t i
    cdef uint64_t state
    cdef double span, left, interval, elsewhere
    found[0].known = found[1].known = False
    for i in range(limits.count):
        bucket = buckets._at(limits.buckets[i])
        state = atomic_load_u64(&bucket.state)
        if state & PLACE_MASK == 0 or bucket.identity != limits.identities[i]:
            continue
        interval = _limits(bucket, state).interval
        # what the store has left is there for this client as well
        elsewhere = atomic_load_f64(&bucket.elsewhere) * interval if bucket.store != 0 else 0.0
        span = max(_span(state, _moment(bucket, now)) - elsewhere, 0.0)
        left = (_limits(bucket, state).tolerance - span) / interval
        one = &found[limits.kinds[i] == REQUESTS]
        if not one.known or left < one.left:
            one.known = True
            one.left = left
            one.burst = _limits(bucket, state).tolerance / interval
            one.seconds = span * 1e-9
    cdef list headers = []
    for i in range(2):
        if found[i].known:
            limit, remaining, reset = <tuple>NAMES[i]
            headers.append((limit, _decimal(found[i].burst)))
            headers.append((remaining, _decimal(found[i].left)))
            headers.append((reset, _seconds(found[i].seconds)))
    return headers
