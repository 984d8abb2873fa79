"""From a request to the server that should have it: match a route, split by weight.

Here belongs what reads routes. Which of a server's endpoints takes the request is ``gateway.scheduling``'s.
"""
