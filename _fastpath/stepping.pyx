cdef extern from "Python.h":
    ctypedef enum PySendResult:
        PYGEN_RETURN
        PYGEN_ERROR
        PYGEN_NEXT
    PySendResult PyIter_Send(object coroutine, object value, void** result) except PYGEN_ERROR

from cpython.ref cimport Py_DECREF


cdef class _Ended:
    pass

ENDED = _Ended()
cdef object _ENDED = ENDED


cpdef object step(object coroutine):
    cdef void* result = NULL
    cdef PySendResult outcome = PyIter_Send(coroutine, None, &result)
    cdef object said = <object>result
    Py_DECREF(said)  # which the call has given away, and `said` holds itself
    return said if outcome == PYGEN_NEXT else _ENDED


cpdef bint is_end(object said) noexcept:
    return said is _ENDED
