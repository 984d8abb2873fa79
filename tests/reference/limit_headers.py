"""Rate-limit headers from the plain buckets of ``tests.reference.token_bucket``."""

from __future__ import annotations

import math


def limit_headers(buckets, limits, now):
    """The tightest limit on tokens and the tightest on requests."""
    tightest = {}
    for index, identity, kind in limits.limits:
        bucket = buckets.at(index)
        if bucket.identity != identity or not bucket.configured:
            continue
        name = "requests" if kind == "requests" else "tokens"
        # what the store has left is there for this client as well
        span = max(0, bucket.arrival - bucket.moment(now) - bucket.elsewhere * bucket.interval)
        available = (bucket.tolerance - span) / bucket.interval
        if name not in tightest or available < tightest[name][0]:
            described = buckets.describe(index, now)
            tightest[name] = (available, described["burst"], span * 1e-9)
    found = []
    for name in ("tokens", "requests"):
        if name in tightest:
            available, burst, seconds = tightest[name]
            found += [
                (f"x-ratelimit-limit-{name}", str(_rounded(burst))),
                (f"x-ratelimit-remaining-{name}", str(_rounded(max(0.0, available)))),
                (f"x-ratelimit-reset-{name}", f"{_rounded(seconds * 1000) / 1000:.3f}s"),
            ]
    return tuple(found)


def _rounded(value):
    return math.floor(value + 0.5)
