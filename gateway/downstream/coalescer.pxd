cimport cython

cdef class Coalescer:
    cdef double _longest, _longest_gap, _gap, _weight, _last
    cdef long _pieces
    cdef bint _is_due, _is_hurried
    cdef object _bell
    cdef readonly bint is_waiting
    @cython.locals(gap=double)
    cpdef note(self, double now)
    cpdef hurry(self)
