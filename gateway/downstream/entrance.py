"""How what the server's threads have reaches the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from gateway.downstream.coalescer import Coalescer


class Entrance:
    """Stands for the event loop before Granian's threads, which need no more of it than this. What they bring waits for no stream."""

    def __init__(self, loop: asyncio.AbstractEventLoop, coalescer: Coalescer) -> None:
        self.call_soon = loop.call_soon
        self._later = loop.call_soon_threadsafe
        self._coalescer = coalescer

    def call_soon_threadsafe(self, callback: Callable[..., object], *arguments: Any, context: Any = None) -> None:
        """Have it called in the loop's thread, at once."""
        self._later(callback, *arguments, context=context)
        self._coalescer.hurry()
