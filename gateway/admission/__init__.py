"""Who may, how much, in which order: what can refuse a request before an endpoint is looked for.

Here belongs the rate limiter, and later identity and the queue.
"""
