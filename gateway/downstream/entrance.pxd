from gateway.downstream.coalescer cimport Coalescer

cdef class Entrance:
    cdef readonly object call_soon
    cdef object _later
    cdef Coalescer _coalescer
