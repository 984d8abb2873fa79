"""What a request asks and tells of the length of answers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from _fastpath.output_lengths import OutputLengths
from _fastpath.shared_memory import SharedMemory
from bench.micro.ratio import times_faster
from gateway.admission.output_estimates import OutputEstimates
from gateway.routing.kinds import Kind
from tests.reference import output_lengths as reference
from tests.reference import shared_memory as reference_memory

KIND = Kind("default/r", "m", "chat")

pytestmark = pytest.mark.benchmark(max_time=0.5)


@pytest.fixture
def memory(tmp_path: Path) -> SharedMemory:
    return SharedMemory.create(str(tmp_path / "memory"), workers=1, prefix_bytes=192)


def one_request(estimates: OutputEstimates) -> None:
    estimates.expected(KIND, -1, 1)
    estimates.learn(KIND, 100, -1, 1, 1.0)


def test_expect_and_learn(benchmark: Callable[..., Any], memory: SharedMemory) -> None:
    benchmark(one_request, OutputEstimates(memory, 256))


def asked_and_told(lengths: Any) -> Callable[[], Any]:
    def work() -> None:
        lengths.learn(5, 100.0, 256.0, 1.0)
        lengths.mean(5)

    return work


def test_at_least_5_times_faster_than_the_twin(memory: SharedMemory) -> None:
    twin = reference.OutputLengths(reference_memory.SharedMemory(workers=1))
    assert times_faster(asked_and_told(OutputLengths(memory)), asked_and_told(twin)) > 5
