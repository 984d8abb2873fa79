"""Which of a rule's targets takes the request: at random, by weight."""

from __future__ import annotations

from collections.abc import Callable

from gateway.datastore.model import Rule


def split(rule: Rule, random: Callable[[], float]) -> str | None:
    """``namespace/name`` of a server; ``random`` gives numbers in [0, 1). None when every weight is 0."""
    targets = rule.targets
    if len(targets) == 1:
        only = targets[0]
        return only.server if only.weight > 0 else None
    left = random() * sum([target.weight for target in targets])
    for target in targets:
        left -= target.weight
        if left < 0:
            return target.server
    return None
