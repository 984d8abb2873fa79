"""The one tree of errors that a client can be told: where it came from, its status, and whether a retry may help.

Raised anywhere on the request path; made into a response by :func:`body` and :func:`headers` alone. Statuses and codes are those of
OpenAI's API, so that its SDKs do the right thing.
"""

from __future__ import annotations

import math
from typing import Literal

import orjson

Source = Literal["client", "gateway", "upstream"]


class PenstockError(Exception):
    """An error with everything that a client, a log line and a metric need of it."""

    source: Source = "gateway"
    status: int = 500
    type: str = "server_error"
    code: str = "internal_error"
    retryable: bool = False

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        parameter: str | None = None,
        retry_after: float | None = None,
        extra_headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or type(self).code
        self.parameter = parameter
        self.retry_after = retry_after
        self.extra_headers = extra_headers


class ClientError(PenstockError):
    """The request cannot be served as it is: sending it again does not help."""

    source = "client"
    status = 400
    type = "invalid_request_error"
    code = "invalid_request"


class Unauthorized(ClientError):
    """No credential, or none that counts. The client is told that alone; ``reason`` is a word for the log."""

    status = 401
    type = "authentication_error"
    code = "invalid_api_key"

    def __init__(self, reason: str) -> None:
        super().__init__(
            "This gateway needs a valid credential: send `authorization: Bearer` and an API key or a token.",
            extra_headers=(("www-authenticate", "Bearer"), ("connection", "close")),  # the body was not read
        )
        self.reason = reason


class ModelNotAllowed(ClientError):
    """The caller may not use the model, whether it exists or not."""

    status = 403
    type = "permission_error"
    code = "model_not_allowed"


class NotFound(ClientError):
    """Unknown path."""

    status = 404
    code = "unknown_url"


class ModelNotFound(ClientError):
    """No route serves the model."""

    status = 404
    code = "model_not_found"


class MethodNotAllowed(ClientError):
    """The path exists, for another method."""

    status = 405
    code = "method_not_allowed"


class RequestTimeout(ClientError):
    """The body did not come in time."""

    status = 408
    code = "request_timeout"
    retryable = True


class TooLarge(ClientError):
    """The body is larger than the gateway accepts."""

    status = 413
    code = "request_too_large"


class UnsupportedMedia(ClientError):
    """The body is compressed, or is no JSON by its own word."""

    status = 415
    code = "unsupported_media_type"


class RateLimited(ClientError):
    """A limit refuses the request for now, or for good when it is larger than the limit can ever hold."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"
    retryable = True
    limit = ""
    """Name of the limit that refused."""
    scope = ""
    """What it is a limit of: ``route``, ``tenant`` or ``key``."""
    is_awaited = False
    """Whether what lacked was asked of the store that gateways share, and may be there in a moment."""


class NoEndpoint(PenstockError):
    """The route stands, but nothing behind it can take the request now."""

    status = 503
    code = "no_ready_endpoints"
    retryable = True


class Overloaded(PenstockError):
    """This gateway itself has no room for the request."""

    status = 503
    code = "overloaded"
    retryable = True


class IdentityUnavailable(PenstockError):
    """Tokens cannot be checked: their issuer's keys could not be had yet, or for longer than they may be kept."""

    status = 503
    code = "identity_unavailable"
    retryable = True


class QueueFull(PenstockError):
    """Every endpoint has as many requests as it may."""

    status = 429
    type = "rate_limit_error"
    code = "queue_full"
    retryable = True


class Draining(PenstockError):
    """This gateway is shutting down."""

    status = 503
    code = "draining"
    retryable = True


class UpstreamError(PenstockError):
    """The engine refused the connection, broke off, or answered what no client may see."""

    source = "upstream"
    status = 502
    code = "upstream_error"
    retryable = True
    is_engines_fault = True
    """False for what this gateway itself lacks, such as a file descriptor: no reason to leave the engine alone."""
    is_sent = True
    """False when the engine has had nothing of the request: it costs nothing."""


class UpstreamTimeout(UpstreamError):
    """The engine did not answer in time."""

    status = 504
    code = "upstream_timeout"
    retryable = False


class ClientGone(Exception):
    """The client closed its connection; there is nobody to tell."""

    status = 499
    code = "client_closed"


def body(error: PenstockError) -> bytes:
    """The OpenAI error object, all four keys."""
    return orjson.dumps(
        {"error": {"message": error.message, "type": error.type, "param": error.parameter, "code": error.code}}
    )


def headers(error: PenstockError) -> list[tuple[str, str]]:
    """What tells a client's retry logic the truth."""
    found = [("content-type", "application/json"), ("x-should-retry", "true" if error.retryable else "false")]
    if error.retry_after is not None and math.isfinite(error.retry_after):
        milliseconds = max(1, math.ceil(error.retry_after * 1000))
        found += [("retry-after", str(math.ceil(milliseconds / 1000))), ("retry-after-ms", str(milliseconds))]
    return [*found, *error.extra_headers]


def stream_event(error: PenstockError) -> bytes:
    """The event that ends a stream which failed; the connection is cut after it."""
    return b"event: error\ndata: " + body(error) + b"\n\n"
