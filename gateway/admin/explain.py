"""What would happen to a request, without sending it: every candidate, its filters, its scores and the choice."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import orjson

from _fastpath.hashing import BlockHashes
from _fastpath.pool import Pool
from _fastpath.scheduler import Scheduler
from _fastpath.shared_memory import SharedMemory
from gateway.admin.plugin_opinions import Opinions, PluginOpinions
from gateway.admin.turns import Turns
from gateway.admission.output_estimates import OutputEstimates
from gateway.dispatch import asked_of, cache_of
from gateway.errors import ClientError, ModelNotAllowed
from gateway.exchange import OPERATIONS, Exchange
from gateway.identity.faults import FileFaults
from gateway.identity.gate import Caller
from gateway.intake import BodyRules, choices_of, scan_body
from gateway.routing.kinds import Kind
from gateway.routing.match import Matched, match
from gateway.scheduling.place import Hashers, adapter_of, is_serving, session_of
from gateway.scheduling.pool import SERVES, PlacedEndpoint, ServerPool
from gateway.settings import Settings
from gateway.tokens.engine_tokens import ENGINE_SECONDS, Client, EngineTokens
from gateway.tokens.service import NO_TOKENIZER, PromptTokens, Tokenised
from gateway.world import GatewayWorld

if TYPE_CHECKING:
    from _fastpath.pool import Explanation

Decision = tuple[int, int, int]

KEPT = "kept"
"""Why an endpoint is no candidate, beside the scheduler's own reasons: its room is kept for tenants that had less than their share."""


class Explainer:
    """Decides as a worker would, on the shared memory that workers use; charges and learns nothing."""

    def __init__(
        self,
        memory: SharedMemory,
        settings: Settings,
        caller_of: Callable[[str], Caller] | None = None,
        client: Client | None = None,
    ) -> None:
        """``caller_of``: what a tenant may, and its salt; None where nobody is asked. ``client``: asks engines for token ids."""
        self._scheduler = Scheduler(memory)
        self._hashers = Hashers(memory)
        self._tokens = PromptTokens(settings.tokens)
        self._engine_tokens = EngineTokens(settings.tokens, client, self._is_serving) if client is not None else None
        self._plugins = PluginOpinions(settings.scheduling_plugins)
        self._estimates = OutputEstimates(memory, settings.expected_output_tokens)
        self._turns = Turns(memory, settings.queue)
        self._caller_of = caller_of
        self._body_rules = BodyRules(settings)

    def close(self) -> None:
        """Ask no engine any more."""
        if self._engine_tokens is not None:
            self._engine_tokens.close()

    async def tokenise(
        self, world: GatewayWorld, body: bytes, path: str, headers: Mapping[str, str], tenant: str = ""
    ) -> dict[str, Tokenised]:
        """Token ids of a request, by server: made in a thread, or by an engine where there is no tokenizer. Raises as :meth:`explain`."""
        exchange, matched = self._read(world, body, path, headers, tenant)
        found: dict[str, Tokenised] = {}
        for target in matched.rule.targets if matched is not None else ():
            pool = world.servers.get(target.server)
            if pool is not None and pool.matches_tokens:
                assert matched is not None
                found[target.server] = await self._tokenise(pool, exchange, matched.is_adapter)
        return found

    async def _tokenise(self, pool: ServerPool, exchange: Exchange, is_adapter: bool) -> Tokenised:
        folder, path, body, own = pool.server.prefix_cache.tokenizer, exchange.path, exchange.body, cache_of(exchange)
        found = await asyncio.to_thread(self._tokens.at_once, folder, path, body, own)
        if found.outcome == NO_TOKENIZER and self._engine_tokens is not None:
            found = await self._engine_tokens.of(pool, path, body, is_adapter, ENGINE_SECONDS, own)
        return found

    def explain(
        self,
        world: GatewayWorld,
        body: bytes,
        path: str,
        headers: Mapping[str, str],
        tenant: str = "",
        told: Mapping[str, Tokenised] | None = None,
    ) -> dict[str, Any]:
        """The document of ``/debug/explain``, for a request of this tenant. Raises PenstockError for what would be refused.

        One at a time, in whichever thread: where a server has plugins it takes as long as they do, up to a bound.

        ``told``: what :meth:`tokenise` found.
        """
        exchange, matched = self._read(world, body, path, headers, tenant)
        document: dict[str, Any] = {
            "model": exchange.model,
            "tenant": tenant or None,
            "salted": bool(cache_of(exchange)),
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
            found = (told or {}).get(target.server)
            document["servers"].append(
                part | (self._server(exchange, pool, adapter, found) if pool else {"missing": True})
            )
        return document

    def _read(
        self, world: GatewayWorld, body: bytes, path: str, headers: Mapping[str, str], tenant: str
    ) -> tuple[Exchange, Matched | None]:
        """The request as a worker reads it, and the rule that it matches."""
        lower = {name.lower(): value for name, value in headers.items()}
        exchange = Exchange(None, None, path, OPERATIONS[path], "explain", 0.0, lower.get)
        exchange.body = body
        exchange.caller = self._caller(tenant)
        scan_body(exchange, self._body_rules)
        found = exchange.scan
        assert found is not None
        if exchange.caller is not None and not exchange.caller.may_use(exchange.model):
            raise ModelNotAllowed(
                f"Tenant `{tenant}` may not use the model `{exchange.model[:100]}`.", parameter="model"
            )
        matched = match(world, exchange.model, path, lower.get)
        kind = Kind(matched.route.name if matched else "", exchange.model, exchange.operation.name)
        exchange.output_tokens = self._estimates.expected(kind, found.max_tokens, choices_of(found))
        return exchange, matched

    def _is_serving(self, server: ServerPool, placed: PlacedEndpoint) -> bool:
        return is_serving(self._scheduler.health, server, placed, time.monotonic())

    def _caller(self, tenant: str) -> Caller | None:
        if not tenant:
            return None
        if self._caller_of is None:
            raise ClientError(
                "`tenant` is given, and this gateway asks nobody who they are: leave it out.", parameter="tenant"
            )
        try:
            return self._caller_of(tenant)
        except (OSError, FileFaults) as error:
            raise ClientError(f"What tenants may cannot be read: {error}", parameter="tenant") from error

    def _hashes(
        self, exchange: Exchange, pool: ServerPool, adapter: str, told: Tokenised | None
    ) -> tuple[BlockHashes | None, int, str]:
        """Hashes of the prompt, its tokens, and by what it is matched: ``text``, ``tokens``, or why not by token."""
        assert exchange.scan is not None
        cache, outcome = pool.server.prefix_cache, "text"
        if cache.mode == "tokens":
            found = told or self._tokens.at_once(cache.tokenizer, exchange.path, exchange.body)
            if found.ids is not None:
                own = cache_of(exchange)
                salt = orjson.loads(own) if own else found.salt
                hashes = self._hashers.tokens(found.ids, adapter, salt, cache.block_size)
                return hashes, max(1, len(found.ids)), "tokens"
            outcome = f"text ({found.outcome})"
        return (
            self._hashers.prompt(exchange.body, exchange.scan, cache, cache_of(exchange)),
            exchange.prompt_tokens,
            outcome,
        )

    def _server(self, exchange: Exchange, pool: ServerPool, adapter: str, told: Tokenised | None) -> dict[str, Any]:
        assert exchange.scan is not None
        hashes, prompt_tokens, matched_by = self._hashes(exchange, pool, adapter, told)
        session = session_of(pool, exchange.header, exchange.scan.prompt_cache_key)

        turn = self._turns.of(pool, exchange.tenant, time.monotonic())

        def decide(over: Pool, adjustments: list[float] | None) -> Decision | None:
            return self._scheduler.decide(
                over,
                pool.policy,
                hashes,
                prompt_tokens,
                exchange.output_tokens,
                time.monotonic(),
                SERVES,
                None,
                True,
                session,
                matched_by != "tokens",
                adapter_of(adapter) if adapter else 0,
                adjustments,
            )

        def choose(over: Pool) -> tuple[Decision | None, Opinions]:
            decision, opinions = decide(over, None), Opinions()
            if pool.server.scheduling.plugins:
                asked = asked_of(exchange, prompt_tokens, blocks)
                opinions = self._plugins.ask(pool, asked, over.explain())
                decision = decide(over, opinions.adjustments)
            return decision, opinions

        blocks = len(hashes) if hashes is not None else 0
        over = pool.narrow if turn.is_narrow else pool.pool
        decision, opinions = choose(over)
        if decision is None and turn.is_narrow and turn.is_owed:
            over = pool.pool
            decision, opinions = choose(over)
        seen = over.explain()
        if over is not pool.pool:
            decide(pool.pool, None)
            seen = _with_kept(seen, pool.pool.explain())
        rows: list[dict[str, Any]] = [
            {"endpoint": placed.endpoint.name, **row, "plugins": opinions.of(place)}
            for place, (placed, row) in enumerate(zip(pool.endpoints, seen, strict=True))
        ]
        candidates = sorted(rows, key=lambda row: (row["score"] is None, -(row["score"] or 0)))
        choice = pool.endpoints[decision[0]].endpoint.name if decision else None
        others = (row["endpoint"] for row in candidates if row["score"] is not None and row["endpoint"] != choice)
        return {
            "policy": pool.server.scheduling.policy,
            "matched_by": matched_by,
            "blocks": blocks,
            "choice": choice,
            "runner_up": next(others, None),
            "turn": {
                "waited": turn.is_waited,
                "contested": turn.is_contested,
                "owed": turn.is_owed,
                "kept_places": turn.kept_places,
                "kept_prefill_seconds": turn.kept_prefill_seconds,
                "held_back": choice is None and any(row["filtered"] == KEPT for row in rows),
            },
            "plugins": opinions.plugins,
            "candidates": candidates,
        }


def _with_kept(narrow: list[Explanation], wide: list[Explanation]) -> list[Explanation]:
    """What was seen without the places that are kept; endpoints that have no others are not full but kept."""
    return [
        {**one, "filtered": KEPT} if one["filtered"] == "full" and not whole["filtered"] else one
        for one, whole in zip(narrow, wide, strict=True)
    ]
