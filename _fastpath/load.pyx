cimport cython
from libc.math cimport INFINITY, isfinite

from _fastpath.atomics cimport (
    atomic_load_f64, atomic_load_u64, atomic_relax_f64, atomic_relax_i64, atomic_relax_u64, atomic_relaxed_f64, atomic_relaxed_i64,
    atomic_relaxed_u64, atomic_store_f64, atomic_store_u64,
)

cdef double KEPT = 0.97                     # share of the earlier measurements that stays when another comes: the last 33 count
cdef enum:
    TICKS = 8                               # a second

cdef double AGE = 1.0 / (TICKS * RECENT_SECONDS)


# A time and a number of tokens in one word, so that nobody reads one without the other. After 17 years the time begins anew.
cdef inline uint64_t pack_recent(double tokens, double now) noexcept nogil:
    return <uint64_t>(now * TICKS) << 32 | <uint64_t>min(max(tokens, 0.0), 4294967295.0)


# Share of such a word's tokens that still count: half after RECENT_SECONDS, a third after twice as many.
cdef inline double kept(uint64_t recent, double now) noexcept nogil:
    return 0 if recent == 0 else 1 / (1 + max(0.0, now * TICKS - <double>(recent >> 32)) * AGE)


cdef inline double faded(uint64_t recent, double now) noexcept nogil:
    return <double><uint32_t>recent * kept(recent, now)


@cython.final
cdef class Load:
    def __init__(self, SharedMemory memory not None, long row=-1):
        if row >= <long>memory.header.workers:
            raise IndexError(f"row {row} of {memory.header.workers}")
        if sizeof(LoadCell) != LOAD_CELL_BYTES:
            raise SystemError(f"a load cell has {sizeof(LoadCell)} bytes, the shared memory has {LOAD_CELL_BYTES} for each")
        self.memory = memory
        self.slots = Slots(memory)
        self.cells = <LoadCell*>(memory.base + memory.header.load_at)
        self.metrics = <EngineMetrics*>(memory.base + memory.header.metrics_at)
        self.workers = memory.header.workers
        self.capacity = memory.header.slots
        self.own = row

    cdef int charge_cell(self, uint64_t slot, uint64_t generation, int64_t prefill, int64_t decode, double now) noexcept nogil:
        cdef LoadCell* cell = &self.cells[<uint64_t>self.own * self.capacity + slot]
        if atomic_load_u64(&cell.generation) != generation:
            atomic_relax_i64(&cell.in_flight, 0)
            atomic_relax_i64(&cell.prefill_tokens, 0)
            atomic_relax_i64(&cell.decode_tokens, 0)
            atomic_relax_f64(&cell.spent_tokens, 0)
            atomic_relax_f64(&cell.spent_seconds, 0)
            atomic_relax_f64(&cell.prefill_since, 0)
            atomic_relax_u64(&cell.recent, 0)
            atomic_relax_f64(&cell.asked, 0)
            atomic_store_u64(&cell.generation, generation)
        if now > 0:
            atomic_relax_f64(&cell.asked, cell.asked * kept(cell.recent, now) + 1)
            atomic_relax_u64(&cell.recent, pack_recent(faded(cell.recent, now) + prefill + decode, now))
        if cell.prefill_tokens == 0:
            atomic_relax_f64(&cell.prefill_since, now)
        atomic_relax_i64(&cell.in_flight, cell.in_flight + 1)
        atomic_relax_i64(&cell.prefill_tokens, cell.prefill_tokens + prefill)
        atomic_relax_i64(&cell.decode_tokens, cell.decode_tokens + decode)
        return 0

    # Engines prefill in turn. What runs there now began when the one before it had its first token, whoever sent that, or else when the
    # first of those that are outstanding was sent.
    cdef LoadSum sum(self, uint64_t slot, uint64_t generation, double now) noexcept nogil:
        cdef LoadSum total
        cdef LoadCell* cell
        cdef uint64_t worker
        cdef uint64_t recent
        cdef double share, since, earliest = INFINITY, latest = 0
        cdef int64_t outstanding
        total.in_flight = 0
        total.prefill_tokens = 0
        total.decode_tokens = 0
        total.spent_tokens = 0
        total.spent_seconds = 0
        total.recent_tokens = 0
        total.recent_requests = 0
        total.prefill_since = 0
        for worker in range(self.workers):
            cell = &self.cells[worker * self.capacity + slot]
            if atomic_load_u64(&cell.generation) == generation:
                total.in_flight += atomic_relaxed_i64(&cell.in_flight)
                outstanding = atomic_relaxed_i64(&cell.prefill_tokens)
                total.prefill_tokens += outstanding
                total.decode_tokens += atomic_relaxed_i64(&cell.decode_tokens)
                total.spent_tokens += atomic_relaxed_f64(&cell.spent_tokens)
                total.spent_seconds += atomic_relaxed_f64(&cell.spent_seconds)
                recent = atomic_relaxed_u64(&cell.recent)
                share = kept(recent, now)
                total.recent_tokens += <double><uint32_t>recent * share
                total.recent_requests += atomic_relaxed_f64(&cell.asked) * share
                since = atomic_relaxed_f64(&cell.prefill_since)
                if since <= 0:
                    latest = max(latest, -since)
                elif outstanding > 0:
                    earliest = min(earliest, since)
        if total.prefill_tokens > 0:
            total.prefill_since = max(latest, earliest) if earliest < INFINITY else latest
        return total

    cdef double computed(self, const EngineMetrics* metrics, double now) noexcept nogil:
        return faded(atomic_relaxed_u64(&metrics.computed), now)

    cdef const EngineMetrics* fresh_metrics(self, uint64_t slot, uint64_t generation, double now, double stale_after) noexcept nogil:
        cdef EngineMetrics* metrics = &self.metrics[slot]
        cdef double time = atomic_load_f64(&metrics.time)
        if atomic_load_u64(&metrics.generation) != generation or time <= 0 or now - time > stale_after:
            return NULL
        return metrics

    cdef int _check(self, uint64_t slot) except -1:
        if self.own < 0:
            raise ValueError("this process has no load row of its own")
        if slot >= self.capacity:
            raise IndexError(f"slot {slot} of {self.capacity}")
        return 0

    def charge(self, uint64_t slot, uint64_t generation, int64_t prefill_tokens, int64_t decode_tokens, double now=0.0):
        self._check(slot)
        if not self.slots.is_current(slot, generation):
            return False
        self.charge_cell(slot, generation, prefill_tokens, decode_tokens, now)
        return True

    cpdef object first_token(self, uint64_t slot, uint64_t generation, int64_t prefill_tokens, double now=0.0):
        self._check(slot)
        cdef LoadCell* cell = &self.cells[<uint64_t>self.own * self.capacity + slot]
        if atomic_load_u64(&cell.generation) != generation:
            return False
        atomic_relax_i64(&cell.prefill_tokens, max(<int64_t>0, cell.prefill_tokens - prefill_tokens))
        atomic_relax_f64(&cell.prefill_since, -now)
        return True

    def prefilled(self, uint64_t slot, uint64_t generation, double tokens, double seconds):
        self._check(slot)
        if not 0 <= tokens < INFINITY or not 0 < seconds < INFINITY:
            return False
        cdef LoadCell* cell = &self.cells[<uint64_t>self.own * self.capacity + slot]
        if atomic_load_u64(&cell.generation) != generation:
            return False
        atomic_relax_f64(&cell.spent_tokens, cell.spent_tokens * KEPT + tokens)
        atomic_relax_f64(&cell.spent_seconds, cell.spent_seconds * KEPT + seconds)
        return True

    def read_prefills(self, uint64_t slot, uint64_t generation):
        if slot >= self.capacity:
            raise IndexError(f"slot {slot} of {self.capacity}")
        cdef LoadSum total = self.sum(slot, generation, 0)
        return (total.spent_tokens, total.spent_seconds)

    def read_prefill_since(self, uint64_t slot, uint64_t generation):
        if slot >= self.capacity:
            raise IndexError(f"slot {slot} of {self.capacity}")
        return self.sum(slot, generation, 0).prefill_since

    def read_recent(self, uint64_t slot, uint64_t generation, double now):
        if slot >= self.capacity:
            raise IndexError(f"slot {slot} of {self.capacity}")
        return self.sum(slot, generation, now).recent_tokens

    def read_recent_requests(self, uint64_t slot, uint64_t generation, double now):
        if slot >= self.capacity:
            raise IndexError(f"slot {slot} of {self.capacity}")
        return self.sum(slot, generation, now).recent_requests

    def read_computed(self, uint64_t slot, uint64_t generation, double now):
        if slot >= self.capacity:
            raise IndexError(f"slot {slot} of {self.capacity}")
        cdef EngineMetrics* metrics = &self.metrics[slot]
        return self.computed(metrics, now) if atomic_load_u64(&metrics.generation) == generation else 0.0

    cpdef object release(self, uint64_t slot, uint64_t generation, int64_t prefill_tokens, int64_t decode_tokens):
        self._check(slot)
        cdef LoadCell* cell = &self.cells[<uint64_t>self.own * self.capacity + slot]
        if atomic_load_u64(&cell.generation) != generation or cell.in_flight <= 0:
            return False
        atomic_relax_i64(&cell.in_flight, cell.in_flight - 1)
        atomic_relax_i64(&cell.prefill_tokens, max(<int64_t>0, cell.prefill_tokens - prefill_tokens))
        atomic_relax_i64(&cell.decode_tokens, max(<int64_t>0, cell.decode_tokens - decode_tokens))
        return True

    def read(self, uint64_t slot, uint64_t generation):
        if slot >= self.capacity:
            raise IndexError(f"slot {slot} of {self.capacity}")
        cdef LoadSum total = self.sum(slot, generation, 0)
        return (total.in_flight, total.prefill_tokens, total.decode_tokens)

    def clear_worker(self, uint64_t worker):
        if worker >= self.workers:
            raise IndexError(f"worker {worker} of {self.workers}")
        cdef uint64_t slot
        cdef LoadCell* cell
        for slot in range(self.capacity):
            cell = &self.cells[worker * self.capacity + slot]
            atomic_relax_i64(&cell.in_flight, 0)
            atomic_relax_i64(&cell.prefill_tokens, 0)
            atomic_relax_i64(&cell.decode_tokens, 0)
            atomic_relax_f64(&cell.prefill_since, 0)

    def worker_in_flight(self, uint64_t worker):
        if worker >= self.workers:
            raise IndexError(f"worker {worker} of {self.workers}")
        cdef uint64_t slot
        cdef int64_t total = 0
        for slot in range(self.capacity):
            total += atomic_relaxed_i64(&self.cells[worker * self.capacity + slot].in_flight)
        return total

    def write_metrics(self, uint64_t slot, uint64_t generation, double running, double waiting, double kv_usage,
                      double first_token_seconds, double inter_token_seconds, double prefix_hit_ratio, double now, int64_t in_flight_before=0,
                      double kv_tokens=0.0, double computed_tokens=0.0):
        if slot >= self.capacity:
            raise IndexError(f"slot {slot} of {self.capacity}")
        if not self.slots.is_current(slot, generation):
            return False
        if not (isfinite(running) and isfinite(waiting) and isfinite(kv_usage) and isfinite(first_token_seconds)
                and isfinite(inter_token_seconds) and isfinite(prefix_hit_ratio) and isfinite(now) and isfinite(kv_tokens)
                and isfinite(computed_tokens)):
            return False
        cdef EngineMetrics* metrics = &self.metrics[slot]
        if atomic_load_u64(&metrics.generation) != generation or metrics.time <= 0:
            atomic_store_f64(&metrics.time, 0)
            atomic_relax_f64(&metrics.seen_others, INFINITY)
            atomic_relax_u64(&metrics.computed, 0)
            atomic_store_u64(&metrics.generation, generation)
        # requests came and went between the engine's writing of the page and now; what they seem to add is gone with the next scrape
        cdef double own = <double>max(in_flight_before, self.sum(slot, generation, 0).in_flight)
        cdef double others = max(0.0, running + waiting - own)
        atomic_relax_f64(&metrics.others, min(others, metrics.seen_others))
        atomic_relax_f64(&metrics.seen_others, others)
        atomic_relax_f64(&metrics.running, running)
        atomic_relax_f64(&metrics.waiting, waiting)
        atomic_relax_f64(&metrics.kv_usage, kv_usage)
        atomic_relax_f64(&metrics.first_token_seconds, first_token_seconds)
        atomic_relax_f64(&metrics.inter_token_seconds, inter_token_seconds)
        atomic_relax_f64(&metrics.prefix_hit_ratio, prefix_hit_ratio)
        atomic_relax_f64(&metrics.kv_tokens, kv_tokens)
        atomic_relax_u64(&metrics.computed, pack_recent(faded(metrics.computed, now) + max(0.0, computed_tokens), now))
        atomic_store_f64(&metrics.time, now)
        return True

    def read_metrics(self, uint64_t slot, uint64_t generation):
        if slot >= self.capacity:
            raise IndexError(f"slot {slot} of {self.capacity}")
        cdef EngineMetrics* metrics = &self.metrics[slot]
        cdef double time = atomic_load_f64(&metrics.time)
        if atomic_load_u64(&metrics.generation) != generation or time <= 0:
            return None
        return {
            "running": metrics.running,
            "waiting": metrics.waiting,
            "kv_usage": metrics.kv_usage,
            "first_token_seconds": metrics.first_token_seconds,
            "inter_token_seconds": metrics.inter_token_seconds,
            "prefix_hit_ratio": metrics.prefix_hit_ratio,
            "time": time,
            "others": metrics.others,
            "kv_tokens": metrics.kv_tokens,
        }
