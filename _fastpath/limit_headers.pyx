cimport cython
from cpython.unicode cimport PyUnicode_DecodeASCII
from libc.math cimport floor
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from _fastpath.atomics cimport atomic_load_f64, atomic_load_u64
from _fastpath.log_line cimport write_fraction, write_number
from _fastpath.token_bucket cimport Bucket, LimitSet, PLACE_BITS, PLACE_MASK, REQUESTS, _limits, _moment, _span

cdef tuple NAMES = (
    "x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens",
    "x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests",
)
cdef double LARGEST = 9e15


@cython.final
@cython.no_gc  # texts are all it holds on to
cdef class _Told:
    def __init__(self):
        self.pairs = [None] * TOLD_HEADERS


cdef int64_t _whole_number(double value, double most) noexcept nogil:
    return <int64_t>floor(min(max(value, 0.0), most) + 0.5)


# A number, or thousandths of a second as seconds.
cdef str _written(int64_t number, bint is_time):
    cdef uint8_t text[32]
    cdef uint8_t* end
    if is_time:
        end = write_fraction(text, number)
        end[0] = c's'
        end += 1
    else:
        end = write_number(text, number)
    return PyUnicode_DecodeASCII(<const char*>text, end - text, NULL)


# `numbers`: below 0 for a header that there is not.
cdef tuple _headers(LimitSet limits, const int64_t* numbers):
    cdef _Told told = <_Told>limits.told
    cdef int i
    if told is None:
        told = limits.told = _Told()
    elif memcmp(told.numbers, numbers, sizeof(told.numbers)) == 0:
        return told.headers
    for i in range(TOLD_HEADERS):
        if numbers[i] >= 0 and (told.pairs[i] is None or told.numbers[i] != numbers[i]):
            told.pairs[i] = (NAMES[i], _written(numbers[i], i % 3 == 2))
    memcpy(told.numbers, numbers, sizeof(told.numbers))
    told.headers = tuple([told.pairs[i] for i in range(TOLD_HEADERS) if numbers[i] >= 0])
    return told.headers


cpdef tuple limit_headers(TokenBuckets buckets, LimitSet limits, uint64_t now):
    if buckets is None or limits is None:
        raise TypeError("buckets and limits must be there")
    cdef Tightest found[2]
    cdef Tightest* one
    cdef Bucket* bucket
    cdef uint32_t i
    cdef uint64_t state
    cdef double span, left, interval, elsewhere
    cdef int64_t numbers[TOLD_HEADERS]
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
    for i in range(2):
        numbers[3 * i] = numbers[3 * i + 1] = numbers[3 * i + 2] = -1
        if found[i].known:
            numbers[3 * i] = _whole_number(found[i].burst, LARGEST)
            numbers[3 * i + 1] = _whole_number(found[i].left, LARGEST)
            numbers[3 * i + 2] = _whole_number(found[i].seconds * 1000, LARGEST)
    return _headers(limits, numbers)
