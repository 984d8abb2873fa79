from libc.math cimport isnan

from _fastpath.adapters cimport LOADED, QUEUED, ROOM, TAKEN, UNTOLD
from _fastpath.health cimport DUE, Fitness, OUT, SERVING, STATE_BITS, WARMING
from _fastpath.load cimport EngineMetrics, LoadSum
from _fastpath.pool cimport CANDIDATE, EJECTED, EXCLUDED, FULL, GONE, LEFT_OUT, WAITING, WITHOUT_ADAPTER, WRONG_ROLE, Candidate
from _fastpath.speed cimport speed


# Prompts are computed in turn, and whoever comes next waits for those before it: an endpoint that has half of what it may is taken to be
# full already while it has prompts to compute for longer than the pool allows.
cdef bint _has_enough_to_compute(Pool pool, Policy policy, const Candidate* c, double now) noexcept nogil:
    cdef double seconds
    if 2 * c.in_flight < c.maximum_in_flight or c.maximum_in_flight <= 0:
        return False
    seconds = c.prefill_tokens / speed(policy.prefill_tokens_per_second, c.spent_tokens, c.spent_seconds)
    if c.prefill_since > 0:
        seconds -= max(0.0, now - c.prefill_since)
    return seconds > pool.prefill_seconds


# How each stands to the adapter that is asked for.
cdef void look_at_adapters(Pool pool, Adapters adapters, uint64_t adapter) noexcept nogil:
    cdef size_t i
    cdef Candidate* c
    for i in range(pool.count):
        c = &pool.candidates[i]
        c.affinity = adapters.affinity(c.slot, c.generation, adapter) if c.fresh else UNTOLD


# Where any candidate has the adapter, or room for it, those go that say that they have neither. Who does not say may have it.
cdef void leave_out_without_adapter(Pool pool) noexcept nogil:
    cdef size_t i, able = 0
    cdef Candidate* c
    for i in range(pool.count):
        c = &pool.candidates[i]
        able += c.reason == CANDIDATE and (c.affinity == LOADED or c.affinity == ROOM)
    if able == 0:
        return
    for i in range(pool.count):
        c = &pool.candidates[i]
        if c.reason == CANDIDATE and (c.affinity == QUEUED or c.affinity == TAKEN):
            c.reason = WITHOUT_ADAPTER
            if pool.due == <long>i:
                pool.due = -1


# The mean of the values of those candidates that say how they stand to the adapter: it stands for those that do not.
cdef double untold(Pool pool, const double* values) noexcept nogil:
    cdef size_t i, told = 0
    cdef double total = 0
    cdef Candidate* c
    for i in range(pool.count):
        c = &pool.candidates[i]
        if c.reason == CANDIDATE and c.affinity != UNTOLD:
            told += 1
            total += values[<int>c.affinity]
    return total / told if told > 0 else 0


# Takes out whom the caller does not want. Returns how many candidates there are.
cdef size_t leave_out(Pool pool, size_t candidates) noexcept nogil:
    cdef size_t i
    for i in range(pool.count):
        if pool.candidates[i].reason == CANDIDATE and isnan(pool.adjustments[i]):
            pool.candidates[i].reason = LEFT_OUT
            candidates -= 1
            if pool.due == <long>i:
                pool.due = -1
    return candidates


cdef void _stand(Pool pool, Health health, Candidate* c, double now) noexcept nogil:
    cdef Fitness fitness
    c.standing, c.share = SERVING, 1.0
    if health.words[c.slot] & STATE_BITS != 0:
        fitness = health.look(c.slot, c.generation, pool.outlier, now)
        c.standing, c.share = fitness.standing, fitness.share
        if c.standing == SERVING:
            health.settle(c.slot, c.generation)


# Who warms up seems to have as much more as its share is smaller than the largest of the pool: when all are new, nobody is.
cdef void _slow_down_warming(Pool pool) noexcept nogil:
    cdef size_t i
    cdef double largest = 0
    cdef Candidate* c
    for i in range(pool.count):
        c = &pool.candidates[i]
        if c.reason == CANDIDATE:
            largest = max(largest, c.share)
    for i in range(pool.count):
        c = &pool.candidates[i]
        if c.reason == CANDIDATE and c.standing == WARMING and c.share < largest:
            c.running = (c.running + 1) * largest / c.share - 1


# Takes out who failed lately; not when that is too much of the pool, and not when nobody else is left to ask. The first that may be
# probed is `due`, unless the request was sent elsewhere already: a retry shall succeed. Returns how many candidates there are.
cdef size_t _leave_out_ejected(Pool pool, Health health, uint32_t role, double now) noexcept nogil:
    cdef size_t i, of_role = 0, excluded = 0, ejected = 0, warming = 0, busy = 0, candidates = 0
    cdef bint too_many
    cdef Candidate* c
    for i in range(pool.count):
        c = &pool.candidates[i]
        if c.roles & role and c.reason != GONE:
            _stand(pool, health, c, now)
            of_role += 1
            ejected += c.standing >= OUT
            warming += c.standing == WARMING
            excluded += c.reason == EXCLUDED
            busy += c.reason == FULL or c.reason == WAITING
    too_many = ejected * 100.0 > pool.outlier.maximum_ejected_percent * of_role
    for i in range(pool.count):
        c = &pool.candidates[i]
        if c.reason != CANDIDATE:
            continue
        if c.standing < OUT or too_many:
            candidates += 1
        elif c.standing == DUE and excluded == 0 and pool.due < 0:
            pool.due = <long>i
            candidates += 1
        else:
            c.reason = EJECTED
    if candidates == 0 and busy == 0:
        for i in range(pool.count):
            c = &pool.candidates[i]
            if c.reason == EJECTED:
                c.reason = CANDIDATE
                candidates += 1
    if warming > 0:
        _slow_down_warming(pool)
    return candidates


# Fills in what is known of each endpoint and why it is no candidate. Endpoints that were not scraped lately are taken for the mean
# of those of its role that were: nobody is preferred for being unknown. Returns how many candidates there are.
cdef size_t look(Pool pool, Policy policy, Load loads, Health health, uint32_t role, double now) noexcept nogil:
    cdef size_t i, fresh = 0, candidates = 0
    cdef uint64_t seen = 0
    cdef const uint64_t* words = health.words if pool.outlier is not None else NULL
    cdef double running = 0, waiting = 0, kv_usage = 0, computed = 0
    cdef Candidate* c
    cdef const EngineMetrics* metrics
    cdef LoadSum load
    for i in range(pool.count):
        c = &pool.candidates[i]
        load = loads.sum(c.slot, c.generation, now)
        c.in_flight = load.in_flight
        c.prefill_tokens = load.prefill_tokens
        c.spent_tokens = load.spent_tokens
        c.spent_seconds = load.spent_seconds
        c.prefill_since = load.prefill_since
        c.recent = load.recent_tokens
        c.requests = load.recent_requests
        c.queued_tokens = c.prefill_tokens
        c.kv_tokens = 0
        c.others = 0
        c.computed = 0
        metrics = loads.fresh_metrics(c.slot, c.generation, now, policy.stale_after)
        c.fresh = metrics != NULL
        if metrics != NULL:
            c.waiting = metrics.waiting
            c.others = metrics.others
            c.running = c.in_flight + c.others
            c.kv_usage = metrics.kv_usage
            c.kv_tokens = metrics.kv_tokens
            c.computed = loads.computed(metrics, now)
            c.first_token = metrics.first_token_seconds
            c.inter_token = metrics.inter_token_seconds
            if c.roles & role:
                fresh += 1
                running += c.running
                waiting += c.waiting
                kv_usage += c.kv_usage
                computed += c.computed
    for i in range(pool.count):
        c = &pool.candidates[i]
        if not c.fresh:
            c.running = max(c.in_flight, running / fresh if fresh > 0 else 0.0)
            c.waiting = waiting / fresh if fresh > 0 else 0.0
            c.kv_usage = kv_usage / fresh if fresh > 0 else 0.0
            c.computed = computed / fresh if fresh > 0 else 0.0
            c.first_token = 0
            c.inter_token = 0
        if words != NULL:
            seen |= words[c.slot]
        if c.reason == EXCLUDED:
            continue
        if not c.roles & role:
            c.reason = WRONG_ROLE
        elif not loads.slots.is_current(c.slot, c.generation):
            c.reason = GONE
        elif c.maximum_in_flight > 0 and c.in_flight >= c.maximum_in_flight:
            c.reason = FULL
        elif pool.prefill_seconds > 0 and _has_enough_to_compute(pool, policy, c, now):
            c.reason = FULL
        elif policy.maximum_waiting > 0 and c.fresh and c.waiting >= policy.maximum_waiting:
            c.reason = WAITING
        else:
            c.reason = CANDIDATE
            candidates += 1
    pool.due = -1
    return candidates if seen & STATE_BITS == 0 else _leave_out_ejected(pool, health, role, now)
