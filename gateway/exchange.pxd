from _fastpath.hashing cimport BlockHashes
from _fastpath.scanner cimport Scan
from gateway.admission.limits cimport Reservation
from gateway.identity.gate cimport Caller
from gateway.routing.kinds cimport Kind
from gateway.routing.match cimport Matched
from gateway.scheduling.place cimport Placement
from gateway.scheduling.pool cimport ServerPool
from gateway.waiting cimport Run

cdef class Operation:
    cdef readonly str name, prompt
    cdef readonly bint counts_in_stream, takes_cache_salt, generates

cdef class Exchange:
    cdef public object scope, protocol, header, done, world
    cdef public str path, request_id
    cdef public Operation operation
    cdef public tuple usage
    cdef public str error_code, error_source, error_message, refusal
    cdef public bytes body, decision
    cdef public tuple tried
    cdef public Caller caller
    cdef public Scan scan
    cdef public Matched matched
    cdef public Kind kind
    cdef public ServerPool server
    cdef public Reservation reservation
    cdef public Placement placement
    cdef public Run run
    cdef public BlockHashes hashes
    cdef public unsigned long long session
    cdef public bint awaits_room, asked_for_usage, is_learned, pushes_back, is_released, client_gone, responded
    cdef public double started, deadline, waited, scheduling, sent, first_byte, last_byte
    cdef public long long announced, bytes_in, prompt_tokens, output_tokens, status, chunks, bytes_out, lease_turns

cdef class RequestIds:
    cdef str _process
    cdef long long _count
    cpdef str of(self, str sent)
