"""Plain-Python twin of ``_fastpath.speed``."""

PRIOR_SECONDS = 0.1
SPEED_RANGE = 1000.0


def speed(expected: float, tokens: float, seconds: float) -> float:
    found = (expected * PRIOR_SECONDS + tokens) / (PRIOR_SECONDS + seconds)
    return min(max(found, expected / SPEED_RANGE), expected * SPEED_RANGE)
