cimport cython
from gateway.exchange cimport Exchange
from gateway.scheduling.place cimport Placement
from gateway.upstream.client cimport UpstreamClient
from gateway.upstream.connection cimport Answer, Connection

cpdef str upstream_headers(Exchange exchange, bint forwards_authorization=*)
cpdef bytes upstream_body(Exchange exchange)
@cython.locals(placement=Placement, connection=Connection)
cpdef Answer send_at_once(Exchange exchange, UpstreamClient client, bint forwards_authorization=*)
