# A request written to its socket in one system call, its head and its body where they lie.
from libc.stdint cimport uint8_t

cpdef Py_ssize_t send_both(int descriptor, bytes head, bytes body) except -1
cdef ssize_t _write(int descriptor, const uint8_t* head, size_t head_bytes, const uint8_t* body, size_t body_bytes) noexcept nogil
