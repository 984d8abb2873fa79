import time

from libc.time cimport time_t

cdef extern from "<time.h>" nogil:
    cdef struct timespec:
        time_t tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec* now)
    const int CLOCK_MONOTONIC

cdef object _MONOTONIC = time.monotonic


cpdef double seconds(object clock) except? -1.0:
    cdef timespec now
    if clock is _MONOTONIC:
        clock_gettime(CLOCK_MONOTONIC, &now)
        return now.tv_sec + now.tv_nsec * 1e-9
    return clock()
