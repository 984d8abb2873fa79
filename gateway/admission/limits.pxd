cimport cython
from _fastpath.clock cimport nanoseconds
from _fastpath.limit_headers cimport limit_headers
from _fastpath.token_bucket cimport Journal, LimitSet, TokenBuckets
from gateway.routing.match cimport CompiledRoute

@cython.final
@cython.no_gc
@cython.freelist(64)
cdef class Reservation:
    cdef readonly LimitSet limits
    cdef readonly long long handle

cdef class RouteSets:
    cdef readonly tuple limits, no_keys
    cdef readonly bint is_keyed
    cdef public LimitSet alone
    cdef readonly dict known

cdef class RateLimiter:
    cdef TokenBuckets _buckets
    cdef readonly Journal _journal
    cdef object _names, _generation, _clock, _ring
    cdef readonly dict _sets
    @cython.locals(handle="long long", reservation=Reservation)
    cpdef Reservation reserve(self, CompiledRoute route, header, str tenant, long long input_tokens, long long output_tokens,
                              bint again=*, own=*)
    cpdef tuple headers(self, Reservation reservation)
    cpdef settle(self, Reservation reservation, long long input_tokens, long long output_tokens)
    cpdef cancel(self, Reservation reservation)
    @cython.locals(sets=RouteSets)
    cpdef LimitSet _set_of(self, CompiledRoute route, header, str tenant, own, bint anew)
    cpdef long long _take(self, LimitSet limits, long long input_tokens, long long output_tokens) except? -3

cpdef str _key(limit, header, str tenant)
