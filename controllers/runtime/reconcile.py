"""The reconcile loop: names from a queue, one reconciler a kind, errors kept and tried again."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping

from controllers.runtime.queue import WorkQueue
from controllers.store.store import Key, Store

logger = logging.getLogger(__name__)

Reconciler = Callable[[Key], Awaitable[float | None]]
"""Makes the world so that it fits the object of this name, or its absence. Returns seconds after which to look again, or None."""


async def reconcile_forever(queue: WorkQueue[Key], reconcilers: Mapping[str, Reconciler]) -> None:
    """Work on one name after the other."""
    while True:
        await reconcile_next(queue, reconcilers)


async def reconcile_next(queue: WorkQueue[Key], reconcilers: Mapping[str, Reconciler]) -> None:
    """Work on the next name. An error is logged and the name comes back later."""
    key = await queue.get()
    succeeded = False
    try:
        again = await reconcilers[key.kind](key)
        succeeded = True
    except Exception:
        logger.exception("%s could not be reconciled", key)
    else:
        if again is not None:
            queue.add_after(key, again)
    finally:
        queue.done(key, succeeded)


async def feed(store: Store, queue: WorkQueue[Key], kinds: frozenset[str]) -> None:
    """Names of what changes, from the store into the queue."""
    async for event in store.watch():
        if event.key.kind in kinds:
            queue.add(event.key)
