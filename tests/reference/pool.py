"""Plain-Python twin of ``_fastpath.pool``: what is known of each endpoint."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Metrics:
    """What one scrape said."""

    running: float
    waiting: float
    kv_usage: float
    first_token: float
    inter_token: float
    time: float
    kv_tokens: float = 0.0
    computed_tokens: float = 0.0
    """Since the scrape before."""

    def others(self, in_flight: int) -> float:
        """Requests that this gateway did not send, which had ``in_flight`` there at the scrape."""
        return max(0.0, self.running + self.waiting - in_flight)


@dataclass(frozen=True)
class Endpoint:
    """What is known of one endpoint, over all workers."""

    roles: int = 1
    maximum_in_flight: int = 0
    live: bool = True
    in_flight: int = 0
    prefill_tokens: int = 0
    metrics: Metrics | None = None
    matched_blocks: int = 0
    identity: int = 0
    prefills: tuple[float, float] = (0.0, 0.0)
    """Tokens and seconds that were measured."""
    prefill_since: float = 0.0
    """When what is prefilled there began, 0 when that is not known."""
    recent: float = 0.0
    """Tokens sent there lately to be computed."""
    requests: float = 0.0
    """Sent there lately."""
    computed: float = 0.0
    """Tokens that it says it computed lately."""
    standing: str = "serving"
    """Or warming, ejected, due (ejected for long enough), probing."""
    share: float = 1.0
    """Of a warming one: what it is given."""
    affinity: str = "untold"
    """To the adapter that requests ask for."""


@dataclass(eq=False)
class Seen:
    """An endpoint at the moment of choice."""

    endpoint: Endpoint
    scraped: bool
    running: float
    waiting: float
    kv_usage: float
    first_token: float
    inter_token: float
    computed: float
    filtered: str = ""
