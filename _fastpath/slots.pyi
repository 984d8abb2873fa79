"""Endpoint identity → slot with a generation.

Everything that is measured about an endpoint lies at its slot. Workers and sidecar acquire the slots that their snapshot names
and drop those it names no more; the supervisor alone frees a slot that nobody names, and moves its generation on, so that a
late release or a late learned prefix of the former endpoint does nothing.
"""

from typing import final

from _fastpath.shared_memory import SharedMemory

class SlotsFull(Exception):
    """More endpoints than the shared memory has slots."""

def endpoint_identity(text: str) -> int:
    """The 64-bit identity of an endpoint's name for itself, the same in every process and on every day."""

@final
class Slots:
    def __init__(self, memory: SharedMemory) -> None: ...
    def acquire(self, row: int, identity: int) -> tuple[int, int]:
        """Find or claim the slot of a 64-bit identity and name it in this row: ``(slot, generation)``.

        Raises SlotsFull when every slot is taken.
        """

    def find(self, identity: int) -> tuple[int, int] | None:
        """The slot and generation of an identity that somebody acquired, without naming it."""

    def drop(self, row: int, slot: int) -> None:
        """This row's snapshot names the slot no more."""

    def drop_row(self, row: int) -> None:
        """The row's owner is gone: it names nothing."""

    def is_live(self, slot: int, generation: int) -> bool:
        """Whether the slot still belongs to the endpoint that had this generation."""

    def sweep(self) -> list[int]:
        """Supervisor only: free the slots that nobody names, and list them.

        What is kept at a slot is marked with its generation, so it is void from here on; prefixes are not, and the caller
        lets the prefix index forget each slot of the list.
        """

    @property
    def in_use(self) -> int:
        """Slots that have an identity."""
