"""Starts, watches and replaces the workers; owns the shared memory and the listening sockets.

The listening sockets belong to the supervisor and are inherited by the workers, one each on the same port: when a worker is killed its
socket stays open, and connections that wait in its queue are served by the next. One Granian with many workers would exit with the
first that is killed.
"""
