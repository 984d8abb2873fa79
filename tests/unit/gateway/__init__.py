"""The data plane, module by module, without sockets where it can be."""
