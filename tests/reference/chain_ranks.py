"""Twin of ``_fastpath.chain_ranks``: a dict of sets."""

MOST_RANKS = 64


class ChainRanks:
    def __init__(self) -> None:
        self._held: dict[int, set[int]] = {}

    def __len__(self) -> int:
        return len(self._held)

    def add(self, chain: int, rank: int) -> None:
        self._held.setdefault(chain, set()).add(checked(rank))

    def drop(self, chain: int, rank: int) -> bool:
        held = self._held.get(chain, set())
        held.discard(checked(rank))
        if not held:
            self._held.pop(chain, None)
        return not held

    def ranks(self, chain: int) -> int:
        return sum(1 << rank for rank in self._held.get(chain, ()))


def checked(rank: int) -> int:
    if not 0 <= rank < MOST_RANKS:
        raise ValueError
    return rank
