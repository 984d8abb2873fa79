from libc.stdint cimport uint64_t

cpdef double seconds(object clock) except? -1.0
cpdef uint64_t nanoseconds(object clock) except? 0
