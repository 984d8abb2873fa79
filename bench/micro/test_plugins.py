"""What a plugin adds to a decision: the survey, the candidates as objects, and the call."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from _fastpath.policy import Policy
from bench.micro.fleets import NOW, endpoints, scheduler_of
from gateway.datastore.model import PluginSpec
from gateway.scheduling.plugins import Asked, Candidate, Plugins, adjustments_of

ASKED = Asked("m", "/v1/chat/completions", "", 1000, 256, 0, {}.get)

pytestmark = pytest.mark.benchmark(max_time=0.5)


class Idle:
    """About the least that a plugin can do."""

    def score(self, asked: Asked, candidates: Sequence[Candidate]) -> list[float]:
        return [-one.waiting for one in candidates]


@pytest.mark.parametrize("count", [16, 64, 256])
@pytest.mark.parametrize("with_plugin", [False, True], ids=["without", "plugin"])
def test_decide_with_a_plugin(benchmark: Callable[..., Any], tmp_path: Path, count: int, with_plugin: bool) -> None:
    scheduler, pool = scheduler_of(tmp_path / "memory", endpoints(count), [])
    policy, names = Policy(), [(f"default/e{number}", "10.0.0.1") for number in range(count)]
    plugins = Plugins({"idle": Idle}, lambda *_: None).of("s", (PluginSpec("idle"),))

    def decide(adjustments: list[float] | None = None, dry: bool = False) -> tuple[int, int, int] | None:
        return scheduler.decide(pool, policy, None, 1000, 256, NOW, 1, None, dry, 0, True, 0, adjustments)

    def decide_with_plugin() -> tuple[int, int, int] | None:
        decide(dry=True)
        return decide(adjustments_of(plugins, ASKED, names, pool.explain()))

    assert benchmark(decide_with_plugin if with_plugin else decide) is not None
