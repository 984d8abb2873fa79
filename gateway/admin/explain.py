"""What would happen to a request, without sending it: every candidate, its filters, its scores and the choice."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from _fastpath.hashing import BlockHashes
from _fastpath.scoring import Scheduler
from _fastpath.shared_memory import SharedMemory
from gateway.admission.output_estimates import of_all
from gateway.exchange import OPERATIONS, Exchange
from gateway.intake import choices_of, scan_body
from gateway.routing.match import match
from gateway.scheduling.place import Hashers, adapter_of, session_of
from gateway.scheduling.pool import SERVES, ServerPool
from gateway.settings import Settings
from gateway.tokens.service import PromptTokens
from gateway.world import GatewayWorld


class Explainer:
    """Decides as a worker would, on the shared memory that workers use; charges and learns nothing."""

    def __init__(self, memory: SharedMemory, settings: Settings) -> None:
        self._scheduler = Scheduler(memory)
        self._hashers = Hashers(memory)
        self._tokens = PromptTokens(settings.tokens)
        self._settings = settings

    def explain(self, world: GatewayWorld, body: bytes, path: str, headers: Mapping[str, str]) -> dict[str, Any]:
        """The document of ``/debug/explain``. Raises PenstockError for a body that would be refused."""
        lower = {name.lower(): value for name, value in headers.items()}
        exchange = Exchange(None, None, path, OPERATIONS[path], "explain", 0.0, lower.get)
        exchange.body = body
        scan_body(exchange, self._settings)
        found = exchange.scan
        assert found is not None
        # what a worker takes that has seen no answer yet: each learns by itself
        expected = self._settings.expected_output_tokens
        exchange.output_tokens = of_all(expected, found.max_tokens, choices_of(found))
        matched = match(world, exchange.model, path, lower.get)
        document: dict[str, Any] = {
            "model": exchange.model,
            "prompt_tokens": exchange.prompt_tokens,
            "output_tokens": exchange.output_tokens,
            "route": matched.route.name if matched else None,
            "rule": matched.rule.name if matched else None,
            "servers": [],
        }
        if matched is None:
            return document
        total = sum(target.weight for target in matched.rule.targets) or 1
        adapter = exchange.model if matched.is_adapter else ""
        for target in matched.rule.targets:
            pool = world.servers.get(target.server)
            part: dict[str, Any] = {"server": target.server, "share": target.weight / total}
            document["servers"].append(part | (self._server(exchange, pool, adapter) if pool else {"missing": True}))
        return document

    def _hashes(self, exchange: Exchange, pool: ServerPool, adapter: str) -> tuple[BlockHashes | None, int, str]:
        """Hashes of the prompt, its tokens, and by what it is matched: ``text``, ``tokens``, or why not by token."""
        assert exchange.scan is not None
        cache, outcome = pool.server.prefix_cache, "text"
        if cache.mode == "tokens":
            found = self._tokens.at_once(cache.tokenizer, exchange.path, exchange.body)
            if found.ids is not None:
                hashes = self._hashers.tokens(found.ids, adapter, found.salt, cache.block_size)
                return hashes, max(1, len(found.ids)), "tokens"
            outcome = f"text ({found.outcome})"
        return self._hashers.prompt(exchange.body, exchange.scan, cache), exchange.prompt_tokens, outcome

    def _server(self, exchange: Exchange, pool: ServerPool, adapter: str) -> dict[str, Any]:
        assert exchange.scan is not None
        hashes, prompt_tokens, matched_by = self._hashes(exchange, pool, adapter)
        decision = self._scheduler.decide(
            pool.pool,
            pool.policy,
            hashes,
            prompt_tokens,
            exchange.output_tokens,
            time.monotonic(),
            SERVES,
            None,
            True,
            session_of(pool, exchange.header, exchange.scan.prompt_cache_key),
            matched_by != "tokens",
            adapter_of(adapter) if adapter else 0,
        )
        rows: list[dict[str, Any]] = [
            {"endpoint": placed.endpoint.name, **row}
            for placed, row in zip(pool.endpoints, self._scheduler.explain(pool.pool), strict=True)
        ]
        candidates = sorted(rows, key=lambda row: (row["score"] is None, -(row["score"] or 0)))
        choice = pool.endpoints[decision[0]].endpoint.name if decision else None
        others = (row["endpoint"] for row in candidates if row["score"] is not None and row["endpoint"] != choice)
        return {
            "policy": pool.server.scheduling.policy,
            "matched_by": matched_by,
            "blocks": len(hashes) if hashes is not None else 0,
            "choice": choice,
            "runner_up": next(others, None),
            "candidates": candidates,
        }
