from _fastpath.scoring cimport Policy, Pool

cdef class PlacedEndpoint:
    cdef readonly object endpoint, slot
    cdef readonly str name
    cdef readonly unsigned long long slot_index, slot_generation

cdef class ServerPool:
    cdef readonly object server, traffic
    cdef readonly str name, policy_name
    cdef readonly tuple endpoints, plugins
    cdef readonly Pool pool, narrow
    cdef readonly Policy policy
    cdef readonly bint keeps_sessions, matches_tokens
