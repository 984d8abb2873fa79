cpdef double seconds(object clock) except? -1.0
