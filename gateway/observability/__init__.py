"""What can be seen of the gateway from outside: metrics and the access log.

Counting is one compiled call a request; rendering is the supervisor's, so that a scrape never holds up a request.
"""
