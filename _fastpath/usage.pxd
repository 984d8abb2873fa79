# What an engine says it used, read backwards from the end of its answer: nothing is parsed, so that a tail that begins anywhere will do.
cdef enum:
    USAGE_BYTES = 2048            # a usage object is looked through so far

cpdef object scan_usage(bytes text)
