cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t
from libc.stdlib cimport calloc, free, realloc

from _fastpath.block_hash cimport penstock_block_words, penstock_expand_key, penstock_hash, penstock_link
from _fastpath.chain_ranks cimport MOST_RANKS

cdef extern from *:
    """
    #define penstock_prefetch_write(p) __builtin_prefetch((p), 1, 1)
    """
    void penstock_prefetch_write(const void* p) noexcept nogil

cdef enum:
    AHEAD = 12                    # blocks whose places are fetched before they are looked at
    BATCH = 256                   # blocks that are learned in one go when the table is gone through

cdef uint64_t LARGEST_TOKEN = 0xFFFFFFFF
cdef object _LOW_64 = (1 << 64) - 1


# Numbers may be anything (small ones in a row): all bits go into the highest ones.
cdef inline uint64_t _spread(BlockName name) noexcept nogil:
    cdef uint64_t mixed = (name.low ^ (name.high >> 1)) * <uint64_t>0x9E3779B97F4A7C15
    return (mixed ^ (mixed >> 32)) * <uint64_t>0xD6E8FEB86659FD93


@cython.final
cdef class KVBlocks:
    def __cinit__(self):
        self.blocks = NULL
        self.names = NULL
        self.chains = NULL
        self.tokens = NULL
        self.places = self.count = self.event_blocks = self.event_tokens = 0

    def __init__(self, PrefixIndex index not None, tuple key not None, size_t limit=1 << 21, ChainRanks ranks=None, long rank=0):
        if not 1 <= limit <= 1 << 32:
            raise ValueError("limit must be 1 to 2^32")
        if not 0 <= rank < MOST_RANKS:
            raise ValueError(f"rank {rank} is not 0 to {MOST_RANKS - 1}")
        low, high = key
        penstock_expand_key(low, high, self.key)
        self.index = index
        self.limit = limit
        self.ranks = ranks
        self.rank = <uint64_t>1 << rank
        free(self.blocks)
        self.blocks = <HeldBlock*>calloc(FIRST_PLACES, sizeof(HeldBlock))
        if self.blocks == NULL:
            raise MemoryError
        self.places = FIRST_PLACES
        self.shift = 64 - FIRST_PLACES_BITS
        self.count = 0

    def __dealloc__(self):
        free(self.blocks)
        free(self.names)
        free(self.chains)
        free(self.tokens)

    # The highest bits: a table that doubles is written in the order in which it is read.
    cdef inline size_t _home(self, BlockName name) noexcept nogil:
        return <size_t>(_spread(name) >> self.shift)

    # Where the name stands, or the free place where it would.
    cdef size_t _place(self, BlockName name) noexcept nogil:
        cdef size_t mask = self.places - 1
        cdef size_t place = self._home(name)
        while self.blocks[place].tiers != 0:
            if self.blocks[place].name.low == name.low and self.blocks[place].name.high == name.high:
                return place
            place = (place + 1) & mask
        return place

    cdef int _grow(self) except -1:
        cdef HeldBlock* old = self.blocks
        cdef size_t i, before = self.places
        cdef HeldBlock* grown = <HeldBlock*>calloc(2 * before, sizeof(HeldBlock))
        if grown == NULL:
            raise MemoryError
        self.blocks = grown
        self.places = 2 * before
        self.shift -= 1
        for i in range(before):
            if old[i].tiers != 0:
                grown[self._place(old[i].name)] = old[i]
        free(old)
        return 0

    cdef int _room(self, size_t blocks, size_t tokens) except -1:
        cdef void* grown
        if blocks > self.event_blocks:
            grown = realloc(self.names, blocks * sizeof(BlockName))
            if grown == NULL:
                raise MemoryError
            self.names = <BlockName*>grown
            grown = realloc(self.chains, blocks * sizeof(uint64_t))
            if grown == NULL:
                raise MemoryError
            self.chains = <uint64_t*>grown
            self.event_blocks = blocks
        if tokens > self.event_tokens:
            grown = realloc(self.tokens, tokens * sizeof(uint32_t))
            if grown == NULL:
                raise MemoryError
            self.tokens = <uint32_t*>grown
            self.event_tokens = tokens
        return 0

    # Signed and unsigned writings of the same 64 bits are one name.
    cdef int _read_name(self, object value, BlockName* name) except -1:
        cdef const uint8_t* data
        cdef size_t length
        if type(value) is int:
            if not -(1 << 63) <= value <= _LOW_64:
                raise ValueError("a block's hash is a number of more than 64 bits")
            name.low = value & _LOW_64
            name.high = 0
        elif type(value) is bytes:
            data = <const uint8_t*>PyBytes_AS_STRING(value)
            length = PyBytes_GET_SIZE(value)
            name.low = penstock_hash(1, data, length, self.key)
            name.high = penstock_hash(2, data, length, self.key) | 1
        else:
            raise ValueError("a block's hash is neither a number nor bytes")
        return 0

    cdef int _read_tokens(self, list tokens) except -1:
        cdef size_t i, count = len(tokens)
        cdef int64_t token
        cdef object one
        for i in range(count):
            one = tokens[i]
            if type(one) is not int:
                raise ValueError("a token id is no number")
            try:
                token = one
            except OverflowError:
                token = -1
            if token < 0 or <uint64_t>token > LARGEST_TOKEN:
                raise ValueError("a token id is no number of 32 bits")
            self.tokens[i] = <uint32_t>token
        return 0

    # 1 when the block is known now, 0 when there was no room for it.
    cdef int _insert(self, BlockName name, uint64_t chain, uint64_t tier) except -1:
        cdef size_t place = self._place(name)
        if self.blocks[place].tiers == 0:
            if self.count >= self.limit:
                return 0
            if (self.count + 1) * 4 > self.places * 3:
                self._grow()
                place = self._place(name)
            if self.ranks is not None:
                self.ranks.add_rank(chain, self.rank)
            self.blocks[place].name = name
            self.blocks[place].chain = chain
            self.count += 1
        self.blocks[place].tiers |= tier
        return 1

    cdef void _take_out(self, size_t place) noexcept nogil:
        cdef size_t mask = self.places - 1
        cdef size_t at = place, home
        self.count -= 1
        while True:
            at = (at + 1) & mask
            if self.blocks[at].tiers == 0:
                break
            home = self._home(self.blocks[at].name)
            # what stands at `at` may move back to `place` unless its home lies behind `place`
            if ((at - home) & mask) >= ((at - place) & mask):
                self.blocks[place] = self.blocks[at]
                place = at
        self.blocks[place].tiers = 0

    cdef size_t _note_again(self, size_t count, uint64_t tier) noexcept nogil:
        cdef size_t i, place, known = 0
        for i in range(count):
            place = self._place(self.names[i])
            if self.blocks[place].tiers != 0:
                self.blocks[place].tiers |= tier
                known += 1
        return known

    def store(self, list names not None, parent, list tokens not None, size_t block_tokens, uint64_t seed, uint64_t slot,
              double now, extras=None, uint64_t tier=1):
        cdef size_t i, place, stored = 0, count = len(names)
        cdef uint64_t chain = seed
        cdef uint64_t words[6]
        cdef BlockName name
        cdef bytes extra
        if slot >= self.index.memory.header.slots:
            raise IndexError(f"slot {slot} of {self.index.memory.header.slots}")
        if count > LARGEST_EVENT or not 1 <= block_tokens <= 1 << 20:
            raise ValueError("an event of too many blocks, or of blocks without tokens")
        if tier == 0:
            raise ValueError("a tier is at least one bit")
        if <size_t>len(tokens) != (count * block_tokens if len(tokens) > 0 else 0):
            raise ValueError("the tokens do not fill the blocks")
        if extras is not None and <size_t>len(extras) != count:
            raise ValueError("not as many extras as blocks")
        self._room(count, len(tokens))
        for i in range(count):
            self._read_name(names[i], &self.names[i])
        if len(tokens) == 0:
            return self._note_again(count, tier)
        self._read_tokens(tokens)
        if parent is not None:
            self._read_name(parent, &name)
            place = self._place(name)
            if self.blocks[place].tiers == 0:
                raise KeyError("the parent is not known")
            chain = self.blocks[place].chain
        penstock_block_words(self.key, 4 * block_tokens, words)
        for i in range(count):
            if extras is not None and extras[i] is not None:
                extra = extras[i]
                chain = penstock_hash(chain, <const uint8_t*>PyBytes_AS_STRING(extra), PyBytes_GET_SIZE(extra), self.key)
            chain = penstock_link(chain, <const uint8_t*>&self.tokens[i * block_tokens], 4 * block_tokens, words)
            self.chains[i] = chain
        for i in range(count):
            if i + AHEAD < count:
                penstock_prefetch_write(&self.blocks[self._home(self.names[i + AHEAD])])
            if not self._insert(self.names[i], self.chains[i], tier):
                break
            stored += 1
        self.index.learn_blocks(self.chains, stored, slot, <uint32_t>now, 0)
        return stored

    def remove(self, list names not None, uint64_t slot, uint64_t tier=1):
        cdef size_t i, place, known = 0, gone = 0, count = len(names)
        if slot >= self.index.memory.header.slots:
            raise IndexError(f"slot {slot} of {self.index.memory.header.slots}")
        if count > LARGEST_EVENT:
            raise ValueError("an event of too many blocks")
        self._room(count, 0)
        for i in range(count):
            self._read_name(names[i], &self.names[i])
        for i in range(count):
            place = self._place(self.names[i])
            if self.blocks[place].tiers == 0:
                continue
            known += 1
            if self.blocks[place].tiers & ~tier:
                self.blocks[place].tiers &= ~tier
            else:
                self.chains[gone] = self.blocks[place].chain
                gone += self.ranks is None or self.ranks.drop_rank(self.chains[gone], self.rank)
                self._take_out(place)
        self.index.discard_blocks(self.chains, gone, slot)
        return known

    def refresh(self, uint64_t slot, double now, size_t first, size_t places):
        cdef uint64_t batch[BATCH]
        cdef size_t i, filled = 0, last = min(self.places, first + min(places, self.places))
        if slot >= self.index.memory.header.slots:
            raise IndexError(f"slot {slot} of {self.index.memory.header.slots}")
        for i in range(first, last):
            if self.blocks[i].tiers != 0:
                batch[filled] = self.blocks[i].chain
                filled += 1
            if filled == BATCH or (i + 1 == last and filled > 0):
                self.index.learn_blocks(batch, filled, slot, <uint32_t>now, 0)
                filled = 0
        return last if last < self.places else 0

    def release(self, uint64_t slot, size_t first, size_t places):
        cdef uint64_t batch[BATCH]
        cdef size_t i, filled = 0, last = min(self.places, first + min(places, self.places))
        if slot >= self.index.memory.header.slots:
            raise IndexError(f"slot {slot} of {self.index.memory.header.slots}")
        for i in range(first, last):
            if self.blocks[i].tiers != 0 and (self.ranks is None or self.ranks.drop_rank(self.blocks[i].chain, self.rank)):
                batch[filled] = self.blocks[i].chain
                filled += 1
            if filled == BATCH or (i + 1 == last and filled > 0):
                self.index.discard_blocks(batch, filled, slot)
                filled = 0
        return last if last < self.places else 0

    def clear(self):
        cdef HeldBlock* fresh = <HeldBlock*>calloc(FIRST_PLACES, sizeof(HeldBlock))
        if fresh == NULL:
            raise MemoryError
        free(self.blocks)
        self.blocks = fresh
        self.places = FIRST_PLACES
        self.shift = 64 - FIRST_PLACES_BITS
        self.count = 0

    def __len__(self):
        return self.count
