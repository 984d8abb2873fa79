from _fastpath.stepping cimport is_end, step

cdef class Signal:
    cdef public bint _asyncio_future_blocking
    cdef bint _cancelled
    cdef public bint is_set
    cdef public object waiter
    cdef Run _run
    cpdef set(self)
    cpdef clear(self)

cdef class Run:
    cdef object _coroutine
    cdef object _waiting
    cdef object _pending
    cdef bint _is_moving
    cdef Signal _finished
    cdef readonly bint is_over
    cpdef start(self)
    cpdef _wake(self, waited)
    cpdef _move(self, error)
    cpdef _end(self)
