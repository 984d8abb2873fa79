"""How much faster one call is than another, measured in turns so that both see the same machine."""

from collections.abc import Callable
from timeit import Timer
from typing import Any


def times_faster(compiled: Callable[[], Any], plain: Callable[[], Any], rounds: int = 7) -> float:
    """The quotient of the fastest rounds: noise only ever makes a round slower."""
    timers = [Timer(plain), Timer(compiled)]
    loops = [max(1, timer.autorange()[0] // 20) for timer in timers]
    best = [float("inf"), float("inf")]
    for _ in range(rounds):
        for i, timer in enumerate(timers):
            best[i] = min(best[i], timer.timeit(loops[i]) / loops[i])
    return best[0] / best[1]
