from _fastpath.adapters cimport UNTOLD
from _fastpath.candidates cimport untold
from _fastpath.policy cimport KVCACHE_AWARE, KV_USAGE, LEAST_LATENCY, LEAST_REQUEST, LORA_AFFINITY, PREFIX_CACHE, RANDOM, SESSION
from _fastpath.pool cimport CANDIDATE, Candidate
from _fastpath.random cimport mixed, uniform

cdef double[5] AFFINITY_SCORES              # of lora-affinity, by affinity
AFFINITY_SCORES[0], AFFINITY_SCORES[1], AFFINITY_SCORES[2], AFFINITY_SCORES[3], AFFINITY_SCORES[4] = 0, 100, 80, 60, 0


# Share of the first `most` blocks (0: of all) that are matched.
cdef double _share(size_t matched, size_t blocks, size_t most) noexcept nogil:
    if most > 0:
        blocks, matched = min(blocks, most), min(matched, most)
    return <double>matched / blocks


# Rendezvous hashing (Thaler, Ravishankar 1998) with bounded load (Mirrokni, Thorup, Zadimoghaddam 2018): every gateway ranks the
# endpoints alike for a session; the first that has no more than its share of the requests in flight, and a bit, owns it.
cdef long _session_owner(Pool pool, Policy policy, uint64_t session) noexcept nogil:
    cdef size_t i, candidates = 0
    cdef double in_flight = 1, bound
    cdef uint64_t rank, best = 0
    cdef long owner = -1
    cdef Candidate* c
    for i in range(pool.count):
        if pool.candidates[i].reason == CANDIDATE:
            candidates += 1
            in_flight += pool.candidates[i].in_flight
    if candidates == 0:
        return -1
    bound = policy.session_bound * in_flight / candidates
    for i in range(pool.count):
        c = &pool.candidates[i]
        if c.reason != CANDIDATE or c.in_flight >= max(1.0, bound):
            continue
        rank = mixed(session ^ mixed(c.identity))
        if owner < 0 or rank > best:
            best = rank
            owner = <long>i
    return owner


cdef void score_by_weight(Pool pool, Policy policy, size_t blocks, uint64_t session, bint by_token,
                          uint64_t* random_state) noexcept nogil:
    cdef size_t i
    cdef long owner = -1
    cdef Candidate* c
    cdef double most = 0, score, latency, by_load, by_first, by_inter
    cdef double first_low = 0, first_high = 0, inter_low = 0, inter_high = 0
    cdef bint measured = False
    if policy.weights[SESSION] > 0 and session != 0:
        owner = _session_owner(pool, policy, session)
    for i in range(pool.count):
        c = &pool.candidates[i]
        if c.reason != CANDIDATE:
            continue
        most = max(most, c.running)
        if c.first_token > 0 and c.inter_token > 0:
            if not measured:
                first_low = first_high = c.first_token
                inter_low = inter_high = c.inter_token
                measured = True
            first_low = min(first_low, c.first_token)
            first_high = max(first_high, c.first_token)
            inter_low = min(inter_low, c.inter_token)
            inter_high = max(inter_high, c.inter_token)
    by_load = 100 / most if most > 0 else 0.0
    by_first = 100 / (first_high - first_low) if first_high > first_low else 0.0
    by_inter = 100 / (inter_high - inter_low) if inter_high > inter_low else 0.0
    if pool.for_adapter:
        pool.untold = untold(pool, &AFFINITY_SCORES[0])
    for i in range(pool.count):
        c = &pool.candidates[i]
        if c.reason != CANDIDATE:
            continue
        score = 0
        if policy.weights[LEAST_REQUEST] > 0:
            score += policy.weights[LEAST_REQUEST] * ((most - c.running) * by_load if most > 0 else 100)
        if policy.weights[LEAST_LATENCY] > 0:
            latency = 50
            if c.first_token > 0 and c.inter_token > 0:
                latency = policy.latency_factor * ((first_high - c.first_token) * by_first if by_first > 0 else 100)
                latency += (1 - policy.latency_factor) * ((inter_high - c.inter_token) * by_inter if by_inter > 0 else 100)
            score += policy.weights[LEAST_LATENCY] * latency
        if policy.weights[KV_USAGE] > 0:
            score += policy.weights[KV_USAGE] * 100 * (1 - c.kv_usage)
        if policy.weights[PREFIX_CACHE] > 0 and blocks > 0:
            score += policy.weights[PREFIX_CACHE] * 100 * _share(pool.matched[i], blocks, policy.prefix_blocks)
        if policy.weights[KVCACHE_AWARE] > 0 and blocks > 0 and by_token:
            score += policy.weights[KVCACHE_AWARE] * 100 * _share(pool.matched[i], blocks, policy.kvcache_blocks)
        if policy.weights[LORA_AFFINITY] > 0 and pool.for_adapter:
            score += policy.weights[LORA_AFFINITY] * (
                pool.untold if c.affinity == UNTOLD else AFFINITY_SCORES[<int>c.affinity])
        if owner == <long>i:
            score += policy.weights[SESSION] * 100
        if policy.weights[RANDOM] > 0:
            score += policy.weights[RANDOM] * 100 * uniform(random_state)
        c.score = score
