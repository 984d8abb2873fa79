cimport cython
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memset

from _fastpath.prefix_index cimport pool_pages_free, pool_pages_make

from _fastpath.adapters import AFFINITIES as _AFFINITIES

REASONS = ("", "wrong_role", "excluded", "full", "waiting", "gone", "ejected", "left_out", "without_adapter")


@cython.final
cdef class Pool:
    def __cinit__(self):
        self.candidates = NULL
        self.matched = NULL
        self.adjustments = NULL
        self.due = -1
        memset(&self.pages, 0, sizeof(PoolPages))

    def __init__(self, endpoints, Outlier outlier=None, double prefill_seconds=0.0):
        cdef size_t i
        cdef uint64_t* slots
        self.count = len(endpoints)
        self.outlier = outlier
        self.prefill_seconds = prefill_seconds
        self.candidates = <Candidate*>calloc(max(<size_t>1, self.count), sizeof(Candidate))
        self.matched = <uint32_t*>calloc(max(<size_t>1, self.count), sizeof(uint32_t))
        slots = <uint64_t*>malloc(max(<size_t>1, self.count) * sizeof(uint64_t))
        try:
            if self.candidates == NULL or self.matched == NULL or slots == NULL:
                raise MemoryError
            for i in range(self.count):
                slot, generation, roles, maximum_in_flight, *identity = endpoints[i]
                if len(identity) > 1:
                    raise ValueError(f"an endpoint has 4 or 5 parts, not {4 + len(identity)}")
                self.candidates[i].identity = identity[0] if identity else slot
                self.candidates[i].slot = slots[i] = slot
                self.candidates[i].generation = generation
                self.candidates[i].roles = roles
                self.candidates[i].maximum_in_flight = maximum_in_flight
                self.highest_slot = max(self.highest_slot, <uint64_t>slot)
            pool_pages_make(&self.pages, slots, self.count)
        finally:
            free(slots)

    def __dealloc__(self):
        free(self.candidates)
        free(self.matched)
        free(self.adjustments)
        pool_pages_free(&self.pages)

    def __len__(self):
        return self.count

    cdef int _adjust(self, adjustments) except -1:
        cdef size_t i
        free(self.adjustments)
        self.adjustments = NULL
        if adjustments is None:
            return 0
        if <size_t>len(adjustments) != self.count:
            raise ValueError(f"{len(adjustments)} adjustments for {self.count} endpoints")
        self.adjustments = <double*>malloc(max(<size_t>1, self.count) * sizeof(double))
        if self.adjustments == NULL:
            raise MemoryError
        for i in range(self.count):
            self.adjustments[i] = adjustments[i]
        return 0

    def explain(self):
        cdef size_t i
        cdef Candidate* c
        rows = []
        for i in range(self.count):
            c = &self.candidates[i]
            rows.append({
                "filtered": REASONS[c.reason],
                "score": c.score if c.reason == CANDIDATE else None,
                "matched_blocks": self.matched[i],
                "in_flight": <int64_t>c.in_flight,
                "prefill_tokens": <int64_t>c.prefill_tokens,
                "running": c.running,
                "waiting": c.waiting,
                "kv_usage": c.kv_usage,
                "scraped": bool(c.fresh),
                "adapter": _AFFINITIES[<int>c.affinity] if self.for_adapter else "",
                "prefill_tokens_per_second": c.prefill_tokens_per_second,
                "cost": None if c.reason != CANDIDATE or not self.by_cost else {
                    "queue": c.queue_seconds, "prefill": c.prefill_seconds, "lateness": c.lateness_seconds,
                    "decode": c.decode_seconds, "memory": c.memory_seconds, "adapter": c.adapter_seconds,
                },
            })
        return rows

    def filtered(self):
        cdef size_t i
        counts = {}
        for i in range(self.count):
            if self.candidates[i].reason != CANDIDATE:
                reason = REASONS[self.candidates[i].reason]
                counts[reason] = counts.get(reason, 0) + 1
        return counts
