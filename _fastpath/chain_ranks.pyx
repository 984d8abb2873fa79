cimport cython
from libc.stdlib cimport calloc, free


cdef uint64_t _bit(long rank) except 0:
    if not 0 <= rank < MOST_RANKS:
        raise ValueError(f"rank {rank} is not 0 to {MOST_RANKS - 1}")
    return <uint64_t>1 << rank


@cython.final
cdef class ChainRanks:
    def __cinit__(self):
        self.chains = <HeldChain*>calloc(FIRST_CHAINS, sizeof(HeldChain))
        if self.chains == NULL:
            raise MemoryError
        self.places = FIRST_CHAINS
        self.shift = 64 - FIRST_CHAINS_BITS
        self.count = 0

    def __dealloc__(self):
        free(self.chains)

    # Where the chain stands, or the free place where it would. Chains are keyed hashes: their highest bits are spread as they are.
    cdef size_t _place(self, uint64_t chain) noexcept nogil:
        cdef size_t mask = self.places - 1
        cdef size_t place = <size_t>(chain >> self.shift)
        while self.chains[place].ranks != 0 and self.chains[place].chain != chain:
            place = (place + 1) & mask
        return place

    cdef int _grow(self) except -1:
        cdef HeldChain* old = self.chains
        cdef size_t i, before = self.places
        cdef HeldChain* grown = <HeldChain*>calloc(2 * before, sizeof(HeldChain))
        if grown == NULL:
            raise MemoryError
        self.chains = grown
        self.places = 2 * before
        self.shift -= 1
        for i in range(before):
            if old[i].ranks != 0:
                grown[self._place(old[i].chain)] = old[i]
        free(old)
        return 0

    cdef int add_rank(self, uint64_t chain, uint64_t rank) except -1:
        cdef size_t place = self._place(chain)
        if self.chains[place].ranks == 0:
            if (self.count + 1) * 4 > self.places * 3:
                self._grow()
                place = self._place(chain)
            self.chains[place].chain = chain
            self.count += 1
        self.chains[place].ranks |= rank
        return 0

    # Whether no rank holds it any more.
    cdef bint drop_rank(self, uint64_t chain, uint64_t rank) noexcept nogil:
        cdef size_t mask = self.places - 1
        cdef size_t place = self._place(chain)
        cdef size_t at, home
        if self.chains[place].ranks == 0:
            return True
        self.chains[place].ranks &= ~rank
        if self.chains[place].ranks != 0:
            return False
        self.count -= 1
        at = place
        while True:
            at = (at + 1) & mask
            if self.chains[at].ranks == 0:
                break
            home = <size_t>(self.chains[at].chain >> self.shift)
            # what stands at `at` may move back to `place` unless its home lies behind `place`
            if ((at - home) & mask) >= ((at - place) & mask):
                self.chains[place] = self.chains[at]
                self.chains[at].ranks = 0
                place = at
        return True

    def add(self, uint64_t chain, long rank):
        self.add_rank(chain, _bit(rank))

    def drop(self, uint64_t chain, long rank):
        return self.drop_rank(chain, _bit(rank))

    def ranks(self, uint64_t chain):
        return self.chains[self._place(chain)].ranks

    def __len__(self):
        return self.count
