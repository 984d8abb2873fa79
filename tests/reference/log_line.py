"""The access log's lines, made of dictionaries."""

from __future__ import annotations

import datetime
import json


class LogLines:
    """Lines in a list."""

    def __init__(self):
        self._lines = []

    @property
    def count(self):
        return len(self._lines)

    @property
    def size(self):
        return sum(len(line) for line in self._lines)

    def add(self, *arguments):
        self._lines.append(request_line(*arguments))

    def take(self):
        taken, self._lines = b"".join(self._lines), []
        return taken


def request_line(
    wall, request_id, path, status, operation, model, route, server, pod, stream, duration, first_byte, overhead, attempts,
    bytes_in, bytes_out, match_ratio, usage, prompt_tokens, output_tokens, cancelled, error_code, error_source, error_message,
    tenant, refusal, waited, decision=b"",
):  # fmt: skip
    """The same members in the same order, with the same values."""
    line = {
        "timestamp": moment(wall),
        "level": "info" if status < 500 else "error",
        "event": "request",
        "request_id": request_id,
        "method": "POST",
        "path": path,
        "status_code": status,
        "operation": operation,
        "model_name": model,
        "model_route": route,
        "model_server": server,
        "selected_pod": pod,
        "stream": stream,
        "duration_ms": _rounded(duration * 1000),
        "ttft_ms": _rounded(first_byte * 1000) if first_byte >= 0 else None,
        "overhead_ms": _rounded(overhead * 1000) if overhead >= 0 else None,
        **({"queue_ms": _rounded(waited * 1000)} if waited > 0 else {}),
        "upstream_attempts": attempts,
        "bytes_in": bytes_in,
        "bytes_out": bytes_out,
    }
    if match_ratio >= 0:
        line["prefix_match_ratio"] = _rounded(match_ratio)
    if usage is not None:
        line["input_tokens"], line["output_tokens"], cached = usage
        if cached >= 0:
            line["cached_tokens"] = cached
        line["tokens_source"] = "engine"
    elif prompt_tokens > 0:
        line["input_tokens"], line["output_tokens"], line["tokens_source"] = prompt_tokens, output_tokens, "estimate"
    if tenant:
        line["tenant"] = tenant
    if cancelled:
        line["cancelled"] = True
    if error_code:
        line["error.code"], line["error.origin"], line["error.message"] = error_code, error_source, error_message
    if refusal:
        line["auth.reason"] = refusal
    if decision:
        line["decision"] = json.loads(decision)
    return json.dumps(line).encode() + b"\n"


def _rounded(value):
    return round(value, 3)


def server_timing(overhead, waited, first):
    """The same text."""
    queue = f"queue;dur={waited * 1000:.3f}, " if waited > 0 else ""
    return f"penstock;dur={overhead * 1000:.3f}, {queue}engine;dur={first * 1000:.3f}"


def moment(wall):
    """RFC 3339, in UTC."""
    second, milliseconds = divmod(int(wall * 1000 + 0.5), 1000)
    return f"{datetime.datetime.fromtimestamp(second, datetime.UTC):%Y-%m-%dT%H:%M:%S}.{milliseconds:03d}+00:00"


def is_plain(text, longest):
    """The same, as the standard library says it."""
    return len(text) <= longest and text.isascii() and text.isprintable()
