cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.buffer cimport PyObject_GetBuffer, PyBuffer_Release, PyBUF_SIMPLE
from libc.stdlib cimport free, realloc

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>

    static inline uint64_t penstock_fold(uint64_t a, uint64_t b) {
        unsigned __int128 product = (unsigned __int128)a * b;
        return (uint64_t)product ^ (uint64_t)(product >> 64);
    }
    static inline uint64_t penstock_word(const uint8_t *p) { uint64_t v; memcpy(&v, p, 8); return v; }

    /* Odd constants with an equal number of ones and zeros in each byte half: digits of the golden ratio and its powers. */
    #define PENSTOCK_C0 0x9E3779B97F4A7C15ULL
    #define PENSTOCK_C1 0xC2B2AE3D27D4EB4FULL
    #define PENSTOCK_C2 0xD6E8FEB86659FD93ULL
    #define PENSTOCK_C3 0xA0761D6478BD642FULL

    /* Each factor of a product has a key word of its own: with a word in common, two factors that change places would make a
       collision under every key. */
    static inline uint64_t penstock_hash(uint64_t chain, const uint8_t *p, size_t n, const uint64_t *key) {
        uint64_t a = chain ^ key[2], b = chain + key[3], left = n;
        while (left >= 32) {
            a = penstock_fold(penstock_word(p) ^ key[0], penstock_word(p + 8) ^ a ^ PENSTOCK_C0);
            b = penstock_fold(penstock_word(p + 16) ^ key[1], penstock_word(p + 24) ^ b ^ PENSTOCK_C1);
            p += 32; left -= 32;
        }
        if (left) {
            uint8_t tail[32] = {0};
            memcpy(tail, p, left);
            a = penstock_fold(penstock_word(tail) ^ key[0], penstock_word(tail + 8) ^ a ^ PENSTOCK_C0);
            b = penstock_fold(penstock_word(tail + 16) ^ key[1], penstock_word(tail + 24) ^ b ^ PENSTOCK_C1);
        }
        a = penstock_fold(a ^ key[4], b ^ key[5]);
        return penstock_fold(a ^ (uint64_t)n ^ key[1], chain ^ PENSTOCK_C3 ^ a);
    }

    /* Six words out of the two that are random. */
    static void penstock_expand_key(uint64_t low, uint64_t high, uint64_t *key) {
        key[0] = low;
        key[1] = high;
        key[2] = penstock_fold(low ^ PENSTOCK_C0, high ^ PENSTOCK_C1);
        key[3] = penstock_fold(low ^ PENSTOCK_C2, high ^ PENSTOCK_C3);
        key[4] = penstock_fold(low ^ PENSTOCK_C1, high ^ PENSTOCK_C2);
        key[5] = penstock_fold(low ^ PENSTOCK_C3, high ^ PENSTOCK_C0);
    }

    static void penstock_hash_blocks(const uint8_t *p, size_t blocks, size_t block_bytes, uint64_t chain,
                                     const uint64_t *key, uint64_t *out) {
        for (size_t i = 0; i < blocks; i++) {
            chain = penstock_hash(chain, p + i * block_bytes, block_bytes, key);
            out[i] = chain;
        }
    }
    """
    uint64_t penstock_hash(uint64_t chain, const uint8_t* p, size_t n, const uint64_t* key) noexcept nogil
    void penstock_expand_key(uint64_t low, uint64_t high, uint64_t* key) noexcept nogil
    void penstock_hash_blocks(const uint8_t* p, size_t blocks, size_t block_bytes, uint64_t chain,
                              const uint64_t* key, uint64_t* out) noexcept nogil


@cython.final
@cython.freelist(64)
cdef class BlockHashes:
    def __cinit__(self):
        self.values = NULL
        self.count = 0
        self.capacity = 0

    def __dealloc__(self):
        free(self.values)

    cdef int _reserve(self, size_t count) except -1:
        cdef uint64_t* grown
        if count > self.capacity:
            grown = <uint64_t*>realloc(self.values, count * sizeof(uint64_t))
            if grown == NULL:
                raise MemoryError
            self.values = grown
            self.capacity = count
        self.count = count
        return 0

    @staticmethod
    def of(values):
        cdef BlockHashes hashes = BlockHashes.__new__(BlockHashes)
        cdef size_t i
        hashes._reserve(len(values))
        for i in range(hashes.count):
            hashes.values[i] = values[i]
        return hashes

    def __len__(self):
        return self.count

    def __iter__(self):
        cdef size_t i
        for i in range(self.count):
            yield self.values[i]


@cython.final
cdef class Hasher:
    def __init__(self, tuple key not None, size_t block_bytes=64, size_t maximum_blocks=8192):
        if block_bytes < 1:
            raise ValueError("block_bytes must be at least 1")
        low, high = key
        penstock_expand_key(low, high, self.key)
        self.block_bytes = block_bytes
        self.maximum_blocks = maximum_blocks

    def seed(self, *parts):
        cdef uint64_t chain = 0
        cdef bytes data
        for part in parts:
            data = part.encode() if isinstance(part, str) else bytes(part)
            chain = penstock_hash(chain, <const uint8_t*>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), self.key)
        return chain

    def hash_text(self, bytes text not None, size_t start=0, size_t end=<size_t>-1, uint64_t seed=0):
        cdef size_t length = PyBytes_GET_SIZE(text)
        if end > length:
            end = length
        if start > end:
            raise ValueError(f"span {start} to {end} of {length} bytes")
        cdef size_t blocks = min((end - start) // self.block_bytes, self.maximum_blocks)
        cdef BlockHashes hashes = BlockHashes.__new__(BlockHashes)
        hashes._reserve(blocks)
        penstock_hash_blocks(<const uint8_t*>PyBytes_AS_STRING(text) + start, blocks, self.block_bytes, seed,
                             self.key, hashes.values)
        return hashes

    def hash_tokens(self, tokens, size_t block_tokens=16, uint64_t seed=0):
        cdef Py_buffer view
        cdef BlockHashes hashes = BlockHashes.__new__(BlockHashes)
        cdef size_t blocks
        if block_tokens < 1:
            raise ValueError("block_tokens must be at least 1")
        PyObject_GetBuffer(tokens, &view, PyBUF_SIMPLE)
        try:
            if view.itemsize != 4:
                raise ValueError("tokens must be 32-bit integers: array('I', ids)")
            blocks = min(<size_t>view.len // 4 // block_tokens, self.maximum_blocks)
            hashes._reserve(blocks)
            penstock_hash_blocks(<const uint8_t*>view.buf, blocks, 4 * block_tokens, seed, self.key, hashes.values)
        finally:
            PyBuffer_Release(&view)
        return hashes
