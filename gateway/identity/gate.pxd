cdef class Models:
    cdef readonly object names
    cdef readonly tuple beginnings

cdef class Caller:
    cdef readonly str tenant
    cdef readonly tuple models
    cdef readonly double weight
    cdef readonly long priority
    cdef readonly bytes cache_salt
    cdef readonly object limits
    cpdef bint may_use(self, str model) except -1

cdef class ApiKey:
    cdef readonly bytes digest
    cdef readonly Caller caller

cdef class Admitted:
    cdef readonly Caller caller
    cdef readonly double until

cdef class Gate:
    cdef object _issuer, _public_paths, _wall, _caller_of
    cdef long _token_bytes, _cached_tokens
    cdef dict _keys, _admitted
    cpdef known(self, header)
    cpdef identify(self, header)
    cpdef str _credential(self, header)
