cimport cython
from libc.math cimport floor, llrint

from _fastpath.atomics cimport atomic_exchange_if_u64, atomic_load_u64, atomic_relaxed_u64

cdef uint64_t MEAN_BITS = 26
cdef uint64_t COUNT_AT = 26
cdef uint64_t TIME_AT = 32
cdef uint64_t MARK_AT = 44
cdef uint64_t MOST_COUNTED = 63
cdef uint64_t TIME_MASK = 4095
cdef double PART = 256.0
cdef double TIME_UNIT = 64.0
cdef double PRIOR_COUNT = 8.0
cdef double SLOWEST = 1.0 / 64
cdef double MOST_TOKENS = 262143.0


cdef inline double _mean(uint64_t word) noexcept nogil:
    return <double>(word & ((<uint64_t>1 << MEAN_BITS) - 1)) / PART


cdef inline uint64_t _count(uint64_t word) noexcept nogil:
    return (word >> COUNT_AT) & MOST_COUNTED


# The word after one more answer.
cdef inline uint64_t _with(uint64_t mark, uint64_t moment, uint64_t count, double mean, double tokens) noexcept nogil:
    count = min(count + 1, MOST_COUNTED)
    mean += max(SLOWEST, 1 / (<double>count + PRIOR_COUNT)) * (tokens - mean)
    return mark << MARK_AT | moment << TIME_AT | count << COUNT_AT | <uint64_t>floor(mean * PART + 0.5)


@cython.final
cdef class OutputLengths:
    LARGEST = MOST_TOKENS

    def __init__(self, SharedMemory memory not None):
        self.memory = memory
        self.cells = <uint64_t*>(memory.base + memory.header.lengths_at)

    cdef uint64_t* first(self, uint64_t kind) noexcept nogil:
        return self.cells + kind % LENGTH_SETS * LENGTH_WAYS

    cpdef double mean(self, uint64_t kind) except -2:
        cdef uint64_t* cells = self.first(kind)
        cdef uint64_t i, word
        for i in range(LENGTH_WAYS):
            word = atomic_relaxed_u64(&cells[i])
            if word and word >> MARK_AT == kind >> MARK_AT:
                return _mean(word)
        return -1

    cpdef int64_t expected(self, uint64_t kind, int64_t prior) except? -1:
        cdef double mean = self.mean(kind)
        return prior if mean < 0 else max(llrint(mean), 1)

    cpdef object learn(self, uint64_t kind, double tokens, double prior, double now):
        if not tokens >= 0 or not prior >= 0:
            raise ValueError(f"tokens and a prior must not be below 0, not {tokens} and {prior}")
        cdef uint64_t* cells = self.first(kind)
        cdef uint64_t mark = kind >> MARK_AT
        cdef uint64_t moment = <uint64_t>(now / TIME_UNIT) & TIME_MASK
        cdef uint64_t i, place, word, stood, wanted, age, oldest
        tokens, prior = min(tokens, MOST_TOKENS), min(prior, MOST_TOKENS)
        while True:
            place, stood, oldest = 0, atomic_load_u64(&cells[0]), 0
            for i in range(LENGTH_WAYS):
                word = atomic_load_u64(&cells[i])
                if word and word >> MARK_AT == mark:
                    place, stood = i, word
                    break
                # nobody's before anybody's, and the first of several
                age = (moment - (word >> TIME_AT) & TIME_MASK) + 1 if word else TIME_MASK + 2
                if age > oldest:
                    place, stood, oldest = i, word, age
            if stood and stood >> MARK_AT == mark:
                wanted = _with(mark, moment, _count(stood), _mean(stood), tokens)
            else:
                wanted = _with(mark, moment, 0, prior, tokens)
            if atomic_exchange_if_u64(&cells[place], stood, wanted):
                return None
