"""Token ids within a time budget, off the event loop. What cannot be had is a word that says why, and the prompt is matched by text."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import time
from array import array
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import msgspec
from msgspec import Struct

from gateway.settings import Tokens

AGAIN_SECONDS = 30.0
"""Until a folder that could not be loaded is looked at again."""
PENDING_EACH = 8
"""Prompts that wait for one thread; what comes beyond is matched by text at once."""

NO_TOKENIZER = "no_tokenizer"
"""Outcome where the folder has none that can be read."""

logger = logging.getLogger(__name__)


class Tokenised(Struct, frozen=True, gc=False):
    """A prompt's ids and the salt (``cache_salt``) that its first block has; or why there are none."""

    ids: array[int] | None = None
    salt: str = ""
    outcome: str = "tokens"


class _Tokenizer(Protocol):
    def prompt(self, path: str, body: Mapping[str, Any], apart: str = "") -> array[int]: ...


class PromptTokens:
    """Tokenizers by folder, each loaded in a thread when it is first asked for; of one process."""

    def __init__(self, settings: Tokens, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._threads: ThreadPoolExecutor | None = None
        self._clock = clock
        self._tokenizers: dict[str, _Tokenizer] = {}
        self._failed: dict[str, float] = {}
        """When a folder could not be loaded."""
        self._pending = 0

    async def of(self, folder: str, path: str, body: bytes, apart: bytes = b"") -> Tokenised:
        """What the engine makes of a request's prompt, when it is found within the budget. Needs no task.

        ``apart``: whose prompts it shares what is remembered with; else those with its own salt, or none.
        """
        if not folder:
            return Tokenised(outcome=NO_TOKENIZER)
        if self._pending >= self._settings.threads * PENDING_EACH:
            return Tokenised(outcome="busy")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Tokenised] = loop.create_future()
        if self._threads is None:
            self._threads = ThreadPoolExecutor(max(1, self._settings.threads), "tokens")
        self._pending += 1
        work = self._threads.submit(self.at_once, folder, path, body, apart)
        work.add_done_callback(lambda done: self._done(loop, answer, done))
        late = loop.call_later(self._settings.budget_seconds, settle, answer, Tokenised(outcome="late"))
        try:
            return await answer
        finally:
            late.cancel()

    def at_once(self, folder: str, path: str, body: bytes, apart: bytes = b"") -> Tokenised:
        """The same in the caller's thread, however long it takes. Never raises."""
        tokenizer = (self._tokenizers.get(folder) or self._load(folder)) if folder else None
        if tokenizer is None:
            return Tokenised(outcome=NO_TOKENIZER)
        try:
            content = msgspec.json.decode(body)
            given = content.get("cache_salt")
            salt = given if isinstance(given, str) else ""
            return Tokenised(tokenizer.prompt(path, content, apart.decode() or salt), salt)
        except Exception as error:  # templates raise whatever they like
            if type(error).__name__ != "Unsupported":
                logger.debug("a prompt was not tokenised: %r", error)
                return Tokenised(outcome="failed")
            return Tokenised(outcome="unsupported")

    def close(self) -> None:
        """Take no more."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

    def _done(
        self, loop: asyncio.AbstractEventLoop, answer: asyncio.Future[Tokenised], work: Future[Tokenised]
    ) -> None:
        """In the thread. Nobody waits for what was cancelled, nor in a loop that is closed by now."""
        if not work.cancelled():
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._came, answer, work.result())

    def _came(self, answer: asyncio.Future[Tokenised], found: Tokenised) -> None:
        self._pending -= 1
        settle(answer, found)

    def _load(self, folder: str) -> _Tokenizer | None:
        """Load a folder, unless that failed a moment ago."""
        if self._clock() - self._failed.get(folder, -AGAIN_SECONDS) < AGAIN_SECONDS:
            return None
        try:
            module = importlib.import_module("gateway.tokens.tokenizer")
            found: _Tokenizer = module.PromptTokenizer(Path(folder), self._settings.cache_characters)
        except ImportError as error:
            logger.warning(
                "prompts are not tokenised here: %s is not installed: pip install 'penstock[tokens]'", error.name
            )
        except Exception as error:
            logger.warning("prompts are not tokenised here: %s", error)
        else:
            self._tokenizers[folder] = found
            return found
        self._failed[folder] = self._clock()
        return None


def settle(answer: asyncio.Future[Tokenised], found: Tokenised) -> None:
    """Give the answer, unless another was quicker or nobody waits any more."""
    if not answer.done():
        answer.set_result(found)
