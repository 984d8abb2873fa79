"""Asks a running gateway's admin port. Standard library alone: it is imported by commands that should start at once."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from penstock.main import UserError

DEFAULT_SERVER = "http://127.0.0.1:8081"


def ask(server: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> Any:
    """The document at ``path``. Raises UserError."""
    if not server.startswith(("http://", "https://")):
        server = f"http://{server}"
    try:
        request = urllib.request.Request(f"{server.rstrip('/')}{path}", data=body, headers=headers or {})  # noqa: S310
        with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310 - scheme checked above
            return json.load(response)
    except urllib.error.HTTPError as error:
        try:
            message = json.load(error)["error"]["message"]
        except (ValueError, KeyError, TypeError):
            message = f"status {error.code}"
        raise UserError(message) from error
    except (urllib.error.URLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise UserError(
            f"no gateway answers at {server}: {reason}", "start one with `penstock demo`, or name it with --server URL"
        ) from error


@contextmanager
def expecting_a_gateway(server: str) -> Iterator[None]:
    """Raises UserError when what was asked did not answer as a gateway does."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise UserError(
            f"what answers at {server} is no gateway of this version", "name its admin port with --server URL"
        ) from error


def table(columns: list[str], rows: list[list[Any]]) -> str:
    """Columns as wide as they need to be, in the manner of kubectl."""
    texts = [[column.upper() for column in columns]] + [
        ["-" if cell is None else str(cell) for cell in row] for row in rows
    ]
    widths = [max(len(row[i]) for row in texts) for i in range(len(columns))]
    lines = ("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in texts)
    return "\n".join(lines)
