"""Which LoRA adapters each engine has loaded, as 64 bits of their names (:func:`_fastpath.slots.endpoint_identity`)."""

from collections.abc import Iterable
from typing import TypedDict, final, type_check_only

from _fastpath.shared_memory import SharedMemory

AFFINITIES: tuple[str, ...]
"""Of an engine to an adapter: ``untold`` when the engine says nothing; ``loaded``; ``room`` when another can be loaded at once;
``queued`` when a request waits there for it; ``taken`` when requests run with as many others as fit."""

@type_check_only
class Row(TypedDict):
    capacity: int
    """Adapters that requests can run with at once."""
    busy: int
    """How many requests run or wait with."""
    loaded: set[int]
    waited_for: set[int]
    """Names, the lowest bit of each cleared."""

@final
class Adapters:
    def __init__(self, memory: SharedMemory) -> None: ...
    def write(
        self,
        slot: int,
        generation: int,
        capacity: int,
        busy: int,
        loaded: Iterable[int],
        waited_for: Iterable[int] = (),
    ) -> bool:
        """Sidecar only: what one scrape said; ``capacity`` 0 when the engine does not say.

        Of more than thirty names the first ones count, those that are loaded before the others. False, and nothing written, for an
        old generation.
        """

    def read(self, slot: int, generation: int) -> Row | None:
        """The row, None when the engine does not say which it has."""

    def affinity_of(self, slot: int, generation: int, adapter: int) -> str:
        """One of :data:`AFFINITIES`."""
