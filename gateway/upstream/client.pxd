from gateway.deadlines cimport Deadlines
from gateway.upstream.connection cimport Answer, Connection
from gateway.upstream.pool cimport Pool

cdef class UpstreamClient:
    cdef Deadlines _deadlines
    cdef object _clock, _tls, _authorities
    cdef readonly Pool _pool
    cpdef Connection kept(self, endpoint)
    cpdef Answer ask(self, Connection connection, str path, str headers, bytes body, traffic)
    cpdef Answer _ask(self, Connection connection, bytes head, bytes body, traffic)

cpdef bytes _head(str host, str path, str headers, long long length)
