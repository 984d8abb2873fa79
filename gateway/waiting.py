"""How a request waits: a coroutine that is moved on by the very callback it waits for, without a task or a turn of the loop.

A request path written as a coroutine reads as a list; asyncio's task around it costs as much as everything else that this gateway does
for a short request. :class:`Run` drives such a coroutine, :class:`Signal` wakes it. Both understand asyncio as well: a run can await
any asyncio future, and a signal can be awaited by an asyncio task.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable, Coroutine, Generator
from typing import Any

from _fastpath.stepping import is_end, step

logger = logging.getLogger(__name__)


class Signal:
    """Something has happened that one coroutine waits for. Set from a callback of the same loop; can be cleared and used again."""

    def __init__(self) -> None:
        self._asyncio_future_blocking = False
        self._cancelled = False
        self.is_set = False
        self.waiter: Callable[[Any], object] | None = None
        self._run: Run | None = None

    def set(self) -> None:
        """Wake who waits, before this returns."""
        self.is_set = True
        run, self._run = self._run, None
        if run is not None:
            run._wake(self)
            return
        waiter, self.waiter = self.waiter, None
        if waiter is not None:
            waiter(self)

    def clear(self) -> None:
        """What comes next has not happened."""
        self.is_set = False

    def __await__(self) -> Generator[Any, None, None]:
        return self  # type: ignore[return-value] # an iterator costs less than a generator, and does what `await` needs

    def __next__(self) -> Signal:
        """What is waited for, until it has happened."""
        if self.is_set:
            raise StopIteration
        self._asyncio_future_blocking = True
        return self

    # What an asyncio task asks of a future that it waits for.

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """The loop that it belongs to."""
        return asyncio.get_running_loop()

    def add_done_callback(
        self, callback: Callable[[Any], object], *, context: contextvars.Context | None = None
    ) -> None:
        """Call back in a turn of its own, as asyncio's futures do."""
        loop = self.get_loop()  # of now: whoever wakes it may do so when no loop runs, as when all are ended
        self.waiter = lambda signal: loop.call_soon(callback, signal, context=context)

    def cancel(self, msg: object = None) -> bool:
        """The task that waits is cancelled."""
        self._cancelled = True
        waiter, self.waiter = self.waiter, None
        if waiter is not None:
            waiter(self)
        return True

    def result(self) -> None:
        """Raises CancelledError after :meth:`cancel`."""
        if self._cancelled:
            self._cancelled = False
            raise asyncio.CancelledError


class Run:
    """One coroutine on its way. It starts at :meth:`start` and goes on whenever what it awaits is there."""

    def __init__(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self._coroutine = coroutine
        self._waiting: Any = None
        self._is_moving = False
        self._pending: BaseException | None = None
        self._finished: Signal | None = None
        self.is_over = False

    @property
    def finished(self) -> Signal:
        """Set when it is over."""
        if self._finished is None:
            self._finished = Signal()
            self._finished.is_set = self.is_over
        return self._finished

    def start(self) -> None:
        """Go to the first wait."""
        self._move(None)

    def throw(self, error: BaseException) -> None:
        """Raise an error where the coroutine waits; if it is just moving, at its next wait. Nothing happens once it is over."""
        if self.is_over:
            return
        if self._is_moving:
            self._pending = error
            return
        waited, self._waiting = self._waiting, None
        if type(waited) is not Signal:
            waited.cancel()  # nobody will take what it brings
        self._move(error)

    def _wake(self, waited: Any) -> None:
        # who was waited for before an error was thrown in may still call
        if waited is self._waiting and not self._is_moving:
            self._move(None)

    def _move(self, error: Any) -> None:
        self._is_moving = True
        self._waiting = None
        coroutine = self._coroutine
        try:
            while True:
                waited = step(coroutine) if error is None else coroutine.throw(error)
                if is_end(waited):
                    self._end()
                    return
                error, self._pending = self._pending, None
                if error is None:
                    break
        except StopIteration:  # after an error that was thrown in
            self._end()
            return
        except BaseException:
            logger.exception("a run ended with an error that nobody handled")
            self._end()
            return
        finally:
            self._is_moving = False
        if waited is None:  # a coroutine that lets the loop turn
            self._waiting = waited = Signal()
            asyncio.get_running_loop().call_soon(self._wake, waited)
            return
        waited._asyncio_future_blocking = False
        self._waiting = waited
        if type(waited) is Signal:
            signal: Signal = waited
            signal._run = self
            if signal.is_set:
                signal.set()
        else:
            waited.add_done_callback(self._wake)

    def _end(self) -> None:
        self.is_over = True
        if self._finished is not None:
            self._finished.set()
