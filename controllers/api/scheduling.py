"""``spec.scheduling`` of a ModelServer: how to choose among its endpoints."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

from controllers.api.meta import Fault, Strict, seconds

SCORERS = (
    "least-request",
    "least-latency",
    "kv-usage",
    "prefix-cache",
    "kvcache-aware",
    "lora-affinity",
    "random",
    "session",
)
FILTERS = ("least-request", "lora-affinity")
FILTER_ARGS = {"least-request": ("maxWaitingRequests",)}
SCORER_ARGS = {
    "session": ("headers", "loadBound"),
    "least-latency": ("TTFTTPOTWeightFactor",),
    "prefix-cache": ("maxBlocksToMatch",),
    "kvcache-aware": ("maxBlocksToMatch",),
}
ELSEWHERE = {
    "blockSizeToHash": "is not read here: all that match prompts use `spec.prefixCache.blockSize`",
    "maxHashCacheSize": "is not read here: the index has a size for all, the gateway's setting `shared_memory.prefix_bytes`",
    "topKMatches": "is not read here: every endpoint is matched",
    "vllmTokenizerPort": "is not read here: the gateway tokenises prompts itself, see `spec.prefixCache.tokenizer`",
    "sglangTokenizerPort": "is not read here: the gateway tokenises prompts itself, see `spec.prefixCache.tokenizer`",
}
"""What the reference system's scorers take as arguments and is said in another place here."""
SESSION_BOUND = 1.25
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,256}")
LARGEST_WEIGHT = 1_000_000.0
LONGEST_LOAD = 600.0


class Scorer(Strict, frozen=True):
    """A score of the weighted policy, 0 to 100, times its weight.

    ``least-latency`` has ``args``: ``TTFTTPOTWeightFactor``, the share of the time to the first token (0.5). ``prefix-cache`` and
    ``kvcache-aware`` have ``maxBlocksToMatch``: only so many of a prompt's first blocks count (all); ``kvcache-aware`` scores what engines
    say that they hold (``prefixCache.mode: tokens``), ``prefix-cache`` every match. ``lora-affinity`` is 100 where the adapter that is
    asked for is loaded, 80 where there is room for it, 60 where requests wait for it, else 0. ``session`` has ``headers``, the first of
    which that a request has names its session (default ``x-session-id``; without any the body's ``prompt_cache_key`` does), and
    ``loadBound`` (1.25): an endpoint with more than so many times the mean of requests in flight is passed over.
    """

    name: str
    weight: float = 1.0
    args: dict[str, object] = {}


class Filter(Strict, frozen=True):
    """A filter of the weighted policy.

    ``least-request`` leaves out who has ``maxWaitingRequests`` (10) waiting. ``lora-affinity`` leaves out who has neither the adapter that
    is asked for nor room for it, where others have.
    """

    name: str
    args: dict[str, object] = {}


class PluginUse(Strict, frozen=True):
    """A filter or score in Python that the gateway has by this name; ``args`` are what it is made with (docs/scheduling.md)."""

    name: str
    weight: float = 1.0
    args: dict[str, object] = {}


class SchedulingSpec(Strict, frozen=True):
    """How to choose among the endpoints. ``adapterLoad``: what an engine takes to load a LoRA adapter, for policy ``cost``."""

    policy: Literal["cost", "weighted"] = "cost"
    filters: list[Filter] = []
    scorers: list[Scorer] = []
    plugins: list[PluginUse] = []
    adapter_load: str = "500ms"
    picker: Literal["best"] = "best"


def scheduling_faults(scheduling: SchedulingSpec, matches_tokens: bool) -> Iterator[Fault]:
    """What is wrong; ``matches_tokens``: whether prompts are matched by what engines say that they hold."""
    for position, scorer in enumerate(scheduling.scorers):
        here = f"spec.scheduling.scorers[{position}]"
        if scorer.name not in SCORERS:
            yield Fault(f"{here}.name", f"unknown scorer `{scorer.name}`: one of {', '.join(SCORERS)}")
        if not 0 <= scorer.weight <= LARGEST_WEIGHT:
            yield Fault(f"{here}.weight", f"must be 0 to {LARGEST_WEIGHT:g}, not {scorer.weight}")
        if scorer.name == "kvcache-aware" and not matches_tokens:
            yield Fault(f"{here}.name", "`kvcache-aware` needs prefixCache.mode `tokens`: by text use `prefix-cache`")
        if any(other.name == scorer.name for other in scheduling.scorers[:position]):
            yield Fault(f"{here}.name", f"`{scorer.name}` stands twice: give it one weight")
        yield from _scorer_args_faults(scorer, f"{here}.args")
    for position, one in enumerate(scheduling.filters):
        yield from _filter_faults(one, f"spec.scheduling.filters[{position}]")
    if scheduling.policy == "cost" and (scheduling.scorers or scheduling.filters):
        yield Fault("spec.scheduling.policy", "scorers and filters belong to policy `weighted`")
    for position, plugin in enumerate(scheduling.plugins):
        if not plugin.name or any(other.name == plugin.name for other in scheduling.plugins[:position]):
            yield Fault(f"spec.scheduling.plugins[{position}].name", f"`{plugin.name}` must be there, and once")
        if not -LARGEST_WEIGHT <= plugin.weight <= LARGEST_WEIGHT:
            text = f"must be {-LARGEST_WEIGHT:g} to {LARGEST_WEIGHT:g}, not {plugin.weight}"
            yield Fault(f"spec.scheduling.plugins[{position}].weight", text)
    load = seconds(scheduling.adapter_load)
    if load is None or not 0 <= load <= LONGEST_LOAD:
        yield Fault("spec.scheduling.adapterLoad", f"`{scheduling.adapter_load}` must be a duration from 0s to 10m")
    if scheduling.policy == "weighted" and not scheduling.scorers:
        yield Fault("spec.scheduling.scorers", "policy `weighted` needs at least one scorer")


def _filter_faults(one: Filter, here: str) -> Iterator[Fault]:
    if one.name not in FILTERS:
        yield Fault(f"{here}.name", f"unknown filter `{one.name}`: one of {', '.join(FILTERS)}")
    yield from _args_faults(one.args, FILTER_ARGS.get(one.name, ()), f"{here}.args")
    waiting = one.args.get("maxWaitingRequests", 10)
    if not isinstance(waiting, int) or isinstance(waiting, bool) or not 0 <= waiting <= LARGEST_WEIGHT:
        yield Fault(f"{here}.args.maxWaitingRequests", f"must be a whole number, not {waiting!r}")


def _scorer_args_faults(scorer: Scorer, here: str) -> Iterator[Fault]:
    yield from _args_faults(scorer.args, SCORER_ARGS.get(scorer.name, ()), here)
    if scorer.name == "session":
        yield from _session_faults(scorer, here)
    elif scorer.name == "least-latency":
        share = scorer.args.get("TTFTTPOTWeightFactor", 0.5)
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
            yield Fault(f"{here}.TTFTTPOTWeightFactor", f"must be a number, 0 to 1, not {share!r}")
    elif "maxBlocksToMatch" in scorer.args:
        most = scorer.args["maxBlocksToMatch"]
        if isinstance(most, bool) or not isinstance(most, int) or not 1 <= most <= LARGEST_WEIGHT:
            yield Fault(f"{here}.maxBlocksToMatch", f"must be a whole number, 1 or above, not {most!r}")


def _session_faults(scorer: Scorer, here: str) -> Iterator[Fault]:
    headers = scorer.args.get("headers", [])
    if not isinstance(headers, list) or not all(isinstance(one, str) and _HEADER.fullmatch(one) for one in headers):
        yield Fault(f"{here}.headers", f"must be a list of header names, not {headers!r}")
    bound = scorer.args.get("loadBound", SESSION_BOUND)
    if isinstance(bound, bool) or not isinstance(bound, int | float) or not 1 <= bound <= LARGEST_WEIGHT:
        yield Fault(f"{here}.loadBound", f"must be a number, 1 or above, not {bound!r}")


def _args_faults(args: dict[str, object], known: tuple[str, ...], path: str) -> Iterator[Fault]:
    for name in args:
        if name not in known:
            yield Fault(f"{path}.{name}", ELSEWHERE.get(name, "is not read by anything"))
