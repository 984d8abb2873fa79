"""How many tokens answers have, learned from those that there were: what is reserved and scheduled for before the engine has counted."""

from __future__ import annotations

from gateway.counting import Count

LONGEST = 1 << 17
"""Tokens; an engine that says more is not believed for those to come."""
_PRIOR_WEIGHT = 8
"""The prior counts as so many answers."""
_SLOWEST_WEIGHT = 1 / 64
"""Of the newest answer, however many there were before."""
_MOST_KINDS = 10_000
Kind = tuple[str, str, str]
"""Route, model and operation."""


def of_all(each: int, most: int, choices: int) -> int:
    """Tokens of a request whose choices would have so many ``each``, and at most ``most`` when that is not below 0."""
    return (most if 0 <= most < each else each) * choices


class AnswerLength:
    """The mean of one kind of request, the newest answers counting more."""

    def __init__(self, prior: float) -> None:
        self.mean = prior
        self.count = 0

    def add(self, tokens: float) -> None:
        """One more answer."""
        self.count += 1
        self.mean += max(_SLOWEST_WEIGHT, 1 / (self.count + _PRIOR_WEIGHT)) * (tokens - self.mean)


class OutputEstimates:
    """One worker's estimates, for each route, model and operation. An estimate decides when tokens are taken: settling decides how many."""

    def __init__(self, prior: int) -> None:
        """``prior``: tokens of an answer where none was seen yet."""
        self._prior = prior
        self._lengths: dict[tuple[str, str, str], AnswerLength] = {}

    def expected(self, kind: Kind, most: Count, choices: Count) -> Count:
        """Tokens to expect of a request that names ``most`` for each of its choices, below 0 for none."""
        length: AnswerLength | None = self._lengths.get(kind)
        return of_all(self._prior if length is None else max(1, round(length.mean)), most, choices)

    def learn(self, kind: Kind, tokens: Count, most: Count, choices: Count) -> None:
        """A request was answered with so many tokens in all.

        One that was cut off where it asked to be says nothing of longer answers: it counts only when it is longer than what is expected.
        """
        length: AnswerLength | None = self._lengths.get(kind)
        each = min(tokens, LONGEST * choices) / choices
        if 0 <= most <= each and each < (self._prior if length is None else length.mean):
            return
        if length is None:
            if len(self._lengths) >= _MOST_KINDS:
                self._lengths.clear()
            length = self._lengths[kind] = AnswerLength(float(self._prior))
        length.add(each)
