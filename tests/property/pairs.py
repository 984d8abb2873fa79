"""A compiled memory and its plain twin, of the same small sizes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from _fastpath import shared_memory
from tests.reference import shared_memory as reference


class Pair:
    """Both kinds of memory, for state machines; :meth:`close` removes the file."""

    def __init__(self, *, workers=2, slots=64, buckets=8, journal_records=8, prefix_bytes=1 << 16):
        self._folder = TemporaryDirectory(prefix="penstock-test-")
        self.path = str(Path(self._folder.name) / "memory")
        sizes = {"workers": workers, "slots": slots, "buckets": buckets, "journal_records": journal_records}
        self.compiled = shared_memory.SharedMemory.create(
            self.path, **sizes, prefix_bytes=prefix_bytes, counter_series=1, counter_cells=1
        )
        self.plain = reference.SharedMemory(**sizes)

    def attach(self) -> shared_memory.SharedMemory:
        """One more mapping of the same file, as another process would have."""
        return shared_memory.SharedMemory.attach(self.path)

    def close(self) -> None:
        self._folder.cleanup()


@contextmanager
def pair(**sizes: int) -> Iterator[Pair]:
    both = Pair(**sizes)
    try:
        yield both
    finally:
        both.close()


def outcome(call, *arguments):
    """What a call returns, or the name of what it raises: the twins have exceptions of their own."""
    try:
        return call(*arguments)
    except Exception as error:
        return type(error).__name__
