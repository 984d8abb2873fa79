"""What engines report as cached, against what was expected of them: whoever found much less has lost more than this one prompt.

The prompt itself is held again once it was computed. But an engine gives away first what was used longest ago: where blocks of some age are
gone, all that are older are gone too. So the index forgets of that endpoint whatever is not younger, a few times a minute at most and in a
thread. An endpoint that finds nothing again and again keeps nothing: there each prompt is forgotten as soon as it is answered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from _fastpath.hashing import BlockHashes
from _fastpath.prefix_index import PrefixIndex
from gateway.counting import Count

MISSED_TOKENS = 256
"""So many expected tokens less may be rounding: blocks of text are not the engine's, and its last block is computed in any case."""
MISSED_SHARE = 0.25
"""And so much of what was expected."""
OLD_SECONDS = 8
"""What was learned within this time is perhaps still being computed, for the request before."""
DOUBTED_AFTER = 8
"""Answers in a row, each of a prompt that was expected there, that found nothing."""
SWEEP_SECONDS = 2.0
"""Between two looks through the index, which take 8 ms for 64 MB."""

Name = tuple[int, int]
"""Slot and generation of an endpoint."""


def _call_later(seconds: float, work: Callable[[], None]) -> object:
    return asyncio.get_running_loop().call_later(seconds, work)


def _call_beside(work: Callable[[], object]) -> object:
    return asyncio.get_running_loop().run_in_executor(None, work)


class Corrections:
    """What one worker's answers say of the endpoints' caches.

    ``later`` calls something in the loop's thread after so many seconds, ``beside`` calls it in another thread.
    """

    def __init__(
        self,
        prefixes: PrefixIndex,
        later: Callable[[float, Callable[[], None]], object] = _call_later,
        beside: Callable[[Callable[[], object]], object] = _call_beside,
    ) -> None:
        self._prefixes = prefixes
        self._later = later
        self._beside = beside
        self.in_vain: dict[Name, int] = {}
        """Answers in a row that found nothing, by endpoint."""
        self._before: dict[int, int] = {}
        self._is_due = False
        self._old_seconds = float(OLD_SECONDS)  # here it is a C number

    @property
    def is_watching(self) -> bool:
        """Whether answers that are as expected say something too: an endpoint has found nothing lately."""
        return bool(self.in_vain)

    def missed(
        self,
        endpoint: Name,
        hashes: BlockHashes,
        cached_tokens: Count,
        matched_at: Count,
        sent: float,
        age_is_known: bool = False,
    ) -> str:
        """An answer had much fewer cached tokens than its prompt was expected to have, which was sent at ``sent``.

        ``matched_at``: the second in which its blocks had been learned. ``age_is_known``: the endpoint says how much it holds, so that
        what is too old does not count in any case; a time of learning, which may be that of another holder, says less. Returns what
        follows: ``evicted``, ``uncached``, or nothing.
        """
        if sent - matched_at < self._old_seconds:
            return ""
        if cached_tokens > 0:
            self.in_vain.pop(endpoint, None)
        else:
            self.in_vain[endpoint] = self.in_vain.get(endpoint, 0) + 1
        if self._forget_if_doubted(endpoint, hashes):
            return "uncached"
        if age_is_known:
            return "evicted"
        self._before[endpoint[0]] = max(matched_at, self._before.get(endpoint[0], 0))
        if not self._is_due:
            self._is_due = True
            self._later(SWEEP_SECONDS, self._sweep)
        return "evicted"

    def answered(self, endpoint: Name, hashes: BlockHashes, cached_tokens: Count) -> str:
        """An answer was as expected, while :attr:`is_watching`. Returns what follows: ``uncached``, or nothing."""
        if cached_tokens > 0:
            self.in_vain.pop(endpoint, None)
            return ""
        return "uncached" if self._forget_if_doubted(endpoint, hashes) else ""

    def _forget_if_doubted(self, endpoint: Name, hashes: BlockHashes) -> bool:
        if self.in_vain.get(endpoint, 0) < DOUBTED_AFTER:
            return False
        self._prefixes.discard(hashes, endpoint[0])
        return True

    def _sweep(self) -> None:
        """Forget what the answers since the last look have shown to be gone."""
        self._is_due = False
        before, self._before = self._before, {}
        self._beside(partial(self._prefixes.forget_before, before))
