from gateway.routing.kinds cimport Kinds

cdef class CompiledRule:
    cdef readonly object rule, model, path
    cdef readonly tuple headers
    cdef readonly bint is_plain
    cdef readonly str only
    cpdef bint matches(self, str model, str path, headers) except -1

cdef class CompiledRoute:
    cdef readonly object route
    cdef readonly tuple rules, limits
    cdef readonly str name
    cdef readonly Kinds kinds

cdef class Matched:
    cdef readonly CompiledRoute route
    cdef readonly object rule
    cdef readonly bint is_adapter
    cdef readonly str only

cpdef Matched match(routes, str model, str path, headers)
