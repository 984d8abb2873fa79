cimport cython

cdef class Deadlines:
    cdef object _clock, _timer
    cdef list _slots
    cdef long long _at, _count, _farthest, _size
    cdef double _tick
    @cython.locals(place="long long", slot=list)
    cpdef double add(self, entry, double due) except? -1
