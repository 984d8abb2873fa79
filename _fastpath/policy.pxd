# How to choose among endpoints: by cost, or by weighted scores.
from libc.stdint cimport uint32_t

cdef enum:                        # scores
    LEAST_REQUEST = 0
    LEAST_LATENCY
    KV_USAGE
    PREFIX_CACHE
    RANDOM
    SESSION
    KVCACHE_AWARE
    LORA_AFFINITY
    SCORES

cdef class Policy:
    cdef readonly bint by_cost
    cdef double weights[8]
    cdef readonly double stale_after
    cdef readonly double maximum_waiting
    cdef readonly double prefill_tokens_per_second
    cdef readonly double decode_seconds_per_request
    cdef readonly double latency_factor
    cdef readonly double session_bound
    cdef readonly double adapter_seconds
    cdef readonly uint32_t prefix_blocks
    cdef readonly uint32_t kvcache_blocks
    cdef readonly bint adapter_filter
