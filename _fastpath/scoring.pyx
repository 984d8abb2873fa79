cimport cython
from libc.math cimport INFINITY, isnan
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memset

from _fastpath.adapters cimport LOADED, QUEUED, ROOM, TAKEN, UNTOLD, Adapters
from _fastpath.hashing cimport BlockHashes
from _fastpath.health cimport DUE, Fitness, OUT, SERVING, STATE_BITS, WARMING
from _fastpath.load cimport RECENT_SECONDS, EngineMetrics, LoadSum
from _fastpath.prefix_index cimport FRESH_SECONDS, pool_pages_free, pool_pages_make

import secrets

from _fastpath.adapters import AFFINITIES as _AFFINITIES

REASONS = ("", "wrong_role", "excluded", "full", "waiting", "gone", "ejected", "left_out", "without_adapter")
SCORES_BY_NAME = {"least-request": 0, "least-latency": 1, "kv-usage": 2, "prefix-cache": 3, "random": 4, "session": 5,
                  "kvcache-aware": 6, "lora-affinity": 7}

cdef double KV_COMFORT = 0.9                # share of KV cache in use above which preemptions begin
cdef double KV_PRESSURE_SECONDS = 10.0      # cost of a full KV cache over one at KV_COMFORT
cdef double TIE = 1e-9
cdef double CROWDING_WEIGHT = 6.0           # of what a request's prefill costs those that wait behind it
cdef double WAITING_WEIGHT = 2.0            # a second behind other prefills counts so much more while all endpoints are busy
cdef double EVENNESS_WEIGHT = 12.0          # of a prompt token to be computed where as much was sent lately as to the mean endpoint
cdef double SHARED_EVENNESS_WEIGHT = 2.0    # the same where most requests are other gateways'
cdef double EVEN_SECONDS = 12.0             # of prefill beside that mean: where little was sent to all, nobody is uneven
cdef double COMERS_WEIGHT = 0.8             # of those that come while a prompt is computed: the others go elsewhere, and do not wait for it
cdef double FEWEST_COMERS = 0.5             # of the mean endpoint's, that count at the least: no endpoint is left to long prompts alone
cdef double COMPANY_WEIGHT = 5.0            # of each that runs beside it: both are slowed, and so is whoever comes later
cdef double BIAS_WEIGHT = 0.7               # of a prompt token to be computed where a gateway among many has the largest bias
cdef double PATIENCE_SECONDS = 2.5          # each second until the first token costs one more for so many before it
cdef double MOST_CROWDED = 0.9              # share of busy endpoints that counts at the most
cdef double KEPT_LONGER = 1.1               # an engine counts the age of a block from the end of its request, we from the beginning
cdef double PRIOR_SECONDS = 0.1             # so many seconds of prefill at the expected speed stand beside what was measured
cdef double EQUAL_SPEED = 2.0               # endpoints that differ by less from the pool's mean are taken for equally fast
cdef double SPEED_RANGE = 1000.0            # an endpoint is taken for so many times faster or slower than the policy says, at the most

# By affinity: the score of lora-affinity, and so many times the seconds of loading an adapter pass before the request can run. Who asks
# for what others wait for, or for what has to wait for another's end, waits for more than the loading: how long, no engine says.
cdef double[5] AFFINITY_SCORES
cdef double[5] AFFINITY_LOADS
AFFINITY_SCORES[0], AFFINITY_SCORES[1], AFFINITY_SCORES[2], AFFINITY_SCORES[3], AFFINITY_SCORES[4] = 0, 100, 80, 60, 0
AFFINITY_LOADS[0], AFFINITY_LOADS[1], AFFINITY_LOADS[2], AFFINITY_LOADS[3], AFFINITY_LOADS[4] = 0, 0, 1, 1.5, 2


# Share of the first `most` blocks (0: of all) that are matched.
cdef double _share(size_t matched, size_t blocks, size_t most) noexcept nogil:
    if most > 0:
        blocks, matched = min(blocks, most), min(matched, most)
    return <double>matched / blocks


# Finalizer of MurmurHash3 (Appleby, public domain): every bit of the word moves every other.
cdef uint64_t _mixed(uint64_t word) noexcept nogil:
    word = (word ^ (word >> 33)) * <uint64_t>0xFF51AFD7ED558CCD
    word = (word ^ (word >> 33)) * <uint64_t>0xC4CEB9FE1A85EC53
    return word ^ (word >> 33)


# Prompt tokens a second: what was measured, drawn toward what was expected by as much as PRIOR_SECONDS are of it.
cdef double _speed(double expected, double tokens, double seconds) noexcept nogil:
    cdef double speed = (expected * PRIOR_SECONDS + tokens) / (PRIOR_SECONDS + seconds)
    if not speed < expected * SPEED_RANGE:
        return expected * SPEED_RANGE
    return max(speed, expected / SPEED_RANGE)


# Times that a prompt token to be computed counts. Whoever comes while an engine computes a prompt waits for it; of a queue that is busy
# for a share of the time, share / (1 - share) come before it is empty again. 1 when nobody has anything to compute.
cdef double _crowding(double busy) noexcept nogil:
    return 1 + CROWDING_WEIGHT * busy / (1 - min(busy, MOST_CROWDED))


@cython.final
cdef class Policy:
    def __init__(self, *, bint by_cost=True, weights=None, double stale_after=5.0, double maximum_waiting=0.0,
                 double prefill_tokens_per_second=8000.0, double decode_seconds_per_request=0.00035,
                 double latency_factor=0.5, double session_bound=1.25, double adapter_seconds=0.5,
                 uint32_t prefix_blocks=0, uint32_t kvcache_blocks=0, bint adapter_filter=False):
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
        if not 1 <= session_bound < INFINITY:
            raise ValueError("session_bound must be 1 or above")
        if not 0 <= adapter_seconds < INFINITY:
            raise ValueError("adapter_seconds must be 0 or above")
        if not 0 <= latency_factor <= 1:
            raise ValueError("latency_factor must be 0 to 1")
        self.session_bound = session_bound
        self.adapter_seconds = adapter_seconds
        self.prefix_blocks = prefix_blocks
        self.kvcache_blocks = kvcache_blocks
        self.adapter_filter = adapter_filter
        self.stale_after = stale_after
        self.maximum_waiting = maximum_waiting
        self.prefill_tokens_per_second = prefill_tokens_per_second
        self.decode_seconds_per_request = decode_seconds_per_request
        self.latency_factor = latency_factor


# Prompts are computed in turn, and whoever comes next waits for those before it: an endpoint that has half of what it may is taken to be
# full already while it has prompts to compute for longer than the pool allows.
cdef bint _has_enough_to_compute(Pool pool, Policy policy, const Candidate* c, double now) noexcept nogil:
    cdef double seconds
    if 2 * c.in_flight < c.maximum_in_flight or c.maximum_in_flight <= 0:
        return False
    seconds = c.prefill_tokens / _speed(policy.prefill_tokens_per_second, c.spent_tokens, c.spent_seconds)
    if c.prefill_since > 0:
        seconds -= max(0.0, now - c.prefill_since)
    return seconds > pool.prefill_seconds


@cython.final
cdef class Pool:
    def __cinit__(self):
        self.candidates = NULL
        self.matched = NULL
        self.adjustments = NULL
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


@cython.final
cdef class Scheduler:
    def __init__(self, SharedMemory memory not None, long row=-1, random_seed=None):
        self.memory = memory
        self.load = Load(memory, row)
        self.prefixes = PrefixIndex(memory)
        self.adapters = Adapters(memory)
        self.health = Health(memory, row)
        self.due = -1
        self.random_state = _mixed(secrets.randbits(64) if random_seed is None else random_seed) | 1
        self.gateway = _mixed(memory.header.hash_key_low if random_seed is None else random_seed) | 1

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
        cdef uint64_t seen = 0
        cdef const uint64_t* words = self.health.words if pool.outlier is not None else NULL
        cdef double running = 0, waiting = 0, kv_usage = 0, computed = 0
        cdef Candidate* c
        cdef const EngineMetrics* metrics
        cdef LoadSum load
        for i in range(pool.count):
            c = &pool.candidates[i]
            load = self.load.sum(c.slot, c.generation, now)
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
            metrics = self.load.fresh_metrics(c.slot, c.generation, now, policy.stale_after)
            c.fresh = metrics != NULL
            if metrics != NULL:
                c.waiting = metrics.waiting
                c.others = metrics.others
                c.running = c.in_flight + c.others
                c.kv_usage = metrics.kv_usage
                c.kv_tokens = metrics.kv_tokens
                c.computed = self.load.computed(metrics, now)
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
            elif not self.load.slots.is_current(c.slot, c.generation):
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
        self.due = -1
        return candidates if seen & STATE_BITS == 0 else self._leave_out_ejected(pool, role, now)

    cdef void _stand(self, Pool pool, Candidate* c, double now) noexcept nogil:
        cdef Fitness fitness
        c.standing, c.share = SERVING, 1.0
        if self.health.words[c.slot] & STATE_BITS != 0:
            fitness = self.health.look(c.slot, c.generation, pool.outlier, now)
            c.standing, c.share = fitness.standing, fitness.share
            if c.standing == SERVING:
                self.health.settle(c.slot, c.generation)

    # Takes out who failed lately; not when that is too much of the pool, and not when nobody else is left to ask. The first that may be
    # probed is `due`, unless the request was sent elsewhere already: a retry shall succeed. Returns how many candidates there are.
    cdef size_t _leave_out_ejected(self, Pool pool, uint32_t role, double now) noexcept nogil:
        cdef size_t i, of_role = 0, excluded = 0, ejected = 0, warming = 0, busy = 0, candidates = 0
        cdef bint too_many
        cdef Candidate* c
        for i in range(pool.count):
            c = &pool.candidates[i]
            if c.roles & role and c.reason != GONE:
                self._stand(pool, c, now)
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
            elif c.standing == DUE and excluded == 0 and self.due < 0:
                self.due = <long>i
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
            self._slow_down_warming(pool)
        return candidates

    # Who warms up seems to have as much more as its share is smaller than the largest of the pool: when all are new, nobody is.
    cdef void _slow_down_warming(self, Pool pool) noexcept nogil:
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

    # How each stands to the adapter that is asked for.
    cdef void _look_at_adapters(self, Pool pool, uint64_t adapter) noexcept nogil:
        cdef size_t i
        cdef Candidate* c
        for i in range(pool.count):
            c = &pool.candidates[i]
            c.affinity = self.adapters.affinity(c.slot, c.generation, adapter) if c.fresh else UNTOLD

    # Where any candidate has the adapter, or room for it, those go that say that they have neither. Who does not say may have it.
    cdef void _leave_out_without_adapter(self, Pool pool) noexcept nogil:
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
                if self.due == <long>i:
                    self.due = -1

    # The mean of the values of those candidates that say how they stand to the adapter: it stands for those that do not.
    cdef double _untold(self, Pool pool, const double* values) noexcept nogil:
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
    cdef size_t _leave_out(self, Pool pool, size_t candidates) noexcept nogil:
        cdef size_t i
        for i in range(pool.count):
            if pool.candidates[i].reason == CANDIDATE and isnan(pool.adjustments[i]):
                pool.candidates[i].reason = LEFT_OUT
                candidates -= 1
                if self.due == <long>i:
                    self.due = -1
        return candidates

    # Share of the candidates that have prompts to compute.
    cdef double _busy(self, Pool pool) noexcept nogil:
        cdef size_t i, candidates = 0, busy = 0
        for i in range(pool.count):
            if pool.candidates[i].reason == CANDIDATE:
                candidates += 1
                busy += pool.candidates[i].prefill_tokens > 0
        return <double>busy / candidates if candidates > 0 else 0.0

    # The speed of each candidate. Measurements of equal engines differ by what each had to do, and whoever looks faster gets longer
    # prompts, with which it looks faster still: so only what differs by more than EQUAL_SPEED from the pool's mean does so for us.
    cdef void _measure(self, Pool pool, Policy policy) noexcept nogil:
        cdef size_t i
        cdef Candidate* c
        cdef double tokens = 0, seconds = 0, mean, ratio
        for i in range(pool.count):
            c = &pool.candidates[i]
            if c.reason == CANDIDATE:
                tokens += c.spent_tokens
                seconds += c.spent_seconds
        mean = _speed(policy.prefill_tokens_per_second, tokens, seconds)
        for i in range(pool.count):
            c = &pool.candidates[i]
            ratio = _speed(mean, c.spent_tokens, c.spent_seconds) / mean
            ratio = max(1.0, ratio / EQUAL_SPEED) if ratio > 1 else min(1.0, ratio * EQUAL_SPEED)
            c.prefill_tokens_per_second = mean * ratio

    # Engines forget what nobody used for as long as it takes to fill their caches: who has new prompts for the pool's caches in so many
    # seconds finds nothing there that is older. Requests of other gateways fill them too, in proportion. 0 where no engine says what it
    # holds: then everything counts, as the index keeps it.
    cdef uint32_t _oldest(self, Pool pool, double now) noexcept nogil:
        cdef size_t i
        cdef Candidate* c
        cdef double held = 0, sent = 0, computed = 0, others = 0, own = 0, kept
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
        if held <= 0 or sent <= 0:
            return 0
        kept = KEPT_LONGER * held * RECENT_SECONDS / sent
        return <uint32_t>(now - kept) if kept < now else 0

    # How long each prefilled lately, instead of how many tokens it was sent, or says it computed where others send some too: the mean over
    # the candidates. And how many requests a second came to each: as many are to come.
    cdef double _look_back(self, Pool pool, bint is_shared) noexcept nogil:
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
    cdef double _weigh_biases(self, Pool pool) noexcept nogil:
        cdef size_t i
        cdef Candidate* c
        cdef double own = 0, others = 0
        for i in range(pool.count):
            own += pool.candidates[i].in_flight
            others += pool.candidates[i].others
        if others <= 0:
            return 0
        if pool.gateway != self.gateway:
            pool.gateway = self.gateway
            for i in range(pool.count):
                c = &pool.candidates[i]
                c.bias = <double>(_mixed(self.gateway ^ _mixed(c.identity)) >> 11) * (1.0 / 9007199254740992.0)
        return others / (own + others)

    cdef void _score_by_cost(self, Pool pool, Policy policy, size_t blocks, double prompt_tokens, double output_tokens,
                             double now) noexcept nogil:
        cdef size_t i
        cdef Candidate* c
        cdef double uncached, own, seconds, slowness, sent, recent, busy = self._busy(pool), foreign = self._weigh_biases(pool)
        cdef double weight = _crowding(busy), waiting = 1 + WAITING_WEIGHT * busy, liking = BIAS_WEIGHT * foreign
        # what others send nobody says in time: who plans for what is to come plans for itself, as far as most of it is its own
        cdef double alone = max(0.0, (1 - 2 * foreign) / (1 - foreign)) if foreign < 1 else 0.0
        cdef double even = EVENNESS_WEIGHT * alone, shared = SHARED_EVENNESS_WEIGHT * (1 - alone)
        cdef double comers = COMERS_WEIGHT * alone / 2
        self._measure(pool, policy)
        recent = self._look_back(pool, foreign > 0) + EVEN_SECONDS
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

    # Rendezvous hashing (Thaler, Ravishankar 1998) with bounded load (Mirrokni, Thorup, Zadimoghaddam 2018): every gateway ranks the
    # endpoints alike for a session; the first that has no more than its share of the requests in flight, and a bit, owns it.
    cdef long _session_owner(self, Pool pool, Policy policy, uint64_t session) noexcept nogil:
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
            rank = _mixed(session ^ _mixed(c.identity))
            if owner < 0 or rank > best:
                best = rank
                owner = <long>i
        return owner

    cdef void _score_by_weight(self, Pool pool, Policy policy, size_t blocks, uint64_t session, bint by_token) noexcept nogil:
        cdef size_t i
        cdef long owner = -1
        cdef Candidate* c
        cdef double most = 0, score, latency
        cdef double first_low = 0, first_high = 0, inter_low = 0, inter_high = 0
        cdef bint measured = False
        if policy.weights[SESSION] > 0 and session != 0:
            owner = self._session_owner(pool, policy, session)
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
                score += policy.weights[PREFIX_CACHE] * 100 * _share(pool.matched[i], blocks, policy.prefix_blocks)
            if policy.weights[KVCACHE_AWARE] > 0 and blocks > 0 and by_token:
                score += policy.weights[KVCACHE_AWARE] * 100 * _share(pool.matched[i], blocks, policy.kvcache_blocks)
            if policy.weights[LORA_AFFINITY] > 0 and pool.for_adapter:
                score += policy.weights[LORA_AFFINITY] * (
                    pool.untold if c.affinity == UNTOLD else AFFINITY_SCORES[<int>c.affinity])
            if owner == <long>i:
                score += policy.weights[SESSION] * 100
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

    # Who is to be probed is asked by one request alone; who comes too late takes the best of the others.
    cdef long _pick_and_claim(self, Pool pool, long chosen, double now) noexcept nogil:
        if chosen != self.due:
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
        cdef size_t candidates = self._look(pool, policy, role, now)
        if pool.adjustments != NULL:
            candidates = self._leave_out(pool, candidates)
        if candidates == 0:
            return -1
        pool.for_adapter = adapter != 0
        if pool.for_adapter:
            self._look_at_adapters(pool, adapter)
            if policy.adapter_filter:
                self._leave_out_without_adapter(pool)
            pool.untold = self._untold(pool, &AFFINITY_LOADS[0] if policy.by_cost else &AFFINITY_SCORES[0])
        self.oldest = 0 if by_token else self._oldest(pool, now)
        if blocks > 0:
            self.prefixes.match_pool(hashes, blocks, &pool.pages, pool.matched, self.oldest)
        pool.by_cost = policy.by_cost
        if policy.by_cost:
            self._score_by_cost(pool, policy, blocks, prompt_tokens, output_tokens, now)
        else:
            self._score_by_weight(pool, policy, blocks, session, by_token)
        if pool.adjustments != NULL:
            for i in range(pool.count):
                pool.candidates[i].score += pool.adjustments[i]
        return self.due if self.due >= 0 else self._pick(pool)

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
        self.prefill_seconds = (c.queued_tokens + uncached) / _speed(policy.prefill_tokens_per_second, c.spent_tokens, c.spent_seconds)
        if not dry:
            self.load._check(c.slot)
            self.load.charge_cell(c.slot, c.generation, uncached, output_tokens, now)
            if learn:
                self._learn(values, blocks, pool.matched[chosen], c.slot, <uint32_t>now)
        return chosen

    cpdef object release(self, Pool pool, size_t chosen, int64_t prefill_tokens, int64_t decode_tokens):
        if pool is None:
            raise TypeError("pool must be there")
        if chosen >= pool.count:
            raise IndexError(f"endpoint {chosen} of {pool.count}")
        return self.load.release(pool.candidates[chosen].slot, pool.candidates[chosen].generation, prefill_tokens, decode_tokens)

    cpdef object first_token(self, Pool pool, size_t chosen, int64_t prefill_tokens, double now=0.0):
        if pool is None:
            raise TypeError("pool must be there")
        if chosen >= pool.count:
            raise IndexError(f"endpoint {chosen} of {pool.count}")
        return self.load.first_token(pool.candidates[chosen].slot, pool.candidates[chosen].generation, prefill_tokens, now)

    cpdef object prefilled(self, Pool pool, size_t chosen, double tokens, double seconds):
        if pool is None:
            raise TypeError("pool must be there")
        if chosen >= pool.count:
            raise IndexError(f"endpoint {chosen} of {pool.count}")
        return self.load.prefilled(pool.candidates[chosen].slot, pool.candidates[chosen].generation, tokens, seconds)

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
                "adapter": _AFFINITIES[<int>c.affinity] if pool.for_adapter else "",
                "prefill_tokens_per_second": c.prefill_tokens_per_second,
                "cost": None if c.reason != CANDIDATE or not pool.by_cost else {
                    "queue": c.queue_seconds, "prefill": c.prefill_seconds, "lateness": c.lateness_seconds,
                    "decode": c.decode_seconds, "memory": c.memory_seconds, "adapter": c.adapter_seconds,
                },
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
