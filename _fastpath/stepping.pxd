cpdef object step(object coroutine)
cpdef bint is_end(object said) noexcept
