cdef class Deadlines:
    cdef object _clock, _timer
    cdef list _slots
    cdef long long _at, _count
    cpdef double add(self, entry, double due) except? -1
