# Where the plain text inside a JSON string ends, and whether it is UTF-8: 128 bytes at a time with AVX2, 16 with SSE2, else one by one.
#
# Strings are nearly all of a body. Short ones are looked at in place; only long ones are worth a call through a pointer to what the
# processor can do, which each module that uses this chooses once, on import.
from libc.stdint cimport uint8_t, uint32_t

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>
    #if defined(__x86_64__) && defined(__GNUC__)
    #define PENSTOCK_X86 1
    #include <immintrin.h>
    #define PENSTOCK_AVX2 __attribute__((target("avx2,popcnt")))
    #define PENSTOCK_AVX2_INLINE __attribute__((target("avx2,popcnt"), always_inline)) static inline
    #endif

    /* Escapes of one character. */
    static const uint8_t penstock_simple[256] = {
        ['n'] = 1, ['"'] = 1, ['\\\\'] = 1, ['t'] = 1, ['/'] = 1, ['r'] = 1, ['b'] = 1, ['f'] = 1,
    };

    /* Whether an escape of one character begins here. */
    static inline int penstock_is_simple(const uint8_t *p, size_t left) {
        return p[0] == '\\\\' && left > 1 && penstock_simple[p[1]];
    }

    static inline int penstock_ends_text(uint8_t c) { return c < 0x20 || c == '"' || c == '\\\\'; }

    /* Length of the UTF-8 sequence at p (RFC 3629: no overlong forms, no surrogates, up to U+10FFFF), 0 when it is none. */
    static inline size_t penstock_utf8(const uint8_t *p, size_t n) {
        uint8_t c = p[0];
        if (c < 0x80) return 1;
        if (c < 0xC2 || c > 0xF4) return 0;
        size_t length = c < 0xE0 ? 2 : c < 0xF0 ? 3 : 4;
        if (n < length) return 0;
        for (size_t i = 1; i < length; i++) if ((p[i] & 0xC0) != 0x80) return 0;
        if (c == 0xE0 && p[1] < 0xA0) return 0;
        if (c == 0xED && p[1] > 0x9F) return 0;
        if (c == 0xF0 && p[1] < 0x90) return 0;
        if (c == 0xF4 && p[1] > 0x8F) return 0;
        return length;
    }

    static size_t penstock_utf8_prefix(const uint8_t *p, size_t n) {
        size_t i = 0;
        while (i < n) {
            uint64_t word;
            while (n - i >= 8 && (memcpy(&word, p + i, 8), (word & 0x8080808080808080u) == 0)) i += 8;
            while (i < n && p[i] < 0x80) i++;
            while (i < n && p[i] >= 0x80) {
                size_t length = penstock_utf8(p + i, n - i);
                if (length == 0) return i;
                i += length;
            }
        }
        return i;
    }

    #ifdef PENSTOCK_X86
    /* Quotes and backslashes: what stands in the table at a byte's lower half; a byte beyond ASCII is given 0. */
    PENSTOCK_AVX2_INLINE __m256i penstock_marks32(__m256i v) {
        const __m256i marks = _mm256_broadcastsi128_si256(_mm_setr_epi8(1, 0, '"', 0, 0, 0, 0, 0, 0, 0, 0, 0, '\\\\', 0, 0, 0));
        return _mm256_cmpeq_epi8(_mm256_shuffle_epi8(marks, v), v);
    }

    /* Control characters. With `beyond`, `limit` is the last of them; else it is the first character that is none, and what is beyond
       ASCII is taken for one as well. */
    PENSTOCK_AVX2_INLINE __m256i penstock_controls32(__m256i v, __m256i limit, int beyond) {
        return beyond ? _mm256_cmpeq_epi8(_mm256_min_epu8(v, limit), v) : _mm256_cmpgt_epi8(limit, v);
    }

    PENSTOCK_AVX2_INLINE __m256i penstock_smallest(__m256i a, __m256i b, int beyond) {
        return beyond ? _mm256_min_epu8(a, b) : _mm256_min_epi8(a, b);
    }

    PENSTOCK_AVX2_INLINE uint64_t penstock_bits64(__m256i low, __m256i high) {
        return (uint32_t)_mm256_movemask_epi8(low) | (uint64_t)(uint32_t)_mm256_movemask_epi8(high) << 32;
    }

    /* Passes escapes of one character in 128 bytes from `*i`, whose marks the bits are, one by one. Where the text ends among them, or
       `n`: then `*i` is where to go on. */
    static inline size_t penstock_pass_few(const uint8_t *p, size_t n, size_t *i, uint64_t low, uint64_t high, int *escaped) {
        const size_t start = *i;
        size_t from = start, at;
        while (low | high) {
            if (low) {
                at = start + (size_t)__builtin_ctzll(low);
                low &= low - 1;
            } else {
                at = start + 64 + (size_t)__builtin_ctzll(high);
                high &= high - 1;
            }
            if (at < from) continue;  /* it is what an escape stands for */
            if (!penstock_is_simple(p + at, n - at)) return at;
            *escaped = 1;
            from = at + 2;
        }
        *i = from > start + 128 ? from : start + 128;
        return n;
    }

    /* Which bytes are the second of an escape, out of where backslashes are; `carry`: the byte before, or the last one, begins one.
       A run of them is told in one subtraction by whether it begins at an even place, as simdjson does it. */
    static inline uint64_t penstock_seconds(uint64_t slashes, uint64_t *carry) {
        const uint64_t odd = 0xAAAAAAAAAAAAAAAAu, first = slashes & ~*carry;
        const uint64_t both = (((first << 1) | odd) - first) ^ odd, seconds = both ^ (slashes | *carry);
        *carry = (both & slashes) >> 63;
        return seconds;
    }

    /* Characters that stand for an escape of one character: a bit for each upper half that one of them has. */
    PENSTOCK_AVX2_INLINE __m256i penstock_simple32(__m256i v) {
        const __m256i lower = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 0, 13, 0, 8, 0, 4, 0, 0, 0, 0, 0, 2, 0, 4, 1));
        const __m256i upper = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 0, 1, 0, 0, 2, 4, 8, 0, 0, 0, 0, 0, 0, 0, 0));
        const __m256i half = _mm256_and_si256(_mm256_srli_epi16(v, 4), _mm256_set1_epi8(0x0F));
        const __m256i bits = _mm256_and_si256(_mm256_shuffle_epi8(lower, v), _mm256_shuffle_epi8(upper, half));
        return _mm256_cmpgt_epi8(bits, _mm256_setzero_si256());
    }

    /* The same for many marks: all at once, so that no guess of the processor's can be wrong. */
    PENSTOCK_AVX2 __attribute__((noinline)) static size_t penstock_pass_many(const uint8_t *p, size_t n, size_t *i, uint64_t low, uint64_t high, int *escaped) {
        const __m256i slash = _mm256_set1_epi8('\\\\'), *at = (const __m256i *)(p + *i);
        const __m256i a = _mm256_loadu_si256(at), b = _mm256_loadu_si256(at + 1), c = _mm256_loadu_si256(at + 2), d = _mm256_loadu_si256(at + 3);
        const uint64_t low_slashes = penstock_bits64(_mm256_cmpeq_epi8(a, slash), _mm256_cmpeq_epi8(b, slash));
        const uint64_t high_slashes = penstock_bits64(_mm256_cmpeq_epi8(c, slash), _mm256_cmpeq_epi8(d, slash));
        uint64_t carry = 0;
        const uint64_t low_seconds = penstock_seconds(low_slashes, &carry), high_seconds = penstock_seconds(high_slashes, &carry);
        const uint64_t low_bad = low_seconds & ~penstock_bits64(penstock_simple32(a), penstock_simple32(b));
        const uint64_t high_bad = high_seconds & ~penstock_bits64(penstock_simple32(c), penstock_simple32(d));
        /* what is no second is a quote, a control character, or a backslash, which ends the text when its second is bad */
        low = (low & ~low_seconds & ~low_slashes) | low_bad >> 1 | high_bad << 63;
        high = (high & ~high_seconds & ~high_slashes) | high_bad >> 1;
        if (carry && (*i + 128 >= n || !penstock_simple[p[*i + 128]])) high |= (uint64_t)1 << 63;
        if (low | high) {
            const size_t end = low ? (size_t)__builtin_ctzll(low) : 64 + (size_t)__builtin_ctzll(high);
            const uint64_t before = end < 64 ? ((uint64_t)1 << end) - 1 : ~(uint64_t)0;
            *escaped |= ((low_seconds & before) | (end > 64 ? high_seconds & (((uint64_t)1 << (end - 64)) - 1) : 0)) != 0;
            return *i + end;
        }
        *escaped |= (low_seconds | high_seconds | carry) != 0;
        *i += 128 + (size_t)carry;
        return n;
    }

    PENSTOCK_AVX2_INLINE size_t penstock_last128(const uint8_t *p, size_t n, size_t i, uint32_t *high) {
        for (; n - i >= 32; i += 32) {
            const __m256i v = _mm256_loadu_si256((const __m256i *)(p + i));
            const uint32_t upper = (uint32_t)_mm256_movemask_epi8(v);
            const uint32_t ends = (uint32_t)_mm256_movemask_epi8(_mm256_or_si256(penstock_marks32(v), penstock_controls32(v, _mm256_set1_epi8(0x1F), 1)));
            if (ends) {
                const int at = __builtin_ctz(ends);
                *high |= upper & (((uint32_t)1 << at) - 1);
                return i + (size_t)at;
            }
            *high |= upper;
        }
        for (; i < n && !penstock_ends_text(p[i]); i++) *high |= p[i] & 0x80;
        return i;
    }

    PENSTOCK_AVX2 static size_t penstock_far_beyond_avx2(const uint8_t *p, size_t n, uint32_t *high, int *escaped);

    /* `beyond`: it has been seen that some are beyond ASCII. It may be said of a text that such ones come after: they are looked at in
       vain. */
    PENSTOCK_AVX2_INLINE size_t penstock_far(const uint8_t *p, size_t n, uint32_t *high, int *escaped, int beyond) {
        size_t i = 0, end;
        __m256i limit = beyond ? _mm256_set1_epi8(0x1F) : _mm256_set1_epi8(0x20);
        __asm__("" : "+x"(limit));  /* else the compiler makes two comparisons with 0x1F of the one with 0x20 */
        while (n - i >= 128) {
            const uint8_t *at = p + i, *last = p + n - 128;
            __m256i a, b, c, d, in_a, in_b, in_c, in_d, least, controls;
            for (;; at += 128) {
                a = _mm256_loadu_si256((const __m256i *)at), b = _mm256_loadu_si256((const __m256i *)(at + 32));
                c = _mm256_loadu_si256((const __m256i *)(at + 64)), d = _mm256_loadu_si256((const __m256i *)(at + 96));
                in_a = penstock_marks32(a), in_b = penstock_marks32(b), in_c = penstock_marks32(c), in_d = penstock_marks32(d);
                least = penstock_smallest(penstock_smallest(a, b, beyond), penstock_smallest(c, d, beyond), beyond);
                controls = penstock_controls32(least, limit, beyond);
                const __m256i marks = _mm256_or_si256(_mm256_or_si256(in_a, in_b), _mm256_or_si256(in_c, in_d));
                const __m256i ends = _mm256_or_si256(marks, controls);
                if (!_mm256_testz_si256(ends, ends)) break;
                if (at + 128 > last) return penstock_last128(p, n, (size_t)(at - p) + 128, high);
            }
            i = (size_t)(at - p);
            if (!_mm256_testz_si256(controls, controls)) {
                if (!beyond && _mm256_movemask_epi8(least)) {
                    *high = 1;
                    return i + penstock_far_beyond_avx2(p + i, n - i, high, escaped);
                }
                in_a = _mm256_or_si256(in_a, penstock_controls32(a, limit, beyond));
                in_b = _mm256_or_si256(in_b, penstock_controls32(b, limit, beyond));
                in_c = _mm256_or_si256(in_c, penstock_controls32(c, limit, beyond));
                in_d = _mm256_or_si256(in_d, penstock_controls32(d, limit, beyond));
            }
            const uint64_t low = penstock_bits64(in_a, in_b), upper = penstock_bits64(in_c, in_d);
            end = i + (low ? (size_t)__builtin_ctzll(low) : 64 + (size_t)__builtin_ctzll(upper));
            if (p[end] != '\\\\') return end;
            if (__builtin_popcountll(low) + __builtin_popcountll(upper) < 3) end = penstock_pass_few(p, n, &i, low, upper, escaped);
            else end = penstock_pass_many(p, n, &i, low, upper, escaped);
            if (end < n) return end;
        }
        return penstock_last128(p, n, i, high);
    }

    PENSTOCK_AVX2 static size_t penstock_far_avx2(const uint8_t *p, size_t n, uint32_t *high, int *escaped) {
        return penstock_far(p, n, high, escaped, 0);
    }

    PENSTOCK_AVX2 static size_t penstock_far_beyond_avx2(const uint8_t *p, size_t n, uint32_t *high, int *escaped) {
        return penstock_far(p, n, high, escaped, 1);
    }

    /* Keiser and Lemire, "Validating UTF-8 in less than one instruction per byte" (2020): every fault of two bytes shows as a bit that
       three tables, of the first byte's halves and of the second's upper half, have in common. */
    PENSTOCK_AVX2_INLINE __m256i penstock_faults(__m256i v, __m256i before) {
        enum { SHORT = 1, LONG = 2, OVER3 = 4, LARGE = 8, SURROGATE = 16, OVER2 = 32, LARGE1000 = 64, OVER4 = 64, TWO = 128,
               CARRY = SHORT | LONG | TWO, BEYOND = CARRY | LARGE | LARGE1000 };
        const __m256i first_upper = _mm256_broadcastsi128_si256(_mm_setr_epi8(LONG, LONG, LONG, LONG, LONG, LONG, LONG, LONG,
            (char)TWO, (char)TWO, (char)TWO, (char)TWO, SHORT | OVER2, SHORT, SHORT | OVER3 | SURROGATE,
            SHORT | LARGE | LARGE1000 | OVER4));
        const __m256i first_lower = _mm256_broadcastsi128_si256(_mm_setr_epi8((char)(CARRY | OVER3 | OVER2 | OVER4), (char)(CARRY | OVER2),
            (char)CARRY, (char)CARRY, (char)(CARRY | LARGE), (char)BEYOND, (char)BEYOND, (char)BEYOND, (char)BEYOND, (char)BEYOND,
            (char)BEYOND, (char)BEYOND, (char)BEYOND, (char)(BEYOND | SURROGATE), (char)BEYOND, (char)BEYOND));
        const __m256i second_upper = _mm256_broadcastsi128_si256(_mm_setr_epi8(SHORT, SHORT, SHORT, SHORT, SHORT, SHORT, SHORT, SHORT,
            (char)(LONG | OVER2 | TWO | OVER3 | LARGE1000 | OVER4), (char)(LONG | OVER2 | TWO | OVER3 | LARGE),
            (char)(LONG | OVER2 | TWO | SURROGATE | LARGE), (char)(LONG | OVER2 | TWO | SURROGATE | LARGE), SHORT, SHORT, SHORT, SHORT));
        const __m256i half = _mm256_set1_epi8(0x0F), across = _mm256_permute2x128_si256(before, v, 0x21);
        const __m256i one = _mm256_alignr_epi8(v, across, 15), two = _mm256_alignr_epi8(v, across, 14);
        const __m256i three = _mm256_alignr_epi8(v, across, 13);
        const __m256i first = _mm256_and_si256(
            _mm256_shuffle_epi8(first_upper, _mm256_and_si256(_mm256_srli_epi16(one, 4), half)),
            _mm256_shuffle_epi8(first_lower, _mm256_and_si256(one, half)));
        const __m256i special = _mm256_and_si256(first, _mm256_shuffle_epi8(second_upper, _mm256_and_si256(_mm256_srli_epi16(v, 4), half)));
        const __m256i third = _mm256_subs_epu8(two, _mm256_set1_epi8((char)(0xE0 - 0x80)));
        const __m256i fourth = _mm256_subs_epu8(three, _mm256_set1_epi8((char)(0xF0 - 0x80)));
        const __m256i wanted = _mm256_and_si256(_mm256_or_si256(third, fourth), _mm256_set1_epi8((char)0x80));
        return _mm256_xor_si256(wanted, special);
    }

    PENSTOCK_AVX2 static size_t penstock_utf8_prefix_avx2(const uint8_t *p, size_t n) {
        size_t i = 0;
        uint8_t last[32] = {0};  /* padded with ASCII: a sequence that is cut off at the end is one that is too short */
        __m256i before = _mm256_setzero_si256(), faults = before;
        for (; n - i >= 32; i += 32) {
            const __m256i v = _mm256_loadu_si256((const __m256i *)(p + i));
            if (_mm256_movemask_epi8(_mm256_or_si256(v, before))) faults = _mm256_or_si256(faults, penstock_faults(v, before));
            before = v;
        }
        memcpy(last, p + i, n - i);
        faults = _mm256_or_si256(faults, penstock_faults(_mm256_loadu_si256((const __m256i *)last), before));
        return _mm256_testz_si256(faults, faults) ? n : penstock_utf8_prefix(p, n);
    }
    #endif

    typedef struct {
        size_t (*far)(const uint8_t *, size_t, uint32_t *, int *);
        size_t (*utf8_prefix)(const uint8_t *, size_t);
    } penstock_text_ways;
    static penstock_text_ways penstock_text = {0, penstock_utf8_prefix};

    static int penstock_use_avx2(int wanted) {
    #ifdef PENSTOCK_X86
        if (wanted && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("popcnt")) {
            penstock_text.far = penstock_far_avx2;
            penstock_text.utf8_prefix = penstock_utf8_prefix_avx2;
            return 1;
        }
    #endif
        penstock_text.far = 0;
        penstock_text.utf8_prefix = penstock_utf8_prefix;
        return 0;
    }

    #ifdef PENSTOCK_X86
    static inline uint32_t penstock_marks16(__m128i v, __m128i controls) {
        const __m128i marks = _mm_or_si128(_mm_cmpeq_epi8(v, _mm_set1_epi8('"')), _mm_cmpeq_epi8(v, _mm_set1_epi8('\\\\')));
        return (uint32_t)_mm_movemask_epi8(_mm_or_si128(marks, controls));
    }
    #endif

    /* The rest of a text of which some are beyond ASCII. */
    __attribute__((noinline)) static size_t penstock_plain_beyond(const uint8_t *p, size_t n, uint32_t *high, int *escaped) {
        size_t i = 0;
        *high = 1;
    #ifdef PENSTOCK_X86
        while (n - i >= 16) {
            if (i >= 64 && penstock_text.far) return i + penstock_text.far(p + i, n - i, high, escaped);
            const __m128i v = _mm_loadu_si128((const __m128i *)(p + i));
            const uint32_t ends = penstock_marks16(v, _mm_cmpeq_epi8(_mm_min_epu8(v, _mm_set1_epi8(0x1F)), v));
            i += ends ? (size_t)__builtin_ctz(ends) : 16;
            if (!ends) continue;
            if (!penstock_is_simple(p + i, n - i)) return i;
            *escaped = 1;
            i += 2;
        }
    #endif
        while (i < n && !penstock_ends_text(p[i])) i++;
        return i;
    }

    static inline size_t penstock_plain(const uint8_t *p, size_t n, uint32_t *high, int *escaped) {
        size_t i = 0;
        *high = 0;
    #ifdef PENSTOCK_X86
        while (n - i >= 16) {
            if (i >= 64 && penstock_text.far) return i + penstock_text.far(p + i, n - i, high, escaped);
            const __m128i v = _mm_loadu_si128((const __m128i *)(p + i));
            const uint32_t ends = penstock_marks16(v, _mm_cmplt_epi8(v, _mm_set1_epi8(0x20)));  /* or beyond ASCII */
            if (!ends) {
                i += 16;
                continue;
            }
            i += (size_t)__builtin_ctz(ends);
            if (p[i] >= 0x80) return i + penstock_plain_beyond(p + i, n - i, high, escaped);
            if (!penstock_is_simple(p + i, n - i)) return i;
            *escaped = 1;
            i += 2;
        }
    #endif
        for (; i < n && !penstock_ends_text(p[i]); i++) *high |= p[i] & 0x80;
        return i;
    }

    static inline size_t penstock_valid(const uint8_t *p, size_t n) {
        return n < 64 ? penstock_utf8_prefix(p, n) : penstock_text.utf8_prefix(p, n);
    }

    static inline size_t penstock_digits(const uint8_t *p, size_t n) {
        size_t i = 0;
    #if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
        for (; n - i >= 8; i += 8) {  /* eight at once: how long a number is, a processor guesses badly */
            uint64_t word;
            memcpy(&word, p + i, 8);
            word ^= 0x3030303030303030u;
            word = (word | (word + 0x7676767676767676u)) & 0x8080808080808080u;
            if (word) return i + (size_t)(__builtin_ctzll(word) >> 3);
        }
    #endif
        while (i < n && p[i] >= '0' && p[i] <= '9') i++;
        return i;
    }

    static int penstock_digits_and_space(const uint8_t *p, size_t n) {
        size_t i = 0;
    #ifdef PENSTOCK_X86
        const __m128i zero = _mm_set1_epi8('0'), nine = _mm_set1_epi8(9), comma = _mm_set1_epi8(','), space = _mm_set1_epi8(' ');
        const __m128i tab = _mm_set1_epi8('\\t'), feed = _mm_set1_epi8('\\n'), back = _mm_set1_epi8('\\r');
        for (; n - i >= 16; i += 16) {
            const __m128i v = _mm_loadu_si128((const __m128i *)(p + i)), digit = _mm_sub_epi8(v, zero);
            __m128i good = _mm_or_si128(_mm_cmpeq_epi8(_mm_min_epu8(digit, nine), digit), _mm_cmpeq_epi8(v, comma));
            good = _mm_or_si128(good, _mm_or_si128(_mm_cmpeq_epi8(v, space), _mm_cmpeq_epi8(v, tab)));
            good = _mm_or_si128(good, _mm_or_si128(_mm_cmpeq_epi8(v, feed), _mm_cmpeq_epi8(v, back)));
            if (_mm_movemask_epi8(good) != 0xFFFF) return 0;
        }
    #endif
        for (; i < n; i++) {
            const uint8_t c = p[i];
            if (!((c >= '0' && c <= '9') || c == ',' || c == ' ' || c == '\\t' || c == '\\n' || c == '\\r')) return 0;
        }
        return 1;
    }
    """
    # use AVX2 where the processor has it and it is wanted; whether it is used from now on
    bint use_avx2 "penstock_use_avx2"(bint wanted) noexcept nogil
    # bytes up to a quote, a backslash or a control character; `high`: not zero when some of them may be beyond ASCII. Escapes of one
    # character may be passed: then `escaped` is set
    size_t plain_text "penstock_plain"(const uint8_t* text, size_t length, uint32_t* high, bint* escaped) noexcept nogil
    # how many bytes from the start are UTF-8, in whole characters
    size_t valid_utf8 "penstock_valid"(const uint8_t* text, size_t length) noexcept nogil
    # how many digits it begins with
    size_t digits "penstock_digits"(const uint8_t* text, size_t length) noexcept nogil
    # whether there are only digits, commas and JSON's white space
    bint digits_and_space "penstock_digits_and_space"(const uint8_t* text, size_t length) noexcept nogil
