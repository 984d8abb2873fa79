cimport cython
from libc.math cimport INFINITY, isnan
from libc.string cimport memset

from _fastpath.candidates cimport leave_out, leave_out_without_adapter, look, look_at_adapters
from _fastpath.cost cimport score_by_cost
from _fastpath.load cimport RECENT_SECONDS
from _fastpath.pool cimport CANDIDATE, EJECTED, EXCLUDED, GONE, Candidate
from _fastpath.prefix_index cimport FRESH_SECONDS
from _fastpath.random cimport mixed, uniform
from _fastpath.speed cimport speed
from _fastpath.weighted cimport score_by_weight

import secrets

cdef double TIE = 1e-9


# Engines forget what nobody used for as long as it takes to fill their caches: who has new prompts for the pool's caches in so many
# seconds finds nothing there that is older. Requests of other gateways fill them too, in proportion. 0 where no engine says what it
# holds: then everything counts, as the index keeps it.
cdef double _kept_seconds(Pool pool) noexcept nogil:
    cdef size_t i
    cdef Candidate* c
    cdef double held = 0, sent = 0, computed = 0, others = 0, own = 0
    for i in range(pool.count):
        c = &pool.candidates[i]
        if c.kv_tokens > 0 and c.reason != GONE:
            held += c.kv_tokens
            sent += c.recent
            computed += c.computed
            others += c.others
            own += c.in_flight
    if own > 0:
        sent *= 1 + others / own
    sent = max(sent, computed)
    return held * RECENT_SECONDS / sent if held > 0 and sent > 0 else 0.0


# Second since when a block must have been learned to count, 0 for ever.
cdef uint32_t _oldest(Pool pool, double now) noexcept nogil:
    return <uint32_t>(now - pool.kept_seconds) if 0 < pool.kept_seconds < now else 0


@cython.final
cdef class Scheduler:
    def __init__(self, SharedMemory memory not None, long row=-1, random_seed=None):
        self.memory = memory
        self.load = Load(memory, row)
        self.prefixes = PrefixIndex(memory)
        self.adapters = Adapters(memory)
        self.health = Health(memory, row)
        self.random_state = mixed(secrets.randbits(64) if random_seed is None else random_seed) | 1
        self.gateway = mixed(memory.header.hash_key_low if random_seed is None else random_seed) | 1

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
                if uniform(&self.random_state) * equals < 1:
                    best = <long>i
        return best

    # Who is to be probed is asked by one request alone; who comes too late takes the best of the others.
    cdef long _pick_and_claim(self, Pool pool, long chosen, double now) noexcept nogil:
        if chosen != pool.due:
            return chosen
        self.probe = self.health.claim_probe(pool.candidates[chosen].slot, pool.candidates[chosen].generation, pool.outlier, now)
        if self.probe != 0:
            return chosen
        pool.candidates[chosen].reason = EJECTED
        return self._pick(pool)

    cdef long _choose(self, Pool pool, Policy policy, const uint64_t* hashes, size_t blocks, double prompt_tokens,
                      double output_tokens, double now, uint32_t role, uint64_t session, bint by_token,
                      uint64_t adapter) noexcept nogil:
        cdef size_t i
        memset(pool.matched, 0, pool.count * sizeof(uint32_t))
        cdef size_t candidates = look(pool, policy, self.load, self.health, role, now)
        if pool.adjustments != NULL:
            candidates = leave_out(pool, candidates)
        if candidates == 0:
            return -1
        pool.for_adapter = adapter != 0
        if pool.for_adapter:
            look_at_adapters(pool, self.adapters, adapter)
            if policy.adapter_filter:
                leave_out_without_adapter(pool)
        if blocks > 0:
            pool.kept_seconds = 0 if by_token else _kept_seconds(pool)
            self.oldest = _oldest(pool, now)
            self.prefixes.match_pool(hashes, blocks, &pool.pages, pool.matched, self.oldest)
        pool.by_cost = policy.by_cost
        if policy.by_cost:
            score_by_cost(pool, policy, blocks, prompt_tokens, output_tokens, now, self.gateway)
        else:
            score_by_weight(pool, policy, blocks, session, by_token, &self.random_state)
        if pool.adjustments != NULL:
            for i in range(pool.count):
                pool.candidates[i].score += pool.adjustments[i]
        return pool.due if pool.due >= 0 else self._pick(pool)

    # What is matched and was learned a moment ago is not learned again: most of a long prompt is not even looked at.
    cdef void _learn(self, const uint64_t* hashes, size_t blocks, size_t matched, uint64_t slot, uint32_t now) noexcept nogil:
        if matched > 0:
            self.matched_at = self.prefixes.learned_at(hashes[matched - 1], slot)
        if self.matched_at > 0 and <uint32_t>(now - self.matched_at) < FRESH_SECONDS:
            self.prefixes.learn_blocks(hashes + matched, blocks - matched, slot, now, self.oldest)
        else:
            self.prefixes.learn_blocks(hashes, blocks, slot, now, self.oldest)

    def decide(self, Pool pool, Policy policy, BlockHashes hashes, int64_t prompt_tokens, int64_t output_tokens, double now,
               uint32_t role=1, excluded=None, bint dry=False, uint64_t session=0, bint learn=True, uint64_t adapter=0,
               adjustments=None):
        cdef long chosen = self.choose(pool, policy, hashes, prompt_tokens, output_tokens, now, role, excluded, dry, session, learn,
                                       adapter, adjustments)
        return (chosen, self.matched_blocks, self.uncached_tokens) if chosen >= 0 else None

    cpdef long choose(self, Pool pool, Policy policy, BlockHashes hashes, int64_t prompt_tokens, int64_t output_tokens, double now,
                      uint32_t role, excluded, bint dry, uint64_t session, bint learn, uint64_t adapter, adjustments) except -2:
        if pool is None or policy is None:
            raise TypeError("pool and policy must be there")
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
        if adjustments is not None or pool.adjustments != NULL:
            pool._adjust(adjustments)
        self.probe = 0
        self.matched_at = 0
        chosen = self._choose(pool, policy, values, blocks, prompt_tokens, output_tokens, now, role, session, not learn, adapter)
        if chosen >= 0 and not dry:
            chosen = self._pick_and_claim(pool, chosen, now)
        if chosen < 0:
            return -1
        c = &pool.candidates[chosen]
        uncached = prompt_tokens
        if blocks > 0:
            uncached -= <int64_t>(<double>prompt_tokens * pool.matched[chosen] / blocks)
        self.matched_blocks = pool.matched[chosen]
        self.uncached_tokens = uncached
        self.queued_tokens = <int64_t>c.queued_tokens
        self.prefill_seconds = (c.queued_tokens + uncached) / speed(policy.prefill_tokens_per_second, c.spent_tokens, c.spent_seconds)
        if not dry:
            self.load._check(c.slot)
            self.load.charge_cell(c.slot, c.generation, uncached, output_tokens, now)
            if learn:
                self._learn(values, blocks, pool.matched[chosen], c.slot, <uint32_t>now)
        return chosen

    cdef Candidate* _at(self, Pool pool, size_t position) except NULL:
        if pool is None:
            raise TypeError("pool must be there")
        if position >= pool.count:
            raise IndexError(f"endpoint {position} of {pool.count}")
        return &pool.candidates[position]

    # An engine holds the blocks of a request until its end, and counts their age from there.
    cpdef bint refresh(self, Pool pool, size_t chosen, BlockHashes hashes, double sent, double now) except -1:
        cdef Candidate* c = self._at(pool, chosen)
        if hashes is None:
            raise TypeError("hashes must be there")
        if now - sent < FRESH_SECONDS or not self.load.slots.is_current(c.slot, c.generation):
            return False
        self.prefixes.learn_blocks(hashes.values, hashes.count, c.slot, <uint32_t>now, _oldest(pool, now))
        return True

    cpdef object release(self, Pool pool, size_t chosen, int64_t prefill_tokens, int64_t decode_tokens):
        cdef Candidate* c = self._at(pool, chosen)
        return self.load.release(c.slot, c.generation, prefill_tokens, decode_tokens)

    cpdef object first_token(self, Pool pool, size_t chosen, int64_t prefill_tokens, double now=0.0):
        cdef Candidate* c = self._at(pool, chosen)
        return self.load.first_token(c.slot, c.generation, prefill_tokens, now)

    cpdef object prefilled(self, Pool pool, size_t chosen, double tokens, double seconds):
        cdef Candidate* c = self._at(pool, chosen)
        return self.load.prefilled(c.slot, c.generation, tokens, seconds)
