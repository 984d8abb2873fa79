"""The admin port: metrics, health, what the gateway serves and why, and its page. Served by the supervisor, never by a worker.

The gateway writes nothing to the cluster; whoever wants to know its state reads it here.
"""
