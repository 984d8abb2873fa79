cdef class CompiledRule:
    cdef readonly object rule, model, path
    cdef readonly tuple headers
    cpdef matches(self, str model, str path, headers)

cdef class CompiledRoute:
    cdef readonly object route
    cdef readonly tuple rules, limits
    cdef readonly str name

cdef class Matched:
    cdef readonly CompiledRoute route
    cdef readonly object rule
    cdef readonly bint is_adapter

cpdef match(routes, str model, str path, headers)
