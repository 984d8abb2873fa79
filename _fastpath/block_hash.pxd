# The function behind all prompt hashes, as C: for text and tokens (`hashing`) and for what engines say they hold (`kv_blocks`).
from libc.stdint cimport uint8_t, uint64_t

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
