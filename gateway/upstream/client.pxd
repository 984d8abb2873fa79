from _fastpath.clock cimport seconds
from _fastpath.request_head cimport request_head
from gateway.deadlines cimport Deadlines
from gateway.upstream.connection cimport Answer, Connection
from gateway.upstream.pool cimport Pool

cdef class UpstreamClient:
    cdef Deadlines _deadlines
    cdef object _clock, _tls, _authorities
    cdef readonly Pool _pool
    cpdef Connection kept(self, endpoint)
    cpdef Answer ask(self, Connection connection, str path, str headers, bytes body, traffic, double now=*)
