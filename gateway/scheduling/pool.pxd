from _fastpath.hashing cimport Hasher
from _fastpath.policy cimport Policy
from _fastpath.pool cimport Pool

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
    cdef readonly bint keeps_sessions, keeps_places, matches_tokens
    cdef readonly long attempts
    cdef readonly size_t block_bytes
    cdef readonly tuple alone
    cdef public Hasher hasher
    cdef public unsigned long long seed
    cdef public str seed_model
    cdef public bytes seed_salt
