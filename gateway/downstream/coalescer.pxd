cimport cython

cdef class Coalescer:
    cdef double _longest, _longest_gap, _gap, _weight, _last
    cdef bint _is_due
    cdef object _bell
    cdef readonly bint is_waiting
    @cython.locals(gap=double)
    cpdef note(self, double now)
    cpdef hurry(self)
