"""The one mapped file that gateway workers, their supervisor and the sidecar share.

The supervisor creates it; whoever else needs it attaches, and asks :meth:`SharedMemory.is_current` every second, since a
restarted supervisor makes a new one. Every row has a single writer, every other change is one word: a process killed at
any instruction leaves nothing locked.
"""

from typing import TypedDict, final, type_check_only

STATES: tuple[str, ...]

class LayoutError(Exception):
    """The file is no shared memory of this version of Penstock."""

@type_check_only
class WorkerRow(TypedDict):
    process: int
    """Process id, 0 when nobody owns the row."""
    started: int
    """Start of the process in clock ticks since boot."""
    heartbeat: int
    """Monotonic nanoseconds of the last beat."""
    state: str
    """One of :data:`STATES`."""
    epoch: int
    sequence: int
    """Snapshot that it serves."""
    applied: int
    """Monotonic nanoseconds at which it applied the last frame."""
    in_flight: int
    """Requests it holds."""
    resident: int
    """Bytes of memory."""
    loop_lag: int
    """Nanoseconds that its event loop was late at worst, in the last second."""
    waiting: int
    """Requests that wait for an endpoint with room."""

@final
class SharedMemory:
    path: str
    inode: int
    @staticmethod
    def create(
        path: str,
        *,
        workers: int,
        slots: int = 8192,
        buckets: int = 4096,
        journal_records: int = 4096,
        prefix_bytes: int = 67108864,
        counter_series: int = 1024,
        counter_cells: int = 65536,
    ) -> SharedMemory:
        """Create the file under a draft name, with a fresh random hash key, and rename it to ``path``.

        Raises ValueError for a size out of range and OSError (ENOSPC) when the disk cannot hold all of it.
        """

    @staticmethod
    def attach(path: str) -> SharedMemory:
        """Map an existing file. Raises FileNotFoundError, or LayoutError when it is not of this version."""

    def is_current(self) -> bool:
        """Whether ``path`` still names the file that is mapped here."""

    @property
    def size(self) -> int:
        """Bytes of the file."""

    @property
    def workers(self) -> int:
        """Rows of workers. Row number ``workers`` is the sidecar's."""

    @property
    def slots(self) -> int:
        """Endpoints that can be named at once."""

    @property
    def hash_key(self) -> tuple[int, int]:
        """The random key of all prompt hashes in this run directory."""

    def claim_row(self, index: int, process: int, started: int) -> None:
        """Make the row this process's."""

    def release_row(self, index: int) -> None:
        """Nobody owns the row any more."""

    def beat(self, index: int, now: int, in_flight: int, resident: int, loop_lag: int, waiting: int = 0) -> None:
        """Say that the owner's loop turns; ``now`` and ``loop_lag`` in nanoseconds, ``resident`` in bytes."""

    def set_state(self, index: int, state: int) -> None:
        """Set the state by its position in :data:`STATES`."""

    def set_snapshot(self, index: int, epoch: int, sequence: int, now: int) -> None:
        """Say which snapshot the owner serves; ``now`` in monotonic nanoseconds."""

    def read_row(self, index: int) -> WorkerRow:
        """What the row says now."""
