"""The control plane: from what operators wrote to what the gateway serves.

Here belong the API kinds, the stores they come from, the queue and loop of every controller, and the controllers. It knows of the gateway
only ``gateway.datastore`` (model and wire format); ``controllers.network`` also writes what it measures into the shared memory.
"""
