"""A request written to its socket in one system call."""

def send_both(descriptor: int, head: bytes, body: bytes) -> int:
    """Send two pieces, one after the other, without waiting: how many bytes went out.

    0 also when the socket takes none, or is broken: whoever writes the rest will find out. The interpreter is held meanwhile.
    """
