"""The sidecar's wiring: store → queue → reconcilers → desired state → publisher; beside it scraper, followers and the state file."""

from __future__ import annotations

import asyncio
import fcntl
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from controllers.network.desired import DesiredState
from controllers.network.engine_metrics import EngineScraper
from controllers.network.kv_events.followers import Followers, targets
from controllers.network.model_route import ModelRouteReconciler
from controllers.network.model_server import ModelServerReconciler
from controllers.network.publisher import Publisher
from controllers.network.state_file import StateFile
from controllers.runtime.queue import WorkQueue
from controllers.runtime.reconcile import Reconciler, feed, reconcile_forever
from controllers.store.store import Key, Store
from gateway.datastore import store_states

SYNC_SECONDS = 10.0
_LOCK_FILE = "controllers.lock"


class AlreadyRunning(Exception):
    """Other controllers publish in this run directory."""


class Sidecar:
    """The controllers of one run directory."""

    def __init__(self, store: Store, run_directory: Path, authorities: str = "") -> None:
        """``authorities``: the gateway's ``upstream_ca_file``."""
        self._authorities = authorities
        self._store = store
        self._run_directory = run_directory
        self.desired = DesiredState()
        self._queue: WorkQueue[Key] = WorkQueue()
        self._reconcilers: Mapping[str, Reconciler] = {
            "ModelRoute": ModelRouteReconciler(store, self.desired, partial(store_states.read, run_directory)),
            "ModelServer": ModelServerReconciler(store, self.desired),
        }

    async def run(self) -> None:
        """Reconcile, publish and scrape until cancelled. Raises AlreadyRunning."""
        with (self._run_directory / _LOCK_FILE).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise AlreadyRunning(f"other controllers publish in {self._run_directory}") from error
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(feed(self._store, self._queue, frozenset(self._reconcilers)))
                tasks.create_task(reconcile_forever(self._queue, self._reconcilers))
                await self._synced()
                publisher = Publisher(self.desired, self._run_directory)
                tasks.create_task(publisher.run())
                scraper = EngineScraper(
                    lambda: list(self.desired.endpoints.values()), self._run_directory, authorities=self._authorities
                )
                tasks.create_task(scraper.run())
                followers = Followers(lambda: targets(self.desired), scraper.attached)
                tasks.create_task(followers.run())
                state = StateFile(self._store, self._reconcilers, self._run_directory, followers.report)
                tasks.create_task(state.run())

    async def _synced(self) -> None:
        """Wait until what was there at the start was worked on: who asks before gets no answer, and serves on from its last."""
        await asyncio.sleep(0)
        async with asyncio.timeout(SYNC_SECONDS):
            while True:
                await asyncio.sleep(0.01)
                if self._queue.is_drained:
                    return
