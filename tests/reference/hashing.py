"""Twin of ``_fastpath.hashing``: the same 64-bit values out of Python's whole numbers."""

from collections.abc import Iterator, Sequence

MASK = (1 << 64) - 1
C0 = 0x9E3779B97F4A7C15
C1 = 0xC2B2AE3D27D4EB4F
C2 = 0xD6E8FEB86659FD93
C3 = 0xA0761D6478BD642F


def fold(a: int, b: int) -> int:
    """The halves of the 128-bit product, combined."""
    product = a * b
    return (product & MASK) ^ (product >> 64)


def expand_key(low: int, high: int) -> list[int]:
    """Six words out of the two that are random."""
    pairs = ((C0, C1), (C2, C3), (C1, C2), (C3, C0))
    return [low, high, *(fold(low ^ one, high ^ other) for one, other in pairs)]


def hash_name(chain: int, block: bytes, key: list[int]) -> int:
    """One part of a seed: 32 bytes a round, the last padded with zeros."""
    a = chain ^ key[2]
    b = (chain + key[3]) & MASK
    for at in range(0, len(block), 32):
        part = block[at : at + 32].ljust(32, b"\0")
        words = [int.from_bytes(part[i : i + 8], "little") for i in range(0, 32, 8)]
        a = fold(words[0] ^ key[0], words[1] ^ a ^ C0)
        b = fold(words[2] ^ key[1], words[3] ^ b ^ C1)
    a = fold(a ^ key[4], b ^ key[5])
    return fold(a ^ len(block) ^ key[1], chain ^ C3 ^ a)


def block_words(key: list[int], block_bytes: int) -> list[int]:
    """Six words for blocks of a length."""
    return [hash_name(number, b"", key) for number in (block_bytes << 8, 1, 2, 3, 4, 5)]


def hash_block(chain: int, block: bytes, words: list[int]) -> int:
    """One link of the chain: 64 bytes a part, the last padded with zeros."""
    for at in range(0, len(block), 64):
        part = block[at : at + 64].ljust(64, b"\0")
        one = [int.from_bytes(part[i : i + 8], "little") for i in range(0, 64, 8)]
        total = one[7] << 64 | one[6]
        for i in range(0, 6, 2):
            total += ((one[i] + words[i]) & MASK) * ((one[i + 1] + words[i + 1]) & MASK)
        chain = fold((total + chain) & MASK, total >> 64 & MASK)
    return chain


class BlockHashes:
    def __init__(self, values: Sequence[int]) -> None:
        self._values = list(values)

    @staticmethod
    def of(values: Sequence[int]) -> "BlockHashes":
        return BlockHashes(values)

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator[int]:
        return iter(self._values)


class Hasher:
    def __init__(self, key: tuple[int, int], block_bytes: int = 64, maximum_blocks: int = 8192) -> None:
        if block_bytes < 1:
            raise ValueError
        self._key = expand_key(*key)
        self.block_bytes = block_bytes
        self.maximum_blocks = maximum_blocks

    def _chain(self, text: bytes, block_bytes: int, seed: int) -> BlockHashes:
        values = []
        chain = seed
        words = block_words(self._key, block_bytes)
        for i in range(min(len(text) // block_bytes, self.maximum_blocks)):
            chain = hash_block(chain, text[i * block_bytes : (i + 1) * block_bytes], words)
            values.append(chain)
        return BlockHashes(values)

    def seed(self, *parts: str | bytes) -> int:
        chain = 0
        for part in parts:
            chain = hash_name(chain, part.encode() if isinstance(part, str) else part, self._key)
        return chain

    def hash_text(self, text: bytes, start: int = 0, end: int | None = None, seed: int = 0) -> BlockHashes:
        end = len(text) if end is None else min(end, len(text))
        if start > end:
            raise ValueError
        return self._chain(text[start:end], self.block_bytes, seed)

    def hash_tokens(self, tokens: Sequence[int], block_tokens: int = 16, seed: int = 0) -> BlockHashes:
        text = b"".join(token.to_bytes(4, "little") for token in tokens)
        return self._chain(text, 4 * block_tokens, seed)
