"""The data plane: from a client's request to the bytes of its answer.

Here belongs whatever a request passes through, the replica of what the control plane decided, and the supervisor that keeps the
workers running. A worker never calls the Kubernetes API, never scrapes an engine and never waits for the control plane. The gateway
imports ``_fastpath`` and nothing else of ours; controllers meet it in ``gateway.datastore`` alone.
"""
