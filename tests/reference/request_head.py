"""The head of a request, made of formatted strings."""

from __future__ import annotations

_PASSED_ON = ("accept", "traceparent", "tracestate", "user-agent")


def passed_on(request_id, header, with_authorization):
    """The lines that an engine is told of a request."""
    if not (request_id and request_id.isascii() and request_id.isprintable()):
        raise ValueError
    lines = f"content-type: application/json\r\naccept-encoding: identity\r\nx-request-id: {request_id}\r\n"
    for name in (*_PASSED_ON, "authorization") if with_authorization else _PASSED_ON:
        value = header(name)
        if value and value.isascii() and value.isprintable():
            lines = f"{lines}{name}: {value}\r\n"
        elif name == "accept":
            lines += "accept: */*\r\n"
    return lines


def request_head(start, lines, length):
    """A whole head."""
    return start + f"{lines}content-length: {length}\r\n\r\n".encode("ascii")
