import time

from libc.stdint cimport uint64_t
from libc.time cimport time_t

cdef extern from "<time.h>" nogil:
    cdef struct timespec:
        time_t tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec* now)
    const int CLOCK_MONOTONIC
    const int CLOCK_REALTIME

cdef object _MONOTONIC = time.monotonic
cdef object _MONOTONIC_NS = time.monotonic_ns
cdef object _WALL = time.time


cpdef double seconds(object clock) except? -1.0:
    cdef timespec now
    if clock is _MONOTONIC:
        clock_gettime(CLOCK_MONOTONIC, &now)
        return now.tv_sec + now.tv_nsec * 1e-9
    if clock is _WALL:
        clock_gettime(CLOCK_REALTIME, &now)
        return now.tv_sec + now.tv_nsec * 1e-9
    return clock()


cpdef uint64_t nanoseconds(object clock) except? 0:
    cdef timespec now
    if clock is _MONOTONIC_NS:
        clock_gettime(CLOCK_MONOTONIC, &now)
        return <uint64_t>now.tv_sec * 1_000_000_000 + <uint64_t>now.tv_nsec
    return clock()
