from _fastpath.adapters cimport UNTOLD
from _fastpath.candidates cimport untold
from _fastpath.load cimport RECENT_SECONDS
from _fastpath.pool cimport CANDIDATE, Candidate
from _fastpath.random cimport mixed, share_of
from _fastpath.speed cimport speed

cdef double KV_COMFORT = 0.9                # share of KV cache in use above which preemptions begin
cdef double KV_PRESSURE_SECONDS = 10.0      # cost of a full KV cache over one at KV_COMFORT
cdef double CROWDING_WEIGHT = 6.0           # of what a request's prefill costs those that wait behind it
cdef double WAITING_WEIGHT = 1.6            # a second behind other prefills counts so much more while all endpoints are busy
cdef double EVENNESS_WEIGHT = 9.0          # of a prompt token to be computed where as much was sent lately as to the mean endpoint
cdef double SHARED_EVENNESS_WEIGHT = 2.0    # the same where most requests are other gateways'
cdef double EVEN_SECONDS = 12.0             # of prefill beside that mean: where little was sent to all, nobody is uneven
cdef double COMERS_WEIGHT = 0.8             # of those that come while a prompt is computed: the others go elsewhere, and do not wait for it
cdef double FEWEST_COMERS = 0.5             # of the mean endpoint's, that count at the least: no endpoint is left to long prompts alone
cdef double COMPANY_WEIGHT = 3.5            # of each that runs beside it: both are slowed, and so is whoever comes later
cdef double BIAS_WEIGHT = 0.7               # of a prompt token to be computed where a gateway among many has the largest bias
cdef double PATIENCE_SECONDS = 2.5          # each second until the first token costs one more for so many before it
cdef double MOST_CROWDED = 0.9              # share of busy endpoints that counts at the most
cdef double EQUAL_SPEED = 2.0               # endpoints that differ by less from the pool's mean are taken for equally fast

# So many times the seconds of loading an adapter pass before the request can run, by affinity. Who asks for what others wait for, or for
# what has to wait for another's end, waits for more than the loading: how long, no engine says.
cdef double[5] AFFINITY_LOADS
AFFINITY_LOADS[0], AFFINITY_LOADS[1], AFFINITY_LOADS[2], AFFINITY_LOADS[3], AFFINITY_LOADS[4] = 0, 0, 1, 1.5, 2


# Times that a prompt token to be computed counts. Whoever comes while an engine computes a prompt waits for it; of a queue that is busy
# for a share of the time, share / (1 - share) come before it is empty again. 1 when nobody has anything to compute.
cdef double _crowding(double busy) noexcept nogil:
    return 1 + CROWDING_WEIGHT * busy / (1 - min(busy, MOST_CROWDED))


# Share of the candidates that have prompts to compute.
cdef double _busy(Pool pool) noexcept nogil:
    cdef size_t i, candidates = 0, busy = 0
    for i in range(pool.count):
        if pool.candidates[i].reason == CANDIDATE:
            candidates += 1
            busy += pool.candidates[i].prefill_tokens > 0
    return <double>busy / candidates if candidates > 0 else 0.0


# The speed of each candidate. Measurements of equal engines differ by what each had to do, and whoever looks faster gets longer
# prompts, with which it looks faster still: so only what differs by more than EQUAL_SPEED from the pool's mean does so for us.
cdef void _measure(Pool pool, Policy policy) noexcept nogil:
    cdef size_t i
    cdef Candidate* c
    cdef double tokens = 0, seconds = 0, mean, ratio
    for i in range(pool.count):
        c = &pool.candidates[i]
        if c.reason == CANDIDATE:
            tokens += c.spent_tokens
            seconds += c.spent_seconds
    mean = speed(policy.prefill_tokens_per_second, tokens, seconds)
    for i in range(pool.count):
        c = &pool.candidates[i]
        ratio = speed(mean, c.spent_tokens, c.spent_seconds) / mean
        ratio = max(1.0, ratio / EQUAL_SPEED) if ratio > 1 else min(1.0, ratio * EQUAL_SPEED)
        c.prefill_tokens_per_second = mean * ratio


# How long each prefilled lately, instead of how many tokens it was sent, or says it computed where others send some too: the mean over
# the candidates. And how many requests a second came to each: as many are to come.
cdef double _look_back(Pool pool, bint is_shared) noexcept nogil:
    cdef size_t i, candidates = 0
    cdef Candidate* c
    cdef double total = 0, requests = 0
    for i in range(pool.count):
        c = &pool.candidates[i]
        if c.reason == CANDIDATE:
            c.requests *= 1.0 / RECENT_SECONDS
            requests += c.requests
            c.recent = (max(c.recent, c.computed) if is_shared else c.recent) / c.prefill_tokens_per_second
            total += c.recent
            candidates += 1
    pool.fewest_comers = FEWEST_COMERS * requests / candidates if candidates > 0 else 0.0
    return total / candidates if candidates > 0 else 0.0


# What others queue at an engine nobody tells us in time: gateways that see the same would all send what comes at one moment to the
# same engine. So each has likings of its own, and they count by the share of the requests that are others', which this returns.
cdef double _weigh_biases(Pool pool, uint64_t gateway) noexcept nogil:
    cdef size_t i
    cdef Candidate* c
    cdef double own = 0, others = 0
    for i in range(pool.count):
        own += pool.candidates[i].in_flight
        others += pool.candidates[i].others
    if others <= 0:
        return 0
    if pool.gateway != gateway:
        pool.gateway = gateway
        for i in range(pool.count):
            c = &pool.candidates[i]
            c.bias = share_of(mixed(gateway ^ mixed(c.identity)))
    return others / (own + others)


cdef void score_by_cost(Pool pool, Policy policy, size_t blocks, double prompt_tokens, double output_tokens, double now,
                        uint64_t gateway) noexcept nogil:
    cdef size_t i
    cdef Candidate* c
    cdef double uncached, own, seconds, slowness, sent, recent, busy = _busy(pool), foreign = _weigh_biases(pool, gateway)
    cdef double weight = _crowding(busy), waiting = 1 + WAITING_WEIGHT * busy, liking = BIAS_WEIGHT * foreign
    # what others send nobody says in time: who plans for what is to come plans for itself, as far as most of it is its own
    cdef double alone = max(0.0, (1 - 2 * foreign) / (1 - foreign)) if foreign < 1 else 0.0
    cdef double even = EVENNESS_WEIGHT * alone, shared = SHARED_EVENNESS_WEIGHT * (1 - alone)
    cdef double comers = COMERS_WEIGHT * alone / 2
    if pool.for_adapter:
        pool.untold = untold(pool, &AFFINITY_LOADS[0])
    _measure(pool, policy)
    recent = _look_back(pool, foreign > 0) + EVEN_SECONDS
    for i in range(pool.count):
        c = &pool.candidates[i]
        if c.reason != CANDIDATE:
            continue
        uncached = prompt_tokens
        if blocks > 0:
            uncached -= prompt_tokens * pool.matched[i] / blocks
        c.queue_seconds = c.prefill_tokens / c.prefill_tokens_per_second
        if c.prefill_since > 0:
            # an engine that is late is taken to be so again: whoever hangs looks worse with every second
            seconds = c.queue_seconds - max(0.0, now - c.prefill_since)
            c.queued_tokens = max(0.0, seconds) * c.prefill_tokens_per_second
            c.queue_seconds = abs(seconds)
        own = uncached / c.prefill_tokens_per_second
        sent = (c.recent + own) / recent
        # whoever comes meanwhile waits for half of it, so that long prompts go where few come: those others find it free
        c.prefill_seconds = own * (weight + sent * (even * sent + shared) + comers * max(c.requests, pool.fewest_comers) * own)
        if foreign > 0:
            c.prefill_seconds += own * liking * c.bias
        seconds = own + c.queue_seconds
        c.lateness_seconds = seconds * seconds / (2 * PATIENCE_SECONDS)
        c.queue_seconds *= waiting
        slowness = policy.prefill_tokens_per_second / c.prefill_tokens_per_second
        c.decode_seconds = COMPANY_WEIGHT * output_tokens * policy.decode_seconds_per_request * slowness * c.running
        c.memory_seconds = 0
        if c.kv_usage > KV_COMFORT:
            c.memory_seconds = (c.kv_usage - KV_COMFORT) / (1 - KV_COMFORT) * KV_PRESSURE_SECONDS
        c.adapter_seconds = 0
        if pool.for_adapter:
            c.adapter_seconds = policy.adapter_seconds * (
                pool.untold if c.affinity == UNTOLD else AFFINITY_LOADS[<int>c.affinity])
        c.score = -(c.queue_seconds + c.prefill_seconds + c.lateness_seconds + c.decode_seconds + c.memory_seconds
                    + c.adapter_seconds)
