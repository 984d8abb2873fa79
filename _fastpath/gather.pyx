from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

cdef extern from "<sys/socket.h>" nogil:
    """
    #include <sys/socket.h>
    #include <sys/uio.h>
    #include <errno.h>

    static ssize_t penstock_send_both(int descriptor, const void *head, size_t head_bytes, const void *body, size_t body_bytes) {
        struct iovec parts[2] = {{(void *)head, head_bytes}, {(void *)body, body_bytes}};
        struct msghdr message = {0};
        ssize_t sent;
        message.msg_iov = parts;
        message.msg_iovlen = 2;
        do sent = sendmsg(descriptor, &message, MSG_DONTWAIT | MSG_NOSIGNAL); while (sent < 0 && errno == EINTR);
        return sent;
    }
    """
    ssize_t penstock_send_both(int descriptor, const void* head, size_t head_bytes, const void* body, size_t body_bytes)


cdef inline ssize_t _write(int descriptor, const uint8_t* head, size_t head_bytes, const uint8_t* body, size_t body_bytes) noexcept nogil:
    return penstock_send_both(descriptor, head, head_bytes, body, body_bytes)


cpdef Py_ssize_t send_both(int descriptor, bytes head, bytes body) except -1:
    if head is None or body is None:
        raise TypeError("head and body must be bytes")
    # the interpreter is not let go of: whoever waits for it would take it, and to get it back costs more than the call
    cdef Py_ssize_t sent = _write(
        descriptor, <const uint8_t*>PyBytes_AS_STRING(head), PyBytes_GET_SIZE(head),
        <const uint8_t*>PyBytes_AS_STRING(body), PyBytes_GET_SIZE(body),
    )
    return max(sent, <Py_ssize_t>0)
