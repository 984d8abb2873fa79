# What the workers' queues for a server have in common: a virtual time, what tenants have paid ahead of it, and who is first in each.
#
#   places: virtual time, most that was paid, one head a worker | debts: what a tenant has paid at a server | sessions: last answers
#
# A server's place and a tenant's debt are found by hash, and nothing is ever cleared: virtual time only grows, and a debt behind it is
# none. Who leaves unserved has its part of the debt taken back, as far as virtual time has not forgiven it already. Two servers in one place share their virtual time, two tenants in one debt share that: less fair, and nothing worse. A head counts
# for a moment after its worker has shown it last, so that nobody has to bury one. Of two sessions in one word the later one is remembered:
#
#   mark of the session (24 bits) | time of its last answer in milliseconds (40)
from libc.stdint cimport int64_t, uint64_t
from _fastpath.shared_memory cimport SharedMemory

cdef enum:
    PLACES = 256
    DEBTS = 8192
    SESSIONS = 8192

cdef struct Head:
    uint64_t server               # 0: nobody waits
    int64_t priority
    double tag
    double shown                  # monotonic seconds

cdef struct Place:
    double virtual_time
    double most_paid
    uint64_t tenant               # who asked last
    double contested              # when a tenant asked after another one, monotonic seconds
    uint64_t asked                # server that it was: servers that meet here have not the same tenants
    double reserved[3]

cdef class FairShare:
    cdef SharedMemory memory
    cdef char* places
    cdef double* debts
    cdef uint64_t* sessions
    cdef uint64_t stride          # bytes of a place with its heads
    cdef uint64_t workers
    cdef uint64_t own             # beyond all workers: of who looks on

    cdef Place* place(self, uint64_t server) noexcept nogil
    cdef Head* head(self, Place* place, uint64_t worker) noexcept nogil
    cdef bint waits(self, uint64_t server, double now, bint others) noexcept nogil
    cpdef bint is_waited(self, uint64_t server, double now) except -1
    cpdef object note(self, uint64_t server, uint64_t tenant, double now)
    cpdef bint is_contested(self, uint64_t server, double now) except -1
