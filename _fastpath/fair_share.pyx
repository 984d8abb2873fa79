cimport cython

from _fastpath.atomics cimport (
    atomic_exchange_if_u64, atomic_load_f64, atomic_load_u64, atomic_relax_f64, atomic_relax_u64, atomic_relaxed_f64, atomic_store_u64,
)

cdef double FRESH = 0.05
cdef double CONTESTED = 10.0
cdef uint64_t TIME_MASK = (<uint64_t>1 << 40) - 1
cdef uint64_t MULTIPLIER = 0x9E3779B97F4A7C15


# Doubles from 0 on are in the order of their bits.
cdef inline void _raise_to(double* word, double value) noexcept nogil:
    cdef uint64_t* bits = <uint64_t*>word
    cdef uint64_t wanted = (<uint64_t*>&value)[0]
    cdef uint64_t stood = atomic_load_u64(bits)
    while stood < wanted and not atomic_exchange_if_u64(bits, stood, wanted):
        stood = atomic_load_u64(bits)


@cython.final
cdef class FairShare:
    FRESH_SECONDS = FRESH
    CONTESTED_SECONDS = CONTESTED

    def __init__(self, SharedMemory memory not None, int64_t worker):
        if worker < -1 or worker >= <int64_t>memory.header.workers:
            raise IndexError(f"worker {worker} of {memory.header.workers}")
        self.memory = memory
        self.workers = memory.header.workers
        self.own = <uint64_t>worker
        self.stride = sizeof(Place) + self.workers * sizeof(Head)
        self.places = memory.base + memory.header.fair_at
        self.debts = <double*>(self.places + PLACES * self.stride)
        self.sessions = <uint64_t*>(self.debts + DEBTS)

    cdef Place* place(self, uint64_t server) noexcept nogil:
        return <Place*>(self.places + server % PLACES * self.stride)

    cdef Head* head(self, Place* place, uint64_t worker) noexcept nogil:
        return <Head*>(<char*>place + sizeof(Place)) + worker

    cdef bint waits(self, uint64_t server, double now, bint others) noexcept nogil:
        cdef Place* place = self.place(server)
        cdef Head* head
        cdef uint64_t i
        for i in range(self.workers):
            head = self.head(place, i)
            if atomic_load_u64(&head.server) == server and now - atomic_relaxed_f64(&head.shown) <= FRESH:
                if not others or i != self.own:
                    return True
        return False

    def join(self, uint64_t server, uint64_t tenant, double tokens, double credit, double now):
        cdef Place* place = self.place(server)
        cdef double* debt = &self.debts[(server ^ tenant * MULTIPLIER) % DEBTS]
        cdef uint64_t* bits = <uint64_t*>debt
        cdef uint64_t stood
        cdef double tag, paid
        if not tokens >= 0 or not credit >= 0:
            raise ValueError(f"tokens and credit must not be below 0, not {tokens} and {credit}")
        if not self.waits(server, now, False):
            _raise_to(&place.virtual_time, atomic_load_f64(&place.most_paid))
        while True:
            stood = atomic_load_u64(bits)
            tag = max((<double*>&stood)[0], atomic_load_f64(&place.virtual_time) - credit)
            paid = tag + tokens
            if atomic_exchange_if_u64(bits, stood, (<uint64_t*>&paid)[0]):
                break
        _raise_to(&place.most_paid, paid)
        return tag

    def leave(self, uint64_t server, uint64_t tenant, double tag, double tokens, double credit):
        cdef uint64_t* bits = <uint64_t*>&self.debts[(server ^ tenant * MULTIPLIER) % DEBTS]
        cdef uint64_t stood
        cdef double left
        if not tokens >= 0 or not credit >= 0:
            raise ValueError(f"tokens and credit must not be below 0, not {tokens} and {credit}")
        # what the virtual time has passed by more than the credit is forgiven already: given back as well, it would pay for others
        cdef double returned = tag + tokens - max(tag, atomic_load_f64(&self.place(server).virtual_time) - credit)
        if returned <= 0:
            return 0.0
        while True:
            stood = atomic_load_u64(bits)
            left = max((<double*>&stood)[0] - returned, 0.0)
            if atomic_exchange_if_u64(bits, stood, (<uint64_t*>&left)[0]):
                return returned

    def served(self, uint64_t server, double tag):
        _raise_to(&self.place(server).virtual_time, tag)

    def show(self, uint64_t server, int64_t priority, double tag, double now):
        if self.own >= self.workers:
            raise ValueError("who looks on has no queue")
        cdef Head* head = self.head(self.place(server), self.own)
        atomic_relax_u64(<uint64_t*>&head.priority, <uint64_t>priority)
        atomic_relax_f64(&head.tag, tag)
        atomic_relax_f64(&head.shown, now)
        atomic_store_u64(&head.server, server)

    def hide(self, uint64_t server):
        if self.own >= self.workers:
            raise ValueError("who looks on has no queue")
        cdef Head* head = self.head(self.place(server), self.own)
        if atomic_load_u64(&head.server) == server:
            atomic_store_u64(&head.server, 0)

    cpdef bint is_waited(self, uint64_t server, double now) except -1:
        return self.waits(server, now, True)

    def is_first(self, uint64_t server, int64_t priority, double tag, double now):
        cdef Place* place = self.place(server)
        cdef Head* head
        cdef uint64_t i
        cdef int64_t theirs
        for i in range(self.workers):
            head = self.head(place, i)
            if i == self.own or atomic_load_u64(&head.server) != server or now - atomic_relaxed_f64(&head.shown) > FRESH:
                continue
            theirs = head.priority
            if theirs > priority or (theirs == priority and atomic_relaxed_f64(&head.tag) < tag):
                return False
        return True

    cpdef object note(self, uint64_t server, uint64_t tenant, double now):
        cdef Place* place = self.place(server)
        cdef uint64_t earlier = atomic_load_u64(&place.tenant)
        cdef bint is_same = atomic_load_u64(&place.asked) == server
        if earlier != tenant or not is_same:
            if earlier and is_same:
                atomic_relax_f64(&place.contested, now)
            atomic_store_u64(&place.tenant, tenant)
            atomic_store_u64(&place.asked, server)

    cpdef bint is_contested(self, uint64_t server, double now) except -1:
        cdef double at = atomic_relaxed_f64(&self.place(server).contested)
        return at > 0 and now - at <= CONTESTED

    def virtual_time(self, uint64_t server):
        return atomic_load_f64(&self.place(server).virtual_time)

    def paid(self, uint64_t server, uint64_t tenant):
        return atomic_load_f64(&self.debts[(server ^ tenant * MULTIPLIER) % DEBTS])

    def answered(self, uint64_t server, uint64_t session, double now):
        cdef uint64_t key = (server ^ session) * MULTIPLIER
        atomic_store_u64(&self.sessions[key % SESSIONS], (key & ~TIME_MASK) | (<uint64_t>(now * 1000) & TIME_MASK))

    def last_answer(self, uint64_t server, uint64_t session):
        cdef uint64_t key = (server ^ session) * MULTIPLIER
        cdef uint64_t word = atomic_load_u64(&self.sessions[key % SESSIONS])
        return <double>(word & TIME_MASK) / 1000 if word and (word ^ key) & ~TIME_MASK == 0 else 0.0
