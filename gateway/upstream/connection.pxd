cimport cython
from _fastpath.http1 cimport BodyReader, Head, body_of, parse_head
from gateway.deadlines cimport Deadlines
from gateway.waiting cimport Signal

cdef class Connection:
    cdef readonly object endpoint, clock
    cdef readonly str host
    cdef public double due
    cdef readonly bint is_closed
    cdef readonly long long requests
    cdef object _keeper, _transport
    cdef Deadlines _deadlines
    cdef double _looked_at
    cdef readonly Answer _answer
    cdef int _descriptor
    cdef bint _is_paused
    cpdef wait_until(self, double due)
    cpdef send(self, bytes head, bytes body, Answer answer)
    cpdef data_received(self, bytes data)
    cpdef release(self, bint is_reusable)
    cpdef drop(self)
    cpdef pause(self)
    cpdef resume(self, double patience)
    cpdef check(self, double now)
    cpdef _read_on(self)

cdef class Answer:
    cdef Connection _connection
    cdef double _timeout, _idle_timeout
    cdef bytes _early
    cdef int _interim
    cdef BodyReader _body
    cdef object _pieces, _sink
    cdef long long _unread, _patience
    cdef bint _is_paused
    cdef public Head head
    cdef public object error
    cdef readonly Signal arrived
    cpdef pause(self)
    cpdef resume(self)
    cpdef close(self)
    cpdef feed(self, bytes data)
    cpdef lost(self)
    cpdef overdue(self)
    cpdef _deliver(self, bytes piece)
    cpdef _take_one(self)
    cpdef take(self)
    @cython.locals(head=Head, start=size_t)
    cpdef tuple _feed_head(self, bytes data)
