"""The legs of one request: what is sent to which endpoint, in which order.

Here belongs one module a way of disaggregating prefill from decode; ``direct`` sends everything to one endpoint.
"""
