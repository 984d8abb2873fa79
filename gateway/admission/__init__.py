"""Who may, how much, in which order: what can refuse a request before an endpoint is looked for.

Here belong the rate limiter, the leases of limits that gateways share, and what is expected of answers.
"""
