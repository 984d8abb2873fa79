cimport cython
from _fastpath.clock cimport seconds
from _fastpath.gather cimport send_both
from _fastpath.http1 cimport BodyReader, Head, body_of, parse_head
from gateway.deadlines cimport Deadlines
from gateway.waiting cimport Signal

cdef class Connection
cdef class Answer

cdef class Keeper:
    cpdef give(self, Connection connection)
    cpdef lost(self, Connection connection)

cdef class Sink:
    cpdef take(self, bytes piece, double now)

cdef class Connection:
    cdef readonly object endpoint, clock
    cdef readonly str host, identity
    cdef public double due
    cdef readonly bint is_closed
    cdef Keeper _keeper
    cdef object _transport
    cdef Deadlines _deadlines
    cdef double _looked_at
    cdef readonly Answer _answer
    cdef int _descriptor
    cdef bint _is_paused, _is_buffered
    cdef str _path
    cdef bytes _start
    cdef object _traffic
    cdef double _timeout, _idle_timeout
    cpdef bytes start_of(self, str path)
    cpdef wait_until(self, double due)
    cpdef Answer ask(self, bytes head, bytes body, traffic, double now)
    @cython.locals(written="long long", head_size="long long")
    cpdef _send(self, bytes head, bytes body)
    @cython.locals(answer=Answer)
    cpdef data_received(self, bytes data)
    cpdef release(self, bint is_reusable, double now)
    cpdef bint _has_unsent(self) except -1
    cpdef drop(self)
    cpdef pause(self)
    cpdef resume(self, double patience)
    @cython.locals(answer=Answer)
    cpdef check(self, double now)
    cpdef _read_on(self)

cdef class Answer:
    cdef Connection _connection
    cdef double _timeout, _idle_timeout
    cdef bytes _early, _first
    cdef int _interim
    cdef BodyReader _body
    cdef object _further
    cdef Sink _sink
    cdef long long _unread, _patience
    cdef bint _is_paused
    cdef public bint is_complete
    cdef public Head head
    cdef public object error
    cdef readonly Signal arrived
    cpdef _begin(self, Connection connection, double timeout, double idle)
    cpdef pause(self)
    cpdef resume(self)
    cpdef close(self)
    @cython.locals(connection=Connection, head=Head, body=BodyReader, start=size_t, piece=bytes, now=double)
    cpdef feed(self, bytes data)
    cpdef lost(self)
    cpdef overdue(self)
    @cython.locals(sink=Sink)
    cpdef _deliver(self, bytes piece, double now)
    @cython.locals(piece=bytes)
    cpdef bytes _take_one(self)
    @cython.locals(found=bytes)
    cpdef bytes take(self)
    @cython.locals(start=size_t, head=Head)
    cpdef Head _read_head(self, bytes data)
