# The functions behind all prompt hashes, as C: for text and tokens (`hashing`) and for what engines say they hold (`kv_blocks`).
#
# Names and seeds have one function, which is the same in every gateway; blocks, of which a prompt may have thousands, have a cheaper one.
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
    #define PENSTOCK_PART 64

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

    /* The 64 bytes of a part as eight words. Three pairs of them, each word with a key word of its own, make a sum of products (NH:
       Black, Halevi, Krawczyk, Krovetz, Rogaway, "UMAC", 1999), and the last two words are added as they are. Whatever two parts somebody
       chooses who does not know the key, their 128-bit sums are equal under one key in 2^64: that holds for any difference of two sums of
       products, so what is added takes nothing away. No sum waits for the part before; only the last product does. */
    static inline uint64_t penstock_link_part(uint64_t chain, const uint8_t *p, const uint64_t *words) {
        typedef unsigned __int128 wide;
        wide sum = (wide)penstock_word(p + 56) << 64 | penstock_word(p + 48);
        sum += (wide)(penstock_word(p) + words[0]) * (penstock_word(p + 8) + words[1]);
        sum += (wide)(penstock_word(p + 16) + words[2]) * (penstock_word(p + 24) + words[3]);
        sum += (wide)(penstock_word(p + 32) + words[4]) * (penstock_word(p + 40) + words[5]);
        return penstock_fold((uint64_t)sum + chain, (uint64_t)(sum >> 64));
    }

    /* A block's hash out of that of the block before it: 64 bytes a part, the last one padded with zeros. */
    __attribute__((noinline)) static uint64_t penstock_link(uint64_t chain, const uint8_t *p, size_t n, const uint64_t *words) {
        uint8_t tail[PENSTOCK_PART] = {0};
        for (; n >= PENSTOCK_PART; p += PENSTOCK_PART, n -= PENSTOCK_PART) chain = penstock_link_part(chain, p, words);
        if (n == 0) return chain;
        memcpy(tail, p, n);
        return penstock_link_part(chain, tail, words);
    }

    /* The words for blocks of n bytes: blocks of different lengths have nothing in common. */
    static void penstock_block_words(const uint64_t *key, size_t n, uint64_t *words) {
        words[0] = penstock_hash((uint64_t)n << 8, NULL, 0, key);
        for (uint64_t i = 1; i < 6; i++) words[i] = penstock_hash(i, NULL, 0, key);
    }

    static void penstock_link_blocks(const uint8_t *p, size_t blocks, size_t block_bytes, uint64_t chain,
                                     const uint64_t *words, uint64_t *out) {
        if (block_bytes == PENSTOCK_PART) {
    #pragma GCC unroll 4
            for (size_t i = 0; i < blocks; i++) out[i] = chain = penstock_link_part(chain, p + i * PENSTOCK_PART, words);
        } else {
            for (size_t i = 0; i < blocks; i++) out[i] = chain = penstock_link(chain, p + i * block_bytes, block_bytes, words);
        }
    }
    """
    # of a text of any length, such as a name: what it is called in 64 bits
    uint64_t penstock_hash(uint64_t chain, const uint8_t* p, size_t n, const uint64_t* key) noexcept nogil
    void penstock_expand_key(uint64_t low, uint64_t high, uint64_t* key) noexcept nogil
    # six words for blocks of so many bytes
    void penstock_block_words(const uint64_t* key, size_t n, uint64_t* words) noexcept nogil
    uint64_t penstock_link(uint64_t chain, const uint8_t* p, size_t n, const uint64_t* words) noexcept nogil
    void penstock_link_blocks(const uint8_t* p, size_t blocks, size_t block_bytes, uint64_t chain,
                              const uint64_t* words, uint64_t* out) noexcept nogil
