"""What a file or a document of identity can be wrong with."""

from __future__ import annotations


class FileFaults(Exception):
    """Everything that is wrong with a file, a line a fault."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


class UnusableKeys(FileFaults):
    """No key of a set can be used, and why."""

    def __init__(self, reason: str) -> None:
        super().__init__([reason])
