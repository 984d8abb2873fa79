"""What any of our programs does with its log and with signals."""

from __future__ import annotations

import asyncio
import logging
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def typed(program: str, folder: Path) -> str:
    """What one types in ``folder`` to start ``program`` (``sys.argv[0]``) again: its name where the shell finds that, else its path."""
    path = Path(program)
    if path.name != "penstock" or shutil.which("penstock") is not None:
        return "penstock"
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else program


def log_to_stderr() -> None:
    """Log lines of programs."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")


def on_stop_signals(handle: Callable[[], object]) -> None:
    """Call it at each SIGTERM, Ctrl-C and, when the terminal is closed, SIGHUP (unless nohup has it ignored)."""
    loop = asyncio.get_running_loop()
    for number in STOP_SIGNALS:
        if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, handle)
