"""Twin of ``_fastpath.kv_blocks``: a dict of the engine's names, above the twin of the index."""

from collections.abc import Sequence

from tests.reference.chain_ranks import ChainRanks
from tests.reference.hashing import block_words, expand_key, hash_block, hash_name
from tests.reference.prefix_index import PrefixIndex

LARGEST_EVENT = 1 << 20


class KVBlocks:
    def __init__(
        self,
        index: PrefixIndex,
        key: tuple[int, int],
        limit: int = 1 << 21,
        ranks: ChainRanks | None = None,
        rank: int = 0,
    ) -> None:
        self._ranks, self._rank = ranks, rank
        self._index = index
        self._key = expand_key(*key)
        self.limit = limit
        self._held: dict[object, list[int]] = {}

    def __len__(self) -> int:
        return len(self._held)

    def store(
        self,
        names: list[object],
        parent: object,
        tokens: list[object],
        block_tokens: int,
        seed: int,
        slot: int,
        now: float,
        extras: Sequence[bytes | None] | None = None,
        tier: int = 1,
    ) -> int:
        self._index.match([], [slot])
        if not 1 <= block_tokens <= 1 << 20 or len(names) > LARGEST_EVENT:
            raise ValueError
        if tokens and len(tokens) != len(names) * block_tokens:
            raise ValueError
        if extras is not None and len(extras) != len(names):
            raise ValueError
        known = [name_of(one) for one in names]
        if not tokens:
            return sum(self._once_more(one, tier) for one in known)
        content = b"".join(token_of(one) for one in tokens)
        chain = seed
        if parent is not None:
            chain = self._held[name_of(parent)][0]
        stored = []
        words = block_words(self._key, 4 * block_tokens)
        for i, name in enumerate(known):
            extra = extras[i] if extras is not None else None
            if extra is not None:
                chain = hash_name(chain, extra, self._key)
            chain = hash_block(chain, content[i * 4 * block_tokens : (i + 1) * 4 * block_tokens], words)
            if len(stored) == i and (name in self._held or len(self._held) < self.limit):
                if name not in self._held and self._ranks is not None:
                    self._ranks.add(chain, self._rank)
                self._held.setdefault(name, [chain, 0])[1] |= tier
                stored.append(chain)
        self._index.learn(stored, slot, now)
        return len(stored)

    def _once_more(self, name: object, tier: int) -> bool:
        if name in self._held:
            self._held[name][1] |= tier
            return True
        return False

    def remove(self, names: list[object], slot: int, tier: int = 1) -> int:
        self._index.match([], [slot])
        known = 0
        for name in [name_of(one) for one in names]:
            if name in self._held:
                known += 1
                self._held[name][1] &= ~tier
                if self._held[name][1] == 0:
                    self._discard(self._held.pop(name)[0], slot)
        return known

    def _discard(self, chain: int, slot: int) -> None:
        if self._ranks is None or self._ranks.drop(chain, self._rank):
            self._index.discard([chain], slot)

    def release(self, slot: int) -> None:
        for chain, _ in self._held.values():
            self._discard(chain, slot)

    def refresh(self, slot: int, now: float) -> None:
        self._index.learn([chain for chain, _ in self._held.values()], slot, now)

    def clear(self) -> None:
        self._held.clear()


def name_of(value: object) -> object:
    if type(value) is int and -(1 << 63) <= value < 1 << 64:
        return value % (1 << 64)
    if type(value) is bytes:
        return value
    raise ValueError


def token_of(value: object) -> bytes:
    if type(value) is int and 0 <= value < 1 << 32:
        return value.to_bytes(4, "little")
    raise ValueError
