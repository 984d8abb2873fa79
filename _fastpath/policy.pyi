"""How to choose among endpoints: by cost (:mod:`_fastpath.cost`), or by weighted scores (:mod:`_fastpath.weighted`)."""

from collections.abc import Mapping
from typing import final

SCORES_BY_NAME: dict[str, int]

@final
class Policy:
    by_cost: bool
    stale_after: float
    maximum_waiting: float
    prefill_tokens_per_second: float
    decode_seconds_per_request: float
    latency_factor: float
    session_bound: float
    adapter_seconds: float
    prefix_blocks: int
    kvcache_blocks: int
    adapter_filter: bool
    def __init__(
        self,
        *,
        by_cost: bool = True,
        weights: Mapping[str, float] | None = None,
        stale_after: float = 5.0,
        maximum_waiting: float = 0.0,
        prefill_tokens_per_second: float = 8000.0,
        decode_seconds_per_request: float = 0.00035,
        latency_factor: float = 0.5,
        session_bound: float = 1.25,
        adapter_seconds: float = 0.5,
        prefix_blocks: int = 0,
        kvcache_blocks: int = 0,
        adapter_filter: bool = False,
    ) -> None:
        """``weights`` by the names of :data:`SCORES_BY_NAME`, for ``by_cost=False``.

        ``prefill_tokens_per_second`` and ``decode_seconds_per_request`` hold until an endpoint's own speed is measured.
        ``stale_after``: seconds after which a scrape says nothing any more. ``maximum_waiting``: the least-request filter, an endpoint
        with that many waiting requests is left out; 0 is off. ``latency_factor``: share of the first token in least-latency.
        ``session_bound``: an endpoint with so many times the mean of requests in flight does not get its sessions' requests.
        ``adapter_seconds``: what the loading of an adapter takes, by cost. ``prefix_blocks``, ``kvcache_blocks``: first blocks of a prompt
        that count in prefix-cache and kvcache-aware, 0 for all. ``adapter_filter``: the lora-affinity filter, for requests with an adapter:
        where candidates have it loaded, or room for it, those are left out that say that they have neither.
        """
