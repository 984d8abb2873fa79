# The choice of an endpoint: filters, scores and the pick over all endpoints of a pool in one call, with the prefix match before and
# the charge of load and the learning of the prefix after.
from libc.stdint cimport int64_t, uint32_t, uint64_t
from _fastpath.adapters cimport Adapters, Affinity
from _fastpath.hashing cimport BlockHashes
from _fastpath.health cimport Health, Outlier, Standing
from _fastpath.load cimport Load
from _fastpath.prefix_index cimport PoolPages, PrefixIndex
from _fastpath.shared_memory cimport SharedMemory

cdef enum Reason:                 # why an endpoint is no candidate
    CANDIDATE = 0
    WRONG_ROLE
    EXCLUDED                      # tried already
    FULL                          # trafficPolicy.maxInFlight
    WAITING                       # the least-request filter
    GONE                          # its slot belongs to another endpoint by now
    EJECTED                       # it failed lately
    LEFT_OUT                      # by the caller
    WITHOUT_ADAPTER               # the lora-affinity filter

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

# What is known of one endpoint at the moment of choice.
cdef struct Candidate:
    uint64_t slot
    uint64_t generation
    uint64_t identity             # the same in every gateway
    int64_t maximum_in_flight     # 0 = no bound
    uint32_t roles                # bits
    uint32_t reason
    double in_flight
    double prefill_tokens
    double running                # the larger of what we sent and what the engine runs
    double waiting
    double kv_usage
    double first_token
    double inter_token
    double spent_tokens           # of the prefills that were measured
    double spent_seconds
    double prefill_tokens_per_second
    double prefill_since          # when what is prefilled there began, 0 when not known
    double recent                 # tokens sent there lately to be computed; once the speed is known, seconds of prefill
    double requests               # sent there lately; once they are looked back at, a second
    double computed               # tokens that it says it computed lately, whoever sent them
    double bias                   # of this gateway against it, 0 to 1: at random, and for good
    double kv_tokens              # that it holds, 0 when not known
    double others                 # requests there that this gateway did not send, as far as was told
    double queued_tokens          # prompt tokens that are still to be computed there
    double queue_seconds          # parts of the cost
    double prefill_seconds
    double lateness_seconds
    double decode_seconds
    double memory_seconds
    double adapter_seconds
    double score
    bint fresh                    # scraped lately
    Affinity affinity             # to the adapter that is asked for; only looked at when one is
    Standing standing             # this and the next are only looked at while any of the pool does not simply serve
    double share                  # of what others are given, while it warms up; else 1

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

cdef class Pool:
    cdef Candidate* candidates
    cdef uint32_t* matched        # blocks from the first that each holds
    cdef double* adjustments      # what the caller adds to each score, NaN leaves out; NULL: nothing
    cdef size_t count
    cdef uint64_t highest_slot
    cdef readonly double prefill_seconds   # of prompts to compute, with more of which an endpoint is full; 0 = no bound
    cdef uint64_t gateway         # whose biases the candidates have
    cdef bint by_cost             # how the last decision scored
    cdef bint for_adapter         # whether it was for a request with an adapter
    cdef double untold            # what stands for the engines that do not say which adapters they have
    cdef double fewest_comers     # requests a second that are taken to come to each at the least
    cdef PoolPages pages
    cdef readonly Outlier outlier # None: no endpoint is ejected or warms up

    cdef int _adjust(self, adjustments) except -1

cdef class Scheduler:
    cdef SharedMemory memory
    cdef readonly Load load
    cdef readonly PrefixIndex prefixes
    cdef readonly Adapters adapters
    cdef readonly uint32_t matched_blocks # of the last decision, at the endpoint that it chose
    cdef readonly int64_t uncached_tokens # prompt tokens that were charged there
    cdef readonly int64_t queued_tokens   # prompt tokens that were still to be computed where the last decision went
    cdef readonly double prefill_seconds  # that it and what was queued before it were expected to take there
    cdef readonly uint32_t matched_at     # second in which the last block that was matched there had been learned, 0 for none
    cdef readonly Health health
    cdef readonly uint64_t probe  # token of the probe that the last decision claimed, else 0
    cdef uint64_t random_state
    cdef readonly uint64_t gateway        # what this gateway's biases come from
    cdef uint32_t oldest          # seconds at which a block must have been learned to count in the last decision
    cdef long due                 # position of the endpoint that this request should probe, -1 for none

    cpdef long choose(self, Pool pool, Policy policy, BlockHashes hashes, int64_t prompt_tokens, int64_t output_tokens, double now,
                      uint32_t role, excluded, bint dry, uint64_t session, bint learn, uint64_t adapter, adjustments) except -2
    cpdef object prefilled(self, Pool pool, size_t chosen, double tokens, double seconds)
    cpdef object release(self, Pool pool, size_t chosen, int64_t prefill_tokens, int64_t decode_tokens)
    cpdef object first_token(self, Pool pool, size_t chosen, int64_t prefill_tokens, double now=*)
    cdef double _random(self) noexcept nogil
    cdef size_t _leave_out(self, Pool pool, size_t candidates) noexcept nogil
    cdef double _busy(self, Pool pool) noexcept nogil
    cdef uint32_t _oldest(self, Pool pool, double now) noexcept nogil
    cdef double _look_back(self, Pool pool, bint is_shared) noexcept nogil
    cdef double _weigh_biases(self, Pool pool) noexcept nogil
    cdef void _measure(self, Pool pool, Policy policy) noexcept nogil
    cdef size_t _look(self, Pool pool, Policy policy, uint32_t role, double now) noexcept nogil
    cdef void _stand(self, Pool pool, Candidate* c, double now) noexcept nogil
    cdef size_t _leave_out_ejected(self, Pool pool, uint32_t role, double now) noexcept nogil
    cdef void _slow_down_warming(self, Pool pool) noexcept nogil
    cdef void _score_by_cost(self, Pool pool, Policy policy, size_t blocks, double prompt_tokens, double output_tokens,
                             double now) noexcept nogil
    cdef void _score_by_weight(self, Pool pool, Policy policy, size_t blocks, uint64_t session, bint by_token) noexcept nogil
    cdef void _look_at_adapters(self, Pool pool, uint64_t adapter) noexcept nogil
    cdef void _leave_out_without_adapter(self, Pool pool) noexcept nogil
    cdef double _untold(self, Pool pool, const double* values) noexcept nogil
    cdef long _session_owner(self, Pool pool, Policy policy, uint64_t session) noexcept nogil
    cdef long _pick(self, Pool pool) noexcept nogil
    cdef long _pick_and_claim(self, Pool pool, long chosen, double now) noexcept nogil
    cdef void _learn(self, const uint64_t* hashes, size_t blocks, size_t matched, uint64_t slot, uint32_t now) noexcept nogil
    cdef long _choose(self, Pool pool, Policy policy, const uint64_t* hashes, size_t blocks, double prompt_tokens,
                      double output_tokens, double now, uint32_t role, uint64_t session, bint by_token,
                      uint64_t adapter) noexcept nogil
