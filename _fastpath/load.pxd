# What is measured about an endpoint, at its slot.
#
#   load cell [worker][slot]     what this worker has sent there and not seen the end of; one writer, the worker
#   metrics   [slot]             what the engine says of itself; one writer, the sidecar
#
# Both carry the slot's generation: what was written for an earlier endpoint does not count, and nobody has to clear it.
from libc.stdint cimport int64_t, uint32_t, uint64_t
from _fastpath.shared_memory cimport LOAD_CELL_BYTES, SharedMemory
from _fastpath.slots cimport Slots

cdef struct LoadCell:
    uint64_t generation
    int64_t in_flight             # requests
    int64_t prefill_tokens        # prompt tokens sent, not cached there as far as we know, whose first token has not come
    int64_t decode_tokens         # tokens expected from the requests in flight
    double spent_tokens           # prompt tokens of lately measured prefills, those that were queued before them too
    double spent_seconds          # how long these took; both fade with every further one
    double prefill_since          # monotonic seconds at which the outstanding prefill began; minus those of the last first token; 0 = not known
    uint64_t recent               # eighths of a second of the last charge, and tokens to compute that were sent lately: see `pack_recent`
    double asked                  # requests that were sent lately, as of the same moment

cdef enum:
    RECENT_SECONDS = 90           # after which what was sent counts half

cdef struct EngineMetrics:
    uint64_t generation
    double running                # requests
    double waiting                # requests
    double kv_usage               # share of the KV cache, 0 to 1
    double first_token_seconds    # mean of the last interval that had any, 0 when unknown
    double inter_token_seconds    # the same
    double prefix_hit_ratio       # of the last interval, 0 to 1
    double time                   # monotonic seconds of the scrape; 0 = never. Written last.
    double others                 # requests there that no worker of this gateway has sent: the fewer of the last two scrapes
    double seen_others            # the same, of the last scrape alone
    double kv_tokens              # that its KV cache holds; 0 when it does not say
    uint64_t computed             # tokens that it computed lately, whoever sent them, and when: see `pack_recent`

cdef struct LoadSum:
    int64_t in_flight
    int64_t prefill_tokens
    int64_t decode_tokens
    double spent_tokens
    double spent_seconds
    double recent_tokens          # tokens sent lately to be computed: prompts without what is cached, and answers; faded with their age
    double recent_requests        # faded as tokens are
    double prefill_since          # monotonic seconds at which the engine began what it prefills now, 0 when not known

cdef class Load:
    cdef SharedMemory memory
    cdef Slots slots
    cdef LoadCell* cells
    cdef EngineMetrics* metrics
    cdef uint64_t workers
    cdef uint64_t capacity
    cdef long own                 # row of this process, -1: it only reads

    cpdef object first_token(self, uint64_t slot, uint64_t generation, int64_t prefill_tokens, double now=*)
    cpdef object release(self, uint64_t slot, uint64_t generation, int64_t prefill_tokens, int64_t decode_tokens)
    cdef double computed(self, const EngineMetrics* metrics, double now) noexcept nogil
    cdef int charge_cell(self, uint64_t slot, uint64_t generation, int64_t prefill, int64_t decode, double now) noexcept nogil
    cdef LoadSum sum(self, uint64_t slot, uint64_t generation, double now) noexcept nogil
    cdef const EngineMetrics* fresh_metrics(self, uint64_t slot, uint64_t generation, double now, double stale_after) noexcept nogil
    cdef int _check(self, uint64_t slot) except -1
