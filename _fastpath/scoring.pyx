cimport cython
from libc.math cimport INFINITY, isnan
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memset

from _fastpath.hashing cimport BlockHashes
from _fastpath.load cimport EngineMetrics, LoadSum
from _fastpath.prefix_index cimport pool_pages_free, pool_pages_make

import secrets

REASONS = ("", "wrong_role", "excluded", "full", "waiting", "gone")
SCORES_BY_NAME = {"least-request": 0, "least-latency": 1, "kv-usage": 2, "prefix-cache": 3, "random": 4}

cdef double KV_COMFORT = 0.9                # share of KV cache in use above which preemptions begin
cdef double KV_PRESSURE_SECONDS = 10.0      # cost of a full KV cache over one at KV_COMFORT
cdef double TIE = 1e-9


@cython.final
cdef class Policy:
    def __init__(self, *, bint by_cost=True, weights=None, double stale_after=5.0, double maximum_waiting=0.0,
                 double prefill_tokens_per_second=8000.0, double decode_seconds_per_request=0.00035,
                 double latency_factor=0.5):
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
        self.stale_after = stale_after
        self.maximum_waiting = maximum_waiting
        self.prefill_tokens_per_second = prefill_tokens_per_second
        self.decode_seconds_per_request = decode_seconds_per_request
        self.latency_factor = latency_factor


@cython.final
cdef class Pool:
    def __cinit__(self):
        self.candidates = NULL
        self.matched = NULL
        memset(&self.pages, 0, sizeof(PoolPages))

    def __init__(self, endpoints):
        cdef size_t i
        cdef uint64_t* slots
        self.count = len(endpoints)
        self.candidates = <Candidate*>calloc(max(<size_t>1, self.count), sizeof(Candidate))
        self.matched = <uint32_t*>calloc(max(<size_t>1, self.count), sizeof(uint32_t))
        slots = <uint64_t*>malloc(max(<size_t>1, self.count) * sizeof(uint64_t))
        try:
            if self.candidates == NULL or self.matched == NULL or slots == NULL:
                raise MemoryError
            for i in range(self.count):
                slot, generation, roles, maximum_in_flight = endpoints[i]
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
        pool_pages_free(&self.pages)

    def __len__(self):
        return self.count


@cython.final
cdef class Scheduler:
    def __init__(self, SharedMemory memory not None, long row=-1, random_seed=None):
        self.memory = memory
        self.load = Load(memory, row)
        self.prefixes = PrefixIndex(memory)
        self.random_state = (secrets.randbits(64) if random_seed is None else random_seed) | 1

    # xorshift64*: Marsaglia 2003, Vigna 2016. Uniform in [0, 1).
    cdef double _random(self) noexcept nogil:
        self.random_state ^= self.random_state >> 12
        self.random_state ^= self.random_state << 25
        self.random_state ^= self.random_state >> 27
        return <double>((self.random_state * <uint64_t>2685821657736338717) >> 11) * (1.0 / 9007199254740992.0)

    # Fills in what is known of each endpoint and why it is no candidate. Endpoints that were not scraped lately are taken for the mean
    # of those of its role that were: nobody is preferred for being unknown. Returns how many candidates there are.
    cdef size_t _look(self, Pool pool, Policy policy, uint32_t role, double now) noexcept nogil:
        cdef size_t i, fresh = 0, candidates = 0
        cdef double running = 0, waiting = 0, kv_usage = 0
        cdef Candidate* c
        cdef const EngineMetrics* metrics
        cdef LoadSum load
        for i in range(pool.count):
            c = &pool.candidates[i]
            load = self.load.sum(c.slot, c.generation)
            c.in_flight = load.in_flight
            c.prefill_tokens = load.prefill_tokens
            metrics = self.load.fresh_metrics(c.slot, c.generation, now, policy.stale_after)
            c.fresh = metrics != NULL
            if metrics != NULL:
                c.waiting = metrics.waiting
                c.running = max(c.in_flight, metrics.running + metrics.waiting)
                c.kv_usage = metrics.kv_usage
                c.first_token = metrics.first_token_seconds
                c.inter_token = metrics.inter_token_seconds
                if c.roles & role:
                    fresh += 1
                    running += c.running
                    waiting += c.waiting
                    kv_usage += c.kv_usage
        for i in range(pool.count):
            c = &pool.candidates[i]
            if not c.fresh:
                c.running = max(c.in_flight, running / fresh if fresh > 0 else 0.0)
                c.waiting = waiting / fresh if fresh > 0 else 0.0
                c.kv_usage = kv_usage / fresh if fresh > 0 else 0.0
                c.first_token = 0
                c.inter_token = 0
            if c.reason == EXCLUDED:
                continue
            if not c.roles & role:
                c.reason = WRONG_ROLE
            elif not self.load.slots.is_current(c.slot, c.generation):
                c.reason = GONE
            elif c.maximum_in_flight > 0 and c.in_flight >= c.maximum_in_flight:
                c.reason = FULL
            elif policy.maximum_waiting > 0 and c.fresh and c.waiting >= policy.maximum_waiting:
                c.reason = WAITING
            else:
                c.reason = CANDIDATE
                candidates += 1
        return candidates

    cdef void _score_by_cost(self, Pool pool, Policy policy, size_t blocks, double prompt_tokens, double output_tokens) noexcept nogil:
        cdef size_t i
        cdef Candidate* c
        cdef double uncached, seconds
        for i in range(pool.count):
            c = &pool.candidates[i]
            if c.reason != CANDIDATE:
                continue
            uncached = prompt_tokens
            if blocks > 0:
                uncached -= prompt_tokens * pool.matched[i] / blocks
            seconds = (c.prefill_tokens + uncached) / policy.prefill_tokens_per_second
            # the request is slowed by each that runs beside it, and slows each of them as much
            seconds += 2 * output_tokens * policy.decode_seconds_per_request * c.running
            if c.kv_usage > KV_COMFORT:
                seconds += (c.kv_usage - KV_COMFORT) / (1 - KV_COMFORT) * KV_PRESSURE_SECONDS
            c.score = -seconds

    cdef void _score_by_weight(self, Pool pool, Policy policy, size_t blocks) noexcept nogil:
        cdef size_t i
        cdef Candidate* c
        cdef double most = 0, score, latency
        cdef double first_low = 0, first_high = 0, inter_low = 0, inter_high = 0
        cdef bint measured = False
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
        for i in range(pool.count):
            c = &pool.candidates[i]
            if c.reason != CANDIDATE:
                continue
            score = 0
            if policy.weights[LEAST_REQUEST] > 0:
                score += policy.weights[LEAST_REQUEST] * (100 * (most - c.running) / most if most > 0 else 100)
            if policy.weights[LEAST_LATENCY] > 0:
                latency = 50
                if c.first_token > 0 and c.inter_token > 0:
                    latency = policy.latency_factor * (
                        100 * (first_high - c.first_token) / (first_high - first_low) if first_high > first_low else 100)
                    latency += (1 - policy.latency_factor) * (
                        100 * (inter_high - c.inter_token) / (inter_high - inter_low) if inter_high > inter_low else 100)
                score += policy.weights[LEAST_LATENCY] * latency
            if policy.weights[KV_USAGE] > 0:
                score += policy.weights[KV_USAGE] * 100 * (1 - c.kv_usage)
            if policy.weights[PREFIX_CACHE] > 0 and blocks > 0:
                score += policy.weights[PREFIX_CACHE] * 100 * pool.matched[i] / blocks
            if policy.weights[RANDOM] > 0:
                score += policy.weights[RANDOM] * 100 * self._random()
            c.score = score

    # The best score; among equals one at random, each with the same chance (reservoir of one).
    cdef long _pick(self, Pool pool) noexcept nogil:
        cdef size_t i
        cdef long best = -1
        cdef double best_score = 0
        cdef uint64_t equals = 0
        cdef Candidate* c
        for i in range(pool.count):
            c = &pool.candidates[i]
            if c.reason != CANDIDATE:
                continue
            if isnan(c.score):
                c.score = -INFINITY
            if best < 0 or c.score > best_score + TIE:
                best = <long>i
                best_score = c.score
                equals = 1
            elif c.score >= best_score - TIE:
                equals += 1
                if self._random() * equals < 1:
                    best = <long>i
        return best

    cdef long _choose(self, Pool pool, Policy policy, const uint64_t* hashes, size_t blocks, double prompt_tokens,
                      double output_tokens, double now, uint32_t role) noexcept nogil:
        memset(pool.matched, 0, pool.count * sizeof(uint32_t))
        if self._look(pool, policy, role, now) == 0:
            return -1
        if blocks > 0:
            self.prefixes.match_pool(hashes, blocks, &pool.pages, pool.matched)
        if policy.by_cost:
            self._score_by_cost(pool, policy, blocks, prompt_tokens, output_tokens)
        else:
            self._score_by_weight(pool, policy, blocks)
        return self._pick(pool)

    # What is matched and was learned a moment ago is not learned again: most of a long prompt is not even looked at.
    cdef void _learn(self, const uint64_t* hashes, size_t blocks, size_t matched, uint64_t slot, uint32_t now) noexcept nogil:
        if matched > 0 and self.prefixes.is_fresh(hashes[matched - 1], slot, now):
            self.prefixes.learn_blocks(hashes + matched, blocks - matched, slot, now)
        else:
            self.prefixes.learn_blocks(hashes, blocks, slot, now)

    def decide(self, Pool pool not None, Policy policy not None, BlockHashes hashes, int64_t prompt_tokens,
               int64_t output_tokens, double now, uint32_t role=1, excluded=None, bint dry=False, bint learn=True):
        cdef size_t i, blocks = 0
        cdef const uint64_t* values = NULL
        cdef long chosen
        cdef int64_t uncached
        cdef Candidate* c
        if pool.highest_slot >= self.load.capacity:
            raise IndexError(f"slot {pool.highest_slot} of {self.load.capacity}: the pool was made for another shared memory")
        if hashes is not None:
            blocks = hashes.count
            values = hashes.values
        for i in range(pool.count):
            pool.candidates[i].reason = CANDIDATE
        if excluded:
            for i in excluded:
                if i < pool.count:
                    pool.candidates[i].reason = EXCLUDED
        chosen = self._choose(pool, policy, values, blocks, prompt_tokens, output_tokens, now, role)
        if chosen < 0:
            return None
        c = &pool.candidates[chosen]
        uncached = prompt_tokens
        if blocks > 0:
            uncached -= <int64_t>(<double>prompt_tokens * pool.matched[chosen] / blocks)
        if not dry:
            self.load._check(c.slot)
            self.load.charge_cell(c.slot, c.generation, uncached, output_tokens)
            if learn:
                self._learn(values, blocks, pool.matched[chosen], c.slot, <uint32_t>now)
        return (chosen, pool.matched[chosen], uncached)

    def release(self, Pool pool not None, size_t chosen, int64_t prefill_tokens, int64_t decode_tokens):
        if chosen >= pool.count:
            raise IndexError(f"endpoint {chosen} of {pool.count}")
        return self.load.release(pool.candidates[chosen].slot, pool.candidates[chosen].generation, prefill_tokens, decode_tokens)

    def first_token(self, Pool pool not None, size_t chosen, int64_t prefill_tokens):
        if chosen >= pool.count:
            raise IndexError(f"endpoint {chosen} of {pool.count}")
        return self.load.first_token(pool.candidates[chosen].slot, pool.candidates[chosen].generation, prefill_tokens)

    def explain(self, Pool pool not None):
        cdef size_t i
        cdef Candidate* c
        rows = []
        for i in range(pool.count):
            c = &pool.candidates[i]
            rows.append({
                "filtered": REASONS[c.reason],
                "score": c.score if c.reason == CANDIDATE else None,
                "matched_blocks": pool.matched[i],
                "in_flight": <int64_t>c.in_flight,
                "prefill_tokens": <int64_t>c.prefill_tokens,
                "running": c.running,
                "waiting": c.waiting,
                "kv_usage": c.kv_usage,
                "scraped": bool(c.fresh),
            })
        return rows

    def filtered(self, Pool pool not None):
        cdef size_t i
        counts = {}
        for i in range(pool.count):
            if pool.candidates[i].reason != CANDIDATE:
                reason = REASONS[pool.candidates[i].reason]
                counts[reason] = counts.get(reason, 0) + 1
        return counts
