cimport cython
from libc.math cimport INFINITY, fabs
from libc.stdlib cimport free, malloc

from _fastpath.atomics cimport (
    atomic_add_u64, atomic_exchange_if_u64, atomic_load_f64, atomic_load_u64, atomic_store_u64,
)
from _fastpath.identity_table cimport (
    ATTEMPTS, TABLE_BUSY, TABLE_FULL, identity_at, identity_confirm, identity_find, identity_settle, identity_take,
    identity_take_free, identity_word,
)

cdef int64_t NEVER = -1
cdef uint64_t OPENING = 1_000_000_000        # nanoseconds from open to configure
cdef uint64_t FARTHEST = <uint64_t>1 << 58   # nanoseconds of the clock at which a bucket can be full again: nine years of uptime
cdef double LONGEST_FILL = 1 << 57

STALE = -2

KINDS = {"input": INPUT_TOKENS, "output": OUTPUT_TOKENS, "requests": REQUESTS}


class BucketsFull(Exception):
    """More token buckets than the shared memory has places."""


class JournalFull(Exception):
    """More requests in flight in one worker than its journal has records."""


# Whether nothing is lost with it: full, or, of a leased bucket, empty and not in debt.
cdef inline bint _is_stateless(Bucket* bucket, uint64_t now) noexcept nogil:
    cdef uint64_t state = atomic_load_u64(&bucket.state)
    cdef double span
    if bucket.store == 0 or state & PLACE_MASK == 0:
        return state >> PLACE_BITS <= now
    span = _span(state, _frozen()) - _limits(bucket, state).tolerance
    return -_limits(bucket, state).interval < span <= 1


cdef inline uint64_t _word(uint64_t arrival, uint64_t place) noexcept nogil:
    return (min(arrival, FARTHEST) << PLACE_BITS) | place


@cython.final
cdef class TokenBuckets:
    def __init__(self, SharedMemory memory not None):
        self.memory = memory
        self.buckets = <Bucket*>(memory.base + memory.header.buckets_at + 64)
        self.capacity = memory.header.buckets
        self.identities.high_water = <uint64_t*>(memory.base + memory.header.buckets_at)
        self.identities.words = &self.buckets[0].identity
        self.identities.stride = sizeof(Bucket) // sizeof(uint64_t)
        self.identities.capacity = self.capacity
        self._unconfirmed = {}

    cdef Bucket* _at(self, uint64_t index) except NULL:
        if index >= self.capacity:
            raise IndexError(f"bucket {index} of {self.capacity}")
        return &self.buckets[index]

    # The lowest free place, else one whose bucket is full, claimed and not configured.
    cdef long _take_any(self, uint64_t word, uint64_t now, uint64_t first, uint64_t store, uint64_t key) noexcept nogil:
        cdef uint64_t i, before
        cdef long taken = identity_take_free(&self.identities, first, word)
        if taken == TABLE_FULL:
            for i in range(first, self.capacity):
                before = atomic_load_u64(identity_at(&self.identities, i))
                if (not before & 1 and _is_stateless(&self.buckets[i], now)
                        and identity_take(&self.identities, i, before, word)):
                    taken = <long>i
                    break
        if taken >= 0:
            # also where it was free: who had it before may have been killed before this line
            atomic_store_u64(&self.buckets[taken].state, _word(now + OPENING, 0))
            self.buckets[taken].store = store
            self.buckets[taken].key = key
            self.buckets[taken].dry_until = self.buckets[taken].wanted = 0
            self.buckets[taken].elsewhere = 0
            self.buckets[taken].shares = 1
            atomic_store_u64(&self.buckets[taken].standing, UNASKED)
        return taken

    def open(self, uint64_t identity, uint64_t now, bint keyed=False, uint64_t store=0, uint64_t key=0):
        cdef uint64_t word = identity_word(identity)
        cdef long place
        cdef int attempt
        for attempt in range(ATTEMPTS):
            place = identity_find(&self.identities, word)
            if place >= 0:
                return place
            place = self._take_any(word, now, (self.capacity + 3) // 4 if keyed else 0, store, key)
            if place == TABLE_FULL:
                raise BucketsFull(f"all {self.capacity} token buckets are in use: raise `shared_memory.buckets`")
            place = identity_confirm(&self.identities, place, word)
            if place != TABLE_BUSY:
                return place
            identity_settle(&self.identities, word)
        raise BucketsFull("another process died while it claimed this token bucket: the supervisor clears it within two seconds")

    def sweep(self):
        cdef uint64_t i, word
        cdef dict unconfirmed = {}
        for i in range(atomic_load_u64(self.identities.high_water)):
            word = atomic_load_u64(identity_at(&self.identities, i))
            if word & 1:
                if self._unconfirmed.get(i) == word:
                    atomic_exchange_if_u64(identity_at(&self.identities, i), word, 0)
                else:
                    unconfirmed[i] = word
        self._unconfirmed = unconfirmed

    def configure(self, uint64_t index, uint64_t generation, double tokens, double seconds, double burst, uint64_t now):
        if not (0 < tokens < INFINITY and 0 < seconds < INFINITY and 0 < burst < INFINITY):
            raise ValueError("tokens, seconds and burst must be finite and above 0")
        cdef Bucket* bucket = self._at(index)
        cdef double interval = seconds * 1e9 / tokens
        cdef double tolerance = interval * burst
        if tolerance > LONGEST_FILL:
            raise ValueError(f"a bucket that takes {tolerance / 1e9:.3g} s to fill: at most {LONGEST_FILL / 1e9:.3g} s are kept")
        cdef uint64_t state, place, next_place, arrival
        cdef Limits* limits
        cdef double held
        while True:
            state = atomic_load_u64(&bucket.state)
            place = state & PLACE_MASK
            arrival = 0 if bucket.store == 0 else _frozen() + <uint64_t>tolerance
            if place != 0:
                arrival = state >> PLACE_BITS
                limits = _limits(bucket, state)
                if limits.generation >= generation:
                    return
                if limits.interval == interval and limits.tolerance == tolerance:
                    limits.generation = generation
                    return
                if bucket.store != 0:
                    # what was leased is so many tokens, whatever the limits are
                    held = _leased(bucket, state)
                    arrival = _frozen() + <uint64_t>min(max(tolerance - held * interval, 0.0), <double>FARTHEST)
                elif arrival > now:
                    arrival = now + <uint64_t>min(
                        <double>(arrival - now) / limits.tolerance * tolerance, <double>FARTHEST)
            next_place = 1 + generation % (LIMITS_RING - 1)
            if place != 0 and next_place >= place:
                next_place += 1
            limits = &bucket.limits[next_place - 1]
            limits.generation = generation
            limits.interval = interval
            limits.tolerance = tolerance
            if atomic_exchange_if_u64(&bucket.state, state, _word(arrival, next_place)):
                return

    # 0: taken. Above 0: nanoseconds until it could be. NEVER: more than the bucket can hold, or not configured.
    cdef int64_t take(self, Bucket* bucket, int64_t tokens, uint64_t now) noexcept nogil:
        cdef uint64_t state, arrival, after
        cdef Limits* limits
        cdef double cost
        now = _moment(bucket, now)
        while True:
            state = atomic_load_u64(&bucket.state)
            if state & PLACE_MASK == 0:
                return NEVER
            limits = _limits(bucket, state)
            cost = <double>tokens * limits.interval
            if cost > limits.tolerance:
                return NEVER
            arrival = state >> PLACE_BITS
            after = max(arrival, now) + <uint64_t>(cost + 0.5)
            if <double>(after - now) > limits.tolerance + 1 and (
                    bucket.store == 0 or atomic_load_u64(&bucket.standing) != OPENED):
                return <int64_t>(<double>(after - now) - limits.tolerance) + 1
            if atomic_exchange_if_u64(&bucket.state, state, _word(after, state & PLACE_MASK)):
                return 0

    # Above 0: tokens back. Below 0: tokens that turned out to be used as well, into debt if need be.
    cdef void give(self, Bucket* bucket, int64_t tokens, uint64_t now) noexcept nogil:
        cdef uint64_t state, arrival, after, span
        now = _moment(bucket, now)
        while True:
            state = atomic_load_u64(&bucket.state)
            if tokens == 0 or state & PLACE_MASK == 0:
                return
            arrival = state >> PLACE_BITS
            span = <uint64_t>min(
                fabs(<double>tokens) * _limits(bucket, state).interval + 0.5, <double>FARTHEST)
            if tokens > 0:
                after = arrival - span if arrival > span else 0
            else:
                after = max(arrival, now) + span
            if atomic_exchange_if_u64(&bucket.state, state, _word(after, state & PLACE_MASK)):
                return

    def reserve(self, uint64_t index, int64_t tokens, uint64_t now):
        if tokens < 0:
            raise ValueError("tokens must not be negative")
        cdef int64_t wait = self.take(self._at(index), tokens, now)
        if wait == 0:
            return 0.0
        return INFINITY if wait == NEVER else <double>wait * 1e-9

    def settle(self, uint64_t index, int64_t reserved, int64_t used, uint64_t now):
        self.give(self._at(index), reserved - used, now)

    def available(self, uint64_t index, uint64_t now):
        cdef Bucket* bucket = self._at(index)
        cdef uint64_t state = atomic_load_u64(&bucket.state)
        cdef uint64_t arrival = state >> PLACE_BITS
        cdef Limits* limits = _limits(bucket, state)
        now = _moment(bucket, now)
        if state & PLACE_MASK == 0:
            return 0.0
        if arrival <= now:
            return limits.tolerance / limits.interval
        return (limits.tolerance - <double>(arrival - now)) / limits.interval

    def describe(self, uint64_t index, uint64_t now):
        cdef Bucket* bucket = self._at(index)
        cdef uint64_t state = atomic_load_u64(&bucket.state)
        cdef uint64_t arrival = state >> PLACE_BITS
        cdef Limits* limits = _limits(bucket, state)
        now = _moment(bucket, now)
        if state & PLACE_MASK == 0:
            return None
        return {
            "burst": limits.tolerance / limits.interval,
            "available": self.available(index, now),
            "seconds_until_full": <double>(arrival - now) * 1e-9 if arrival > now else 0.0,
        }

    def left(self, identities, uint64_t now):
        cdef dict places = {}
        cdef list found = []
        cdef uint64_t i, word, state
        cdef double elsewhere, span
        cdef Bucket* bucket
        cdef Limits* limits
        for i in range(atomic_load_u64(self.identities.high_water)):
            word = atomic_load_u64(identity_at(&self.identities, i))
            if word != 0 and not word & 1:
                places[word] = i
        for identity in identities:
            place = places.get(identity_word(identity))
            if place is None:
                found.append(None)
                continue
            bucket = self._at(place)
            state = atomic_load_u64(&bucket.state)
            if state & PLACE_MASK == 0:
                found.append(None)
                continue
            limits = _limits(bucket, state)
            # what the store has left is there for everybody as well
            elsewhere = atomic_load_f64(&bucket.elsewhere) * limits.interval if bucket.store != 0 else 0.0
            span = max(_span(state, _moment(bucket, now)) - elsewhere, 0.0)
            found.append((limits.tolerance - span) / limits.interval)
        return found


@cython.final
@cython.no_gc  # texts and numbers are all it holds on to
cdef class LimitSet:
    def __init__(self, limits):
        self.count = 0
        if len(limits) > MAXIMUM_LIMITS:
            raise ValueError(f"a request is held to at most {MAXIMUM_LIMITS} limits, not {len(limits)}")
        for bucket, identity, kind in limits:
            self.buckets[self.count] = bucket
            self.identities[self.count] = identity_word(identity)
            self.kinds[self.count] = KINDS[kind]
            self.count += 1

    def __len__(self):
        return self.count


@cython.final
cdef class Journal:
    def __cinit__(self):
        self.free_records = NULL

    def __init__(self, SharedMemory memory not None, uint64_t worker):
        if worker >= memory.header.workers:
            raise IndexError(f"worker {worker} of {memory.header.workers}")
        self.buckets = TokenBuckets(memory)
        self.capacity = memory.header.journal_records
        self.records = <JournalRecord*>(memory.base + memory.header.journals_at) + worker * self.capacity
        self.free_records = <uint32_t*>malloc(self.capacity * sizeof(uint32_t))
        if self.free_records == NULL:
            raise MemoryError
        self.refused = -1
        self.wait = 0
        self.is_closed = False
        self._collect_free()

    def __dealloc__(self):
        free(self.free_records)

    cdef int _collect_free(self) except -1:
        cdef uint64_t i
        self.free_count = 0
        for i in range(self.capacity):
            if self.records[self.capacity - 1 - i].in_use == 0:
                self.free_records[self.free_count] = <uint32_t>(self.capacity - 1 - i)
                self.free_count += 1
        return 0

    cpdef int64_t take(self, LimitSet limits, int64_t input_tokens, int64_t output_tokens, uint64_t now) except? -3:
        if limits is None:
            raise TypeError("limits must be there")
        cdef uint64_t handle, i
        cdef int64_t tokens, wait
        cdef long never
        cdef JournalRecord* record
        if input_tokens < 0 or output_tokens < 0:
            raise ValueError("tokens must not be negative")
        if self.free_count == 0:
            raise JournalFull(f"all {self.capacity} journal records are in use: raise `shared_memory.journal_records`")
        self.refused = -1
        for i in range(limits.count):
            if self._is_stale(limits, i):
                return STALE
        handle = self.free_records[self.free_count - 1]
        record = &self.records[handle]
        record.held = 0
        atomic_store_u64(&record.in_use, 1)
        for i in range(limits.count):
            tokens = _counted(limits.kinds[i], input_tokens, output_tokens)
            record.entries[i].bucket = limits.buckets[i]
            record.entries[i].identity = limits.identities[i]
            record.entries[i].tokens = tokens
            wait = self.buckets.take(self.buckets._at(limits.buckets[i]), tokens, now)
            if wait != 0:
                self._give_back(record, now)
                if wait == NEVER and self._is_stale(limits, i):
                    return STALE  # given away since we looked
                never = <long>i if wait == NEVER else self._too_large(limits, i + 1, input_tokens, output_tokens)
                self.refused = <int>i if never < 0 else <int>never
                if never >= 0:
                    wait = NEVER  # told at once, and not when this one would let it through
                else:
                    wait = self._wait_longer(self.buckets._at(limits.buckets[i]), wait, now)
                self.wait = INFINITY if wait == NEVER else <double>wait * 1e-9
                return -1
            atomic_store_u64(&record.held, i + 1)
        self.free_count -= 1
        return <int64_t>handle

    # The first limit from there on that can never hold it, else -1.
    cdef long _too_large(self, LimitSet limits, uint64_t first, int64_t input_tokens, int64_t output_tokens) except -2:
        cdef uint64_t i, state
        cdef Limits* held_to
        for i in range(first, limits.count):
            state = atomic_load_u64(&self.buckets._at(limits.buckets[i]).state)
            if state & PLACE_MASK == 0 or self._is_stale(limits, i):
                continue
            held_to = _limits(&self.buckets.buckets[limits.buckets[i]], state)
            if <double>_counted(limits.kinds[i], input_tokens, output_tokens) * held_to.interval > held_to.tolerance:
                return <long>i
        return -1

    cdef int64_t _wait_longer(self, Bucket* bucket, int64_t wait, uint64_t now) noexcept nogil:
        cdef uint64_t dry_until
        self.is_closed = bucket.store != 0 and atomic_load_u64(&bucket.standing) == CLOSED
        if bucket.store == 0:
            return wait
        dry_until = atomic_load_u64(&bucket.dry_until)
        wait = <int64_t>min(<double>wait * max(atomic_load_f64(&bucket.shares), 1.0), <double>FARTHEST)
        return max(wait, <int64_t>(dry_until - now)) if dry_until > now else wait

    def ask(self, LimitSet limits not None, int64_t input_tokens, int64_t output_tokens, uint64_t now, bint again=False):
        cdef Bucket* bucket
        cdef uint64_t i = <uint64_t>self.refused
        cdef int64_t tokens
        if self.refused < 0 or i >= limits.count or self.wait == INFINITY or self._is_stale(limits, i):
            return False
        bucket = self.buckets._at(limits.buckets[i])
        if bucket.store == 0 or atomic_load_u64(&bucket.standing) > LEASED or atomic_load_u64(&bucket.dry_until) > now:
            return False
        tokens = _counted(limits.kinds[i], input_tokens, output_tokens)
        if not again:
            atomic_add_u64(&bucket.wanted, <uint64_t>max(tokens, 0))
        return True

    cdef bint _is_stale(self, LimitSet limits, uint64_t i) except -1:
        return self.buckets._at(limits.buckets[i]).identity != limits.identities[i]

    cdef int _give_back(self, JournalRecord* record, uint64_t now) except -1:
        cdef uint64_t held = min(atomic_load_u64(&record.held), <uint64_t>MAXIMUM_LIMITS)
        while held > 0:
            held -= 1
            # first out of the journal, then back into the bucket: killed between, tokens are lost for a while, never given twice
            atomic_store_u64(&record.held, held)
            self._give(&record.entries[held], record.entries[held].tokens, now)
        atomic_store_u64(&record.in_use, 0)
        return 0

    cdef void _give(self, const Held* entry, int64_t tokens, uint64_t now) noexcept nogil:
        if entry.bucket < self.buckets.capacity and self.buckets.buckets[entry.bucket].identity == entry.identity:
            self.buckets.give(&self.buckets.buckets[entry.bucket], tokens, now)

    cdef JournalRecord* _record(self, uint64_t handle) except NULL:
        if handle >= self.capacity or self.records[handle].in_use == 0:
            raise ValueError(f"journal record {handle} is not in use")
        return &self.records[handle]

    cpdef object settle(self, LimitSet limits, uint64_t handle, int64_t input_tokens, int64_t output_tokens, uint64_t now):
        if limits is None:
            raise TypeError("limits must be there")
        cdef JournalRecord* record = self._record(handle)
        cdef uint64_t held = min(atomic_load_u64(&record.held), <uint64_t>limits.count)
        cdef int64_t used
        while held > 0:
            held -= 1
            used = _counted(limits.kinds[held], input_tokens, output_tokens)
            atomic_store_u64(&record.held, held)
            self._give(&record.entries[held], record.entries[held].tokens - used, now)
        atomic_store_u64(&record.in_use, 0)
        self.free_records[self.free_count] = <uint32_t>handle
        self.free_count += 1

    cpdef object cancel(self, uint64_t handle, uint64_t now):
        self._give_back(self._record(handle), now)
        self.free_records[self.free_count] = <uint32_t>handle
        self.free_count += 1

    def recover(self, uint64_t now):
        cdef uint64_t i, recovered = 0
        for i in range(self.capacity):
            if atomic_load_u64(&self.records[i].in_use) != 0:
                self._give_back(&self.records[i], now)
                recovered += 1
        self._collect_free()
        return recovered

    @property
    def in_use(self):
        return self.capacity - self.free_count
