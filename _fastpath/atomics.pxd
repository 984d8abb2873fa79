# Every atomic operation on shared memory, in one place. Loads acquire, stores release, exchanges are sequentially
# consistent; `relaxed` is for words that are hints or have a single writer.
from libc.stdint cimport uint8_t, uint32_t, uint64_t, int64_t

cdef extern from *:
    """
    #include <sched.h>
    #include <stdint.h>
    static inline void processor_yield(void) { sched_yield(); }
    static inline uint64_t atomic_load_u64(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
    static inline void atomic_store_u64(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
    static inline uint64_t atomic_relaxed_u64(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
    static inline void atomic_relax_u64(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELAXED); }
    static inline int64_t atomic_relaxed_i64(const int64_t *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
    static inline void atomic_relax_i64(int64_t *p, int64_t v) { __atomic_store_n(p, v, __ATOMIC_RELAXED); }
    static inline int atomic_exchange_if_u64(uint64_t *p, uint64_t expected, uint64_t desired) {
        return __atomic_compare_exchange_n(p, &expected, desired, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    }
    static inline uint64_t atomic_or_u64(uint64_t *p, uint64_t v) { return __atomic_fetch_or(p, v, __ATOMIC_RELAXED); }
    static inline uint64_t atomic_and_u64(uint64_t *p, uint64_t v) { return __atomic_fetch_and(p, v, __ATOMIC_RELAXED); }
    static inline uint64_t atomic_add_u64(uint64_t *p, uint64_t v) { return __atomic_fetch_add(p, v, __ATOMIC_RELAXED); }
    static inline uint8_t atomic_load_u8(const uint8_t *p) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }
    static inline void atomic_store_u8(uint8_t *p, uint8_t v) { __atomic_store_n(p, v, __ATOMIC_SEQ_CST); }
    static inline void atomic_fence(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
    static inline double atomic_relaxed_f64(const double *p) { double v; __atomic_load(p, &v, __ATOMIC_RELAXED); return v; }
    static inline void atomic_relax_f64(double *p, double v) { __atomic_store(p, &v, __ATOMIC_RELAXED); }
    static inline double atomic_load_f64(const double *p) { double v; __atomic_load(p, &v, __ATOMIC_ACQUIRE); return v; }
    static inline void atomic_store_f64(double *p, double v) { __atomic_store(p, &v, __ATOMIC_RELEASE); }
    """
    void processor_yield() noexcept nogil           # let another process go on
    uint64_t atomic_load_u64(const uint64_t *p) noexcept nogil
    void atomic_store_u64(uint64_t *p, uint64_t v) noexcept nogil
    uint64_t atomic_relaxed_u64(const uint64_t *p) noexcept nogil
    void atomic_relax_u64(uint64_t *p, uint64_t v) noexcept nogil
    int64_t atomic_relaxed_i64(const int64_t *p) noexcept nogil
    void atomic_relax_i64(int64_t *p, int64_t v) noexcept nogil
    bint atomic_exchange_if_u64(uint64_t *p, uint64_t expected, uint64_t desired) noexcept nogil
    uint64_t atomic_or_u64(uint64_t *p, uint64_t v) noexcept nogil
    uint64_t atomic_and_u64(uint64_t *p, uint64_t v) noexcept nogil
    uint64_t atomic_add_u64(uint64_t *p, uint64_t v) noexcept nogil
    uint8_t atomic_load_u8(const uint8_t *p) noexcept nogil
    void atomic_store_u8(uint8_t *p, uint8_t v) noexcept nogil
    void atomic_fence() noexcept nogil
    double atomic_relaxed_f64(const double *p) noexcept nogil
    void atomic_relax_f64(double *p, double v) noexcept nogil
    double atomic_load_f64(const double *p) noexcept nogil
    void atomic_store_f64(double *p, double v) noexcept nogil
