from _fastpath.scoring cimport Policy, Pool

cdef class ServerPool:
    cdef readonly object server
    cdef readonly tuple endpoints, plugins
    cdef readonly Pool pool, narrow
    cdef readonly Policy policy
    cdef readonly bint keeps_sessions, matches_tokens
