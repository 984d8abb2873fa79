cimport cython
from _fastpath.counters cimport CounterRow, Counters
from gateway.exchange cimport Exchange
from gateway.routing.kinds cimport Kind, Kinds, Outcome
from gateway.scheduling.place cimport Placement
from gateway.scheduling.pool cimport ServerPool

cdef int _REQUESTS, _DURATION, _OVERHEAD, _SCHEDULING, _CHOSEN, _FIRST_TOKEN, _MATCH_RATIO, _ESTIMATED, _INPUT, _OUTPUT, _CACHED, _EACH_TOKEN

cdef class RequestMetrics:
    cdef Counters _counters
    cdef Kinds _unmatched
    cdef dict _gaps
    cpdef gap(self, long series, double seconds)
    @cython.locals(kind=Kind, pool=ServerPool, outcome=Outcome, status="long long", server=str, policy=str, error_code=str)
    cpdef CounterRow _row_of(self, Exchange exchange)
    @cython.locals(started=double, sent=double, first=double, placement=Placement)
    cpdef finished(self, Exchange exchange, double now)
    @cython.locals(usage=tuple, tokens_out="long long", cached="long long")
    cpdef _count_tokens(self, Exchange exchange, CounterRow row)

cpdef str _model(Exchange exchange)
