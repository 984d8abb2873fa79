# The endpoints among which a decision chooses, and what it saw of each.
from libc.stdint cimport int64_t, uint32_t, uint64_t
from _fastpath.adapters cimport Affinity
from _fastpath.health cimport Outlier, Standing
from _fastpath.prefix_index cimport PoolPages

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
    cdef long due                 # position of the endpoint that this request should probe, -1 for none
    cdef readonly double kept_seconds      # for which engines keep what nobody uses, as of the last decision by text; 0 when not known
    cdef double untold            # what stands for the engines that do not say which adapters they have
    cdef double fewest_comers     # requests a second that are taken to come to each at the least
    cdef PoolPages pages
    cdef readonly Outlier outlier # None: no endpoint is ejected or warms up

    cdef int _adjust(self, adjustments) except -1
