"""What any of our programs does with its log and with signals."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Callable

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def log_to_stderr() -> None:
    """Log lines of programs."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")


def on_stop_signals(handle: Callable[[], object]) -> None:
    """Call it at each SIGTERM, Ctrl-C and, when the terminal is closed, SIGHUP (unless nohup has it ignored)."""
    loop = asyncio.get_running_loop()
    for number in STOP_SIGNALS:
        if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, handle)
