cimport cython
from libc.math cimport INFINITY

SCORES_BY_NAME = {"least-request": 0, "least-latency": 1, "kv-usage": 2, "prefix-cache": 3, "random": 4, "session": 5,
                  "kvcache-aware": 6, "lora-affinity": 7}


@cython.final
cdef class Policy:
    def __init__(self, *, bint by_cost=True, weights=None, double stale_after=5.0, double maximum_waiting=0.0,
                 double prefill_tokens_per_second=8000.0, double decode_seconds_per_request=0.00035,
                 double latency_factor=0.5, double session_bound=1.25, double adapter_seconds=0.5,
                 uint32_t prefix_blocks=0, uint32_t kvcache_blocks=0, bint adapter_filter=False):
        cdef int i
        self.by_cost = by_cost
        for i in range(SCORES):
            self.weights[i] = 0
        for name, weight in (weights or {}).items():
            if name not in SCORES_BY_NAME:
                raise ValueError(f"unknown scorer {name!r}: one of {', '.join(SCORES_BY_NAME)}")
            if not 0 <= weight < INFINITY:
                raise ValueError(f"the weight of {name} must be a number, 0 or above, not {weight}")
            self.weights[<int>SCORES_BY_NAME[name]] = weight
        if not 0 < prefill_tokens_per_second < INFINITY:
            raise ValueError("prefill_tokens_per_second must be above 0")
        if not 1 <= session_bound < INFINITY:
            raise ValueError("session_bound must be 1 or above")
        if not 0 <= adapter_seconds < INFINITY:
            raise ValueError("adapter_seconds must be 0 or above")
        if not 0 <= latency_factor <= 1:
            raise ValueError("latency_factor must be 0 to 1")
        self.session_bound = session_bound
        self.adapter_seconds = adapter_seconds
        self.prefix_blocks = prefix_blocks
        self.kvcache_blocks = kvcache_blocks
        self.adapter_filter = adapter_filter
        self.stale_after = stale_after
        self.maximum_waiting = maximum_waiting
        self.prefill_tokens_per_second = prefill_tokens_per_second
        self.decode_seconds_per_request = decode_seconds_per_request
        self.latency_factor = latency_factor
