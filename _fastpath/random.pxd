# Words that look random.
from libc.stdint cimport uint64_t

# Finalizer of MurmurHash3 (Appleby, public domain): every bit of the word moves every other.
cdef inline uint64_t mixed(uint64_t word) noexcept nogil:
    word = (word ^ (word >> 33)) * <uint64_t>0xFF51AFD7ED558CCD
    word = (word ^ (word >> 33)) * <uint64_t>0xC4CEB9FE1A85EC53
    return word ^ (word >> 33)


# A word's place among all words: uniform in [0, 1) where words are.
cdef inline double share_of(uint64_t word) noexcept nogil:
    return <double>(word >> 11) * (1.0 / 9007199254740992.0)


# xorshift64*: Marsaglia 2003, Vigna 2016. Uniform in [0, 1). The state must not be 0.
cdef inline double uniform(uint64_t* state) noexcept nogil:
    state[0] ^= state[0] >> 12
    state[0] ^= state[0] << 25
    state[0] ^= state[0] >> 27
    return share_of(state[0] * <uint64_t>2685821657736338717)
