cpdef split(rule, random)
