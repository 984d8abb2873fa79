"""Instructions of the request path inside one process: what a request costs without the kernel, Granian and the machine's noise."""
