"""What the gateway serves and why not: the documents of ``/debug``. Versioned: the manager and ``penstock get`` read them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import msgspec

from _fastpath.health import Health, Outlier
from _fastpath.load import Load
from _fastpath.prefix_index import PrefixIndex
from _fastpath.shared_memory import SharedMemory
from gateway.admin.controllers_file import Told
from gateway.datastore.model import Endpoint
from gateway.observability.exposition import Gauge
from gateway.observability.worker_report import Report, merged
from gateway.scheduling.pool import PlacedEndpoint
from gateway.supervisor.supervisor import Supervisor

STATE_VERSION = 1


class State:
    """Reads the supervisor's replica and the shared memory; ``told`` asks what the controllers say, ``reported`` what a worker does."""

    def __init__(
        self,
        supervisor: Supervisor,
        version: str,
        told: Callable[[], Told] = Told,
        reported: Callable[[int, int], Report] = lambda index, process: Report(),
    ) -> None:
        self._supervisor = supervisor
        self._version = version
        self._told = told
        self._reported = reported
        self._memory: SharedMemory = supervisor.memory
        self._load = Load(self._memory)
        self._health = Health(self._memory)
        self._no_rules = Outlier(failures=0, slow_start=0.0)
        self._prefixes = PrefixIndex(self._memory)

    def document(self) -> dict[str, Any]:
        """``/debug/state``."""
        world = self._supervisor.replica.world
        told = self._told()
        return {
            "version": STATE_VERSION,
            "penstock": self._version,
            "uptime_seconds": round(time.monotonic() - self._supervisor.started, 3),
            "process": os.getpid(),
            "snapshot": {
                "epoch": world.epoch,
                "sequence": world.sequence,
                "controllers_heard": self._supervisor.subscriber.is_heard,
                "age_seconds": self._snapshot_age(),
            },
            "workers": [self._worker(worker.index, worker.restarts) for worker in self._supervisor.workers],
            "routes": [
                {
                    "name": route.name,
                    "model": route.route.model_name,
                    "adapters": list(route.route.adapters),
                    "targets": [target.server for rule in route.rules for target in rule.rule.targets],
                    "missing_servers": [
                        target.server
                        for rule in route.rules
                        for target in rule.rule.targets
                        if target.server not in world.servers
                    ],
                    "limits": [msgspec.to_builtins(limit) for limit in route.route.limits],
                }
                for route in world.routes.values()
            ],
            "servers": [
                {
                    "name": name,
                    "engine": pool.server.engine,
                    "model": pool.server.model,
                    "policy": pool.server.scheduling.policy,
                    "endpoints": len(pool.endpoints),
                }
                for name, pool in world.servers.items()
            ],
            "endpoints": self.endpoints(),
            "queues": merged(self._reports()),
            "limit_stores": [msgspec.to_builtins(one) for one in self._supervisor.leases.states()],
            "objects": told.objects,
            "problems": told.problems,
            "kv_events": told.kv_events,
        }

    def endpoints(self) -> list[dict[str, Any]]:
        """``/debug/endpoints``."""
        return [self._endpoint(placed) for placed in self._supervisor.replica.world.endpoints.values()]

    def snapshot(self) -> dict[str, Any]:
        """``/debug/snapshot``: the decided objects themselves."""
        routes, servers, endpoints = self._supervisor.replica.whole()
        world = self._supervisor.replica.world
        return {
            "epoch": world.epoch,
            "sequence": world.sequence,
            "routes": [msgspec.to_builtins(one) for one in routes],
            "servers": [msgspec.to_builtins(one) for one in servers],
            "endpoints": [msgspec.to_builtins(one) for one in endpoints],
        }

    def readiness(self) -> tuple[bool, str]:
        """Ready: every worker serves, from some snapshot."""
        serving = sum(one["state"] == "serving" for one in self._rows())
        if serving < len(self._supervisor.workers):
            return False, f"{serving} of {len(self._supervisor.workers)} workers serve"
        if self._supervisor.replica.world.epoch == 0:
            return False, "no snapshot yet"
        return True, "ready"

    def gauges(self) -> list[Gauge]:
        """Gauges of the metrics page."""
        rows = list(enumerate(self._rows()))
        endpoints = [(self._labels(placed.endpoint), self._endpoint(placed)) for placed in self._placed()]
        statistics = self._prefixes.statistics()
        stores = self._supervisor.leases.states()
        scraped = [(labels, one) for labels, one in endpoints if one["scrape_age_seconds"] is not None]
        return [
            ("penstock_requests_in_flight", "Requests held now.", [({"worker": str(i)}, r["in_flight"]) for i, r in rows]),
            (
                "penstock_queue_depth",
                "Requests that wait for an endpoint with room.",
                [({"worker": str(i)}, r["waiting"]) for i, r in rows],
            ),
            ("penstock_worker_rss_bytes", "Resident memory.", [({"worker": str(i)}, r["resident"]) for i, r in rows]),
            (
                "penstock_event_loop_lag_seconds",
                "How late the event loop was at worst in the last second.",
                [({"worker": str(i)}, r["loop_lag"] / 1e9) for i, r in rows],
            ),
            (
                "penstock_worker_restarts_total",
                "Workers that were replaced.",
                [({"worker": str(one.index)}, one.restarts) for one in self._supervisor.workers],
            ),
            (
                "penstock_endpoint_ready",
                "Whether it may be sent requests: 0 while it is ejected or probed.",
                [(a, float(b["state"] in ("serving", "warming"))) for a, b in endpoints],
            ),
            ("penstock_endpoint_in_flight", "Requests that this gateway has there.", [(a, b["in_flight"]) for a, b in endpoints]),
            ("penstock_endpoint_running", "Requests that the engine runs.", [(a, b["running"]) for a, b in scraped]),
            ("penstock_endpoint_waiting", "Requests that wait in the engine.", [(a, b["waiting"]) for a, b in scraped]),
            ("penstock_endpoint_kv_usage_ratio", "KV cache in use.", [(a, b["kv_usage"]) for a, b in scraped]),
            ("penstock_endpoint_scrape_age_seconds", "Age of the last scrape.", [(a, b["scrape_age_seconds"]) for a, b in scraped]),
            ("penstock_prefix_index_entries", "Entries of the prefix index.", [({}, statistics["entries"])]),
            ("penstock_prefix_index_evictions_total", "Entries that made room for others.", [({}, statistics["evictions"])]),
            (
                "penstock_limit_store_reachable",
                "Whether the Redis of shared limits answers.",
                [({"address": one.address}, float(one.is_reachable)) for one in stores],
            ),
            (
                "penstock_limit_store_gateways",
                "Gateways that share its limits.",
                [({"address": one.address}, one.gateways) for one in stores],
            ),
            (
                "penstock_limit_store_failures_total",
                "Exchanges with it that failed.",
                [({"address": address}, count) for address, count in self._supervisor.leases.failures().items()],
            ),
            ("penstock_config_generation", "Sequence number of the snapshot.", [({}, self._supervisor.replica.world.sequence)]),
            ("penstock_build_info", "Version.", [({"version": self._version}, 1.0)]),
            *self._issuer_gauges(),
        ]  # fmt: skip

    def _reports(self) -> list[Report]:
        return [self._report(worker.index) for worker in self._supervisor.workers]

    def _report(self, index: int) -> Report:
        return self._reported(index, self._memory.read_row(index)["process"])

    def _issuer(self, index: int) -> dict[str, Any] | None:
        """The issuer's keys as a worker has them; their age in place of when they were fetched."""
        found = self._report(index).issuer
        if found is None:
            return None
        now, fetched, until = time.time(), found["fetched"], found["until"]
        return {
            "keys": found["keys"],
            "age_seconds": None if fetched is None else round(max(0.0, now - fetched), 3),
            "seconds_left": None if until is None else round(max(0.0, until - now), 3),
            "failures": found["failures"],
            "fault": found["fault"],
        }

    def _issuer_gauges(self) -> list[Gauge]:
        found = [({"worker": str(one.index)}, self._issuer(one.index)) for one in self._supervisor.workers]
        known = [(labels, one) for labels, one in found if one is not None]
        aged = [(labels, one["age_seconds"]) for labels, one in known if one["age_seconds"] is not None]
        return [
            ("penstock_issuer_keys", "Keys of the issuer that tokens are checked with.", [(a, b["keys"]) for a, b in known]),
            ("penstock_issuer_keys_age_seconds", "Since they were fetched.", aged),
            ("penstock_issuer_fetch_failures", "Fetches that failed since.", [(a, b["failures"]) for a, b in known]),
        ] if known else []  # fmt: skip

    def _rows(self) -> list[Any]:
        return [self._memory.read_row(worker.index) for worker in self._supervisor.workers]

    def _placed(self) -> list[PlacedEndpoint]:
        return list(self._supervisor.replica.world.endpoints.values())

    def _labels(self, endpoint: Endpoint) -> dict[str, str]:
        return {"server": endpoint.server, "pod": endpoint.name, "role": endpoint.role}

    def _worker(self, index: int, restarts: int) -> dict[str, Any]:
        row = self._memory.read_row(index)
        return {
            "index": index,
            "process": row["process"],
            "state": row["state"],
            "sequence": row["sequence"],
            "in_flight": row["in_flight"],
            "waiting": row["waiting"],
            "charged": self._load.worker_in_flight(index),
            "resident_bytes": row["resident"],
            "loop_lag_seconds": row["loop_lag"] / 1e9,
            "restarts": restarts,
            "issuer": self._issuer(index),
        }

    def _endpoint(self, placed: PlacedEndpoint) -> dict[str, Any]:
        endpoint, slot = placed.endpoint, placed.slot
        in_flight, prefill, decode = self._load.read(slot.index, slot.generation)
        metrics = self._load.read_metrics(slot.index, slot.generation)
        health = self._health.read(slot.index, slot.generation, self._rules(endpoint), time.monotonic())
        return {
            "name": endpoint.name,
            "server": endpoint.server,
            "url": endpoint.url,
            "role": endpoint.role,
            "state": health["state"],
            "state_seconds_left": health["seconds_left"],
            "failures": health["failures"],
            "ejections": health["ejections"],
            "in_flight": in_flight,
            "prefill_tokens": prefill,
            "decode_tokens": decode,
            "running": metrics["running"] if metrics else None,
            "waiting": metrics["waiting"] if metrics else None,
            "kv_usage": metrics["kv_usage"] if metrics else None,
            "prefix_hit_ratio": metrics["prefix_hit_ratio"] if metrics else None,
            "scrape_age_seconds": round(time.monotonic() - metrics["time"], 3) if metrics else None,
        }

    def _rules(self, endpoint: Endpoint) -> Outlier:
        pool = self._supervisor.replica.world.servers.get(endpoint.server)
        return pool.pool.outlier or self._no_rules if pool is not None else self._no_rules

    def _snapshot_age(self) -> float | None:
        heard = self._supervisor.subscriber.heard_at
        return round(time.monotonic() - heard, 3) if heard else None
