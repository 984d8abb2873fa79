from gateway.deadlines cimport Deadlines
from gateway.upstream.pool cimport Pool

cdef class UpstreamClient:
    cdef Deadlines _deadlines
    cdef object _clock, _tls, _authorities
    cdef readonly Pool _pool
