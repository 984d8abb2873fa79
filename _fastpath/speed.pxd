# How fast an endpoint computes prompts, in tokens a second.
cdef enum:
    SPEED_RANGE = 1000            # an endpoint is taken for so many times faster or slower than expected, at the most
    PRIOR_MILLISECONDS = 100      # of prefill at the expected speed stand beside what was measured


cdef inline double speed(double expected, double tokens, double seconds) noexcept nogil:
    cdef double found = (expected * (PRIOR_MILLISECONDS / 1000.0) + tokens) / (PRIOR_MILLISECONDS / 1000.0 + seconds)
    if not found < expected * SPEED_RANGE:
        return expected * SPEED_RANGE
    return max(found, expected / SPEED_RANGE)
