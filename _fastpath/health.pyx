cimport cython

from _fastpath.atomics cimport atomic_exchange_if_u64, atomic_load_u64

cdef enum:
    FAILURES_AT = 2
    EJECTIONS_AT = 9
    MARK_AT = 14
    TIME_AT = 28
    MOST_FAILURES = 100
    MOST_EJECTIONS = 31
    MARKS = 16383
    STEPS = 10                    # of the ramp: endpoints that began within milliseconds of each other are still equals

cdef uint64_t TIME_MASK = (<uint64_t>1 << 36) - 1
cdef int64_t HALF_OF_TIME = <int64_t>1 << 35
cdef uint64_t PROBE = <uint64_t>1 << 36       # in a probe's token beside its lease: it is never 0
cdef double LONGEST_SECONDS = 86400.0

cdef enum Outcome:
    NEUTRAL = 0
    ANSWERS
    SERVED
    FAILED

cdef enum Event:
    NOTHING = 0
    EJECTED
    RETURNED

OUTCOMES = ("neutral", "answers", "served", "failed")
EVENTS = ("", "ejected", "returned")
_STANDINGS = ("serving", "warming", "ejected", "probing", "ejected")


cdef inline uint64_t _milliseconds(double seconds) noexcept nogil:
    return <uint64_t>(seconds * 1000) & TIME_MASK


# How much later one time is than another, below 0 for an earlier one.
cdef inline int64_t _later(uint64_t one, uint64_t other) noexcept nogil:
    cdef int64_t difference = <int64_t>((one - other) & TIME_MASK)
    return difference - 2 * HALF_OF_TIME if difference >= HALF_OF_TIME else difference


cdef inline uint64_t _mark(uint64_t generation) noexcept nogil:
    return 1 + (generation >> 1) % MARKS


cdef inline uint64_t _make(uint64_t state, uint64_t failures, uint64_t ejections, uint64_t mark, uint64_t time) noexcept nogil:
    return state | failures << FAILURES_AT | ejections << EJECTIONS_AT | mark << MARK_AT | (time & TIME_MASK) << TIME_AT


cdef inline uint64_t _failures(uint64_t word) noexcept nogil:
    return word >> FAILURES_AT & 127


cdef inline uint64_t _ejections(uint64_t word) noexcept nogil:
    return word >> EJECTIONS_AT & MOST_EJECTIONS


cdef inline uint64_t _time(uint64_t word) noexcept nogil:
    return word >> TIME_AT


@cython.final
cdef class Outlier:
    def __init__(self, *, uint64_t failures=3, double base_ejection=10.0, double maximum_ejection=300.0,
                 double maximum_ejected_percent=50.0, double slow_start=30.0, double probe_seconds=120.0):
        if failures > MOST_FAILURES:
            raise ValueError(f"failures must be 0 to {MOST_FAILURES}, not {failures}")
        for name, value, least in (("base_ejection", base_ejection, 0.001), ("maximum_ejection", maximum_ejection, 0.001),
                                   ("slow_start", slow_start, 0.0), ("probe_seconds", probe_seconds, 0.001)):
            if not least <= value <= LONGEST_SECONDS:
                raise ValueError(f"{name} must be {least:g} to {LONGEST_SECONDS:g} seconds, not {value}")
        if not 0 <= maximum_ejected_percent <= 100:
            raise ValueError(f"maximum_ejected_percent must be 0 to 100, not {maximum_ejected_percent}")
        self.failures = failures
        self.base = <int64_t>(base_ejection * 1000)
        self.longest = max(self.base, <int64_t>(maximum_ejection * 1000))
        self.slow_start = <int64_t>(slow_start * 1000)
        self.lease = <int64_t>(probe_seconds * 1000)
        self.maximum_ejected_percent = maximum_ejected_percent

    # Milliseconds of the so-manieth ejection in a row: twice those of the one before.
    cdef int64_t ejection(self, uint64_t ejections) noexcept nogil:
        cdef int64_t found = self.base << (ejections - 1 if ejections > 0 else 0)
        return min(found, self.longest)


# An endpoint is out, once more than before; each span of the longest ejection that it has served in peace takes one off.
cdef uint64_t _eject(uint64_t word, Outlier outlier, uint64_t now, bint in_a_row) noexcept nogil:
    cdef int64_t ejections = <int64_t>_ejections(word)
    if not in_a_row:
        ejections -= max(<int64_t>0, _later(now, _time(word))) // outlier.longest
    ejections = min(max(<int64_t>0, ejections) + 1, <int64_t>MOST_EJECTIONS)
    return _make(OUT, 0, ejections, word >> MARK_AT & 16383, now + outlier.ejection(ejections))


# Back again, a little at first. Who has answered and not yet to the end is out again with its next failure.
cdef uint64_t _return(uint64_t word, Outlier outlier, Outcome outcome, uint64_t now) noexcept nogil:
    cdef uint64_t failures = 0 if outcome == SERVED else outlier.failures - 1
    return _make(WARMING, failures, _ejections(word), word >> MARK_AT & 16383, now)


# What was sent before it came back is old news, save for what brought it back.
cdef uint64_t _note_in_service(uint64_t word, Outlier outlier, Outcome outcome, uint64_t sent, uint64_t now,
                               uint64_t probe) noexcept nogil:
    cdef uint64_t failures = _failures(word)
    if probe == 0 and _later(sent, _time(word)) < 0:
        return word
    if outcome == FAILED:
        if failures + 1 >= outlier.failures:
            return _eject(word, outlier, now, False)
        return word + (<uint64_t>1 << FAILURES_AT)
    if outcome == SERVED:
        word -= failures << FAILURES_AT
        if word & STATE_BITS == WARMING and _later(now, _time(word)) >= outlier.slow_start:
            word -= WARMING
    return word


# Whoever was sent there since tells the truth, a probe or (when too many are out) another.
cdef uint64_t _note_when_out(uint64_t word, Outlier outlier, Outcome outcome, uint64_t sent, uint64_t now) noexcept nogil:
    cdef uint64_t since = _time(word) - outlier.ejection(_ejections(word))
    if (outcome == SERVED or outcome == ANSWERS) and _later(sent, since) >= 0:
        return _return(word, outlier, outcome, now)
    return word


cdef uint64_t _note_while_probed(uint64_t word, Outlier outlier, Outcome outcome, uint64_t sent, uint64_t now,
                                 uint64_t probe) noexcept nogil:
    if outcome == SERVED or outcome == ANSWERS:
        if probe != 0 or _later(sent, _time(word) - outlier.lease) >= 0:
            return _return(word, outlier, outcome, now)
    elif probe == PROBE | _time(word):
        if outcome == FAILED:
            return _eject(word, outlier, now, True)
        # it says nothing of the engine: the next request may try
        return _make(OUT, 0, _ejections(word), word >> MARK_AT & 16383, now)
    return word


@cython.final
cdef class Health:
    def __init__(self, SharedMemory memory not None, long row=-1):
        if row >= <long>memory.header.workers:
            raise IndexError(f"row {row} of {memory.header.workers}")
        self.memory = memory
        self.slots = Slots(memory)
        self.words = <uint64_t*>(memory.base + memory.header.health_at)
        self.capacity = memory.header.slots
        self.own = row

    # What is known of this endpoint; of one that nothing is known of, that it serves.
    cdef uint64_t word(self, uint64_t slot, uint64_t generation) noexcept nogil:
        cdef uint64_t word = atomic_load_u64(&self.words[slot]), mark = _mark(generation)
        return word if word >> MARK_AT & 16383 == mark else mark << MARK_AT

    cdef Fitness look(self, uint64_t slot, uint64_t generation, Outlier outlier, double now) noexcept nogil:
        cdef uint64_t word = self.word(slot, generation)
        cdef int64_t since = _later(_milliseconds(now), _time(word))
        cdef Fitness fitness
        fitness.standing = <Standing>(word & STATE_BITS)
        fitness.share = 1.0
        if outlier.failures == 0 and fitness.standing >= OUT:
            fitness.standing = SERVING
        elif fitness.standing >= OUT and since >= 0:
            fitness.standing = DUE
        elif fitness.standing == WARMING:
            if outlier.slow_start == 0 or since >= outlier.slow_start:
                fitness.standing = SERVING
            else:
                fitness.share = (1 + (STEPS - 1) * max(<int64_t>0, since) // outlier.slow_start) / <double>STEPS
        return fitness

    # Its warm-up is over: the word says so, and nobody need think about it any more.
    cdef void settle(self, uint64_t slot, uint64_t generation) noexcept nogil:
        cdef uint64_t word = self.word(slot, generation)
        if word & STATE_BITS == WARMING:
            atomic_exchange_if_u64(&self.words[slot], word, word - WARMING)

    # The token of the probe, 0 when it is not this request's to make.
    cdef uint64_t claim_probe(self, uint64_t slot, uint64_t generation, Outlier outlier, double now) noexcept nogil:
        cdef uint64_t word = self.word(slot, generation), moment = _milliseconds(now)
        cdef uint64_t until = (moment + outlier.lease) & TIME_MASK
        if self.own < 0 or word & STATE_BITS < OUT or _later(moment, _time(word)) < 0:
            return 0
        if not atomic_exchange_if_u64(
                &self.words[slot], word, _make(PROBING, self.own, _ejections(word), word >> MARK_AT & 16383, until)):
            return 0
        return PROBE | until

    cdef int _check(self, uint64_t slot) except -1:
        if slot >= self.capacity:
            raise IndexError(f"slot {slot} of {self.capacity}")
        return 0

    def begin(self, uint64_t slot, uint64_t generation, double now):
        self._check(slot)
        cdef uint64_t word = atomic_load_u64(&self.words[slot]), mark = _mark(generation)
        if word >> MARK_AT & 16383 == mark or not self.slots.is_current(slot, generation):
            return False
        return bool(atomic_exchange_if_u64(&self.words[slot], word, _make(WARMING, 0, 0, mark, _milliseconds(now))))

    cpdef int note(self, uint64_t slot, uint64_t generation, Outlier outlier, int outcome, double sent, double now,
                   uint64_t probe=0) except -1:
        if outlier is None:
            raise TypeError("outlier must be there")
        self._check(slot)
        if not 0 <= outcome < 4:
            raise ValueError(f"outcome {outcome}")
        cdef uint64_t raw, word, changed, moment = _milliseconds(now), departed = _milliseconds(sent)
        if outlier.failures == 0 or not self.slots.is_current(slot, generation):
            return NOTHING
        while True:
            raw = atomic_load_u64(&self.words[slot])
            word = raw if raw >> MARK_AT & 16383 == _mark(generation) else _mark(generation) << MARK_AT | departed << TIME_AT
            if word & STATE_BITS < OUT:
                changed = _note_in_service(word, outlier, <Outcome>outcome, departed, moment, probe)
            elif word & STATE_BITS == OUT:
                changed = _note_when_out(word, outlier, <Outcome>outcome, departed, moment)
            else:
                changed = _note_while_probed(word, outlier, <Outcome>outcome, departed, moment, probe)
            if changed == word:
                return NOTHING
            if atomic_exchange_if_u64(&self.words[slot], raw, changed):
                break
        if outcome == FAILED and changed & STATE_BITS == OUT:
            return EJECTED
        return RETURNED if word & STATE_BITS >= OUT and changed & STATE_BITS == WARMING else NOTHING

    def claim(self, uint64_t slot, uint64_t generation, Outlier outlier not None, double now):
        self._check(slot)
        return self.claim_probe(slot, generation, outlier, now)

    def read(self, uint64_t slot, uint64_t generation, Outlier outlier not None, double now):
        self._check(slot)
        cdef uint64_t word = self.word(slot, generation)
        cdef Fitness fitness = self.look(slot, generation, outlier, now)
        cdef int64_t left = 0
        if fitness.standing == OUT or fitness.standing == PROBING:
            left = _later(_time(word), _milliseconds(now))
        elif fitness.standing == WARMING:
            left = outlier.slow_start - max(<int64_t>0, _later(_milliseconds(now), _time(word)))
        return {
            "state": _STANDINGS[fitness.standing],
            "seconds_left": left / 1000.0,
            "share": fitness.share,
            "failures": 0 if word & STATE_BITS >= OUT else _failures(word),
            "ejections": _ejections(word),
        }

    def clear_worker(self, uint64_t worker, double now):
        cdef uint64_t slot, word
        for slot in range(self.capacity):
            word = atomic_load_u64(&self.words[slot])
            if word & STATE_BITS == PROBING and _failures(word) == worker:
                atomic_exchange_if_u64(
                    &self.words[slot], word,
                    _make(OUT, 0, _ejections(word), word >> MARK_AT & 16383, _milliseconds(now)))
