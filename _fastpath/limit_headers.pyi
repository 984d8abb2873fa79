"""What a client is told of its limits."""

from _fastpath.token_bucket import LimitSet, TokenBuckets

def limit_headers(buckets: TokenBuckets, limits: LimitSet, now: int) -> tuple[tuple[str, str], ...]:
    """``x-ratelimit-{limit,remaining,reset}-{tokens,requests}``: of the limits on tokens and of those on requests the tightest.

    ``now``: monotonic nanoseconds. The limit is the burst; remaining is 0 in debt; reset is the time until all is there again, in
    seconds with three decimals. A bucket that was given away or has no limits yet is left out.
    """
