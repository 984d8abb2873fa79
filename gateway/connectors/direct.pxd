cimport cython
from _fastpath.request_head cimport passed_on
from _fastpath.scanner cimport Scan
from gateway.exchange cimport Exchange
from gateway.identity.gate cimport Caller
from gateway.scheduling.place cimport Placement
from gateway.scheduling.pool cimport ServerPool
from gateway.upstream.client cimport UpstreamClient
from gateway.upstream.connection cimport Answer, Connection

@cython.locals(scan=Scan, server=ServerPool, caller=Caller)
cpdef bytes upstream_body(Exchange exchange)
@cython.locals(placement=Placement, connection=Connection)
cpdef Answer send_at_once(Exchange exchange, UpstreamClient client, bint forwards_authorization=*)
