"""What the control plane decided, as this process sees it: model, wire format, replica and the world that requests read.

Here belongs the contract between controllers and gateway. ``model`` and ``wire`` are imported by both; the rest is the
gateway's. What is *measured* (load, engine metrics, buckets) does not belong here: it lives in shared memory.
"""
