# Who may be chosen: what is known of each endpoint, and the filters.
from libc.stdint cimport uint32_t, uint64_t
from _fastpath.adapters cimport Adapters
from _fastpath.health cimport Health
from _fastpath.load cimport Load
from _fastpath.policy cimport Policy
from _fastpath.pool cimport Pool

cdef size_t look(Pool pool, Policy policy, Load loads, Health health, uint32_t role, double now) noexcept nogil
cdef size_t leave_out(Pool pool, size_t candidates) noexcept nogil
cdef void look_at_adapters(Pool pool, Adapters adapters, uint64_t adapter) noexcept nogil
cdef void leave_out_without_adapter(Pool pool) noexcept nogil
cdef double untold(Pool pool, const double* values) noexcept nogil
