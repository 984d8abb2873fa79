"""Chained 64-bit hashes of a prompt's blocks, keyed at random per run directory.

Equal hashes at equal positions mean an equal prefix. The key keeps a client from making prompts whose hashes collide with
another tenant's.
"""

from collections.abc import Iterator, Sequence
from typing import final

from typing_extensions import Buffer

@final
class BlockHashes:
    """The hashes of one prompt, first block first."""

    @staticmethod
    def of(values: Sequence[int]) -> BlockHashes:
        """From numbers, for tests and for hashes that another program made."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[int]: ...

@final
class Hasher:
    block_bytes: int
    maximum_blocks: int
    def __init__(self, key: tuple[int, int], block_bytes: int = 64, maximum_blocks: int = 8192) -> None:
        """``key``: two random 64-bit numbers. A prompt longer than ``maximum_blocks`` is hashed up to there."""

    def seed(self, *parts: str | bytes) -> int:
        """The start of a chain: what must be equal besides the text (model, adapter, tenant, tools)."""

    def hash_text(self, text: bytes, start: int = 0, end: int = ..., seed: int = 0) -> BlockHashes:
        """Hash the whole blocks of ``text[start:end]``; a last part shorter than a block is left out."""

    def hash_tokens(self, tokens: Buffer, block_tokens: int = 16, seed: int = 0) -> BlockHashes:
        """Hash whole blocks of token ids, given as a buffer of 32-bit integers (``array('I', ids)``)."""
