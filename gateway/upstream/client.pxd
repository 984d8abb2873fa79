from gateway.deadlines cimport Deadlines
from gateway.upstream.connection cimport Answer, Connection
from gateway.upstream.pool cimport Pool

cdef class UpstreamClient:
    cdef Deadlines _deadlines
    cdef object _clock, _tls, _authorities
    cdef readonly Pool _pool
    cpdef Answer _ask(self, Connection connection, bytes head, bytes body, traffic)

cpdef bytes _head(str host, str path, str headers, long long length)
