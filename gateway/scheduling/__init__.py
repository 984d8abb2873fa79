"""From a server to the endpoint that should have the request.

Here belongs what a server's pool looks like to the compiled scheduler, and the words for its decisions. The arithmetic is in
``_fastpath.scheduler``.
"""
