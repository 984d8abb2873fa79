"""The sidecar: routes and servers to what the gateway serves, engine metrics and KV events to where it reads them.

Reconcilers write the desired state, the publisher sends it, the scraper and the followers of KV events write the shared memory. Nothing
here waits for the gateway: either may start first, either may be gone for a while.
"""
