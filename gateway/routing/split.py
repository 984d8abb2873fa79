"""Which of a rule's targets takes the request: at random, by weight."""

from __future__ import annotations

from collections.abc import Callable

from gateway.datastore.model import Rule


def split(rule: Rule, random: Callable[[], float]) -> str | None:
    """``namespace/name`` of a server; ``random`` gives numbers in [0, 1). None when every weight is 0."""
    if len(rule.targets) == 1:
        return rule.targets[0].server if rule.targets[0].weight > 0 else None
    left = random() * sum([target.weight for target in rule.targets])
    for target in rule.targets:
        left -= target.weight
        if left < 0:
            return target.server
    return None
