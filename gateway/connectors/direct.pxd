from gateway.exchange cimport Exchange

cpdef str upstream_headers(Exchange exchange, bint forwards_authorization=*)
cpdef bytes upstream_body(Exchange exchange)
