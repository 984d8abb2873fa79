"""How long answers are: one word a kind, which every worker changes in one exchange."""

import struct
import subprocess
import sys

import pytest

from _fastpath.output_lengths import OutputLengths
from _fastpath.shared_memory import SharedMemory
from tests.reference.shared_memory import read_header

KIND = 7 << 44 | 3


@pytest.fixture
def memory(tmp_path):
    return SharedMemory.create(str(tmp_path / "memory"), workers=2, slots=64, prefix_bytes=192)


@pytest.fixture
def lengths(memory):
    return OutputLengths(memory)


def test_of_a_kind_that_nobody_has_answered_nothing_is_known(lengths):
    assert lengths.mean(KIND) < 0
    lengths.learn(KIND, 10.0, 10.0, 0.0)
    assert lengths.mean(KIND ^ 1) < 0
    assert lengths.mean(KIND ^ 1 << 44) < 0


def test_the_prior_counts_as_eight_answers_and_the_newest_of_many_for_a_sixty_fourth(lengths):
    lengths.learn(KIND, 10.0, 100.0, 0.0)
    assert lengths.mean(KIND) == 90.0
    for _ in range(500):
        lengths.learn(KIND, 64.0, 100.0, 0.0)
    assert lengths.mean(KIND) == pytest.approx(64.0, abs=0.2)
    before = lengths.mean(KIND)
    lengths.learn(KIND, 128.0, 100.0, 0.0)
    assert lengths.mean(KIND) - before == pytest.approx(1.0, abs=0.01)


def test_what_one_worker_learns_the_others_know(memory, lengths):
    OutputLengths(SharedMemory.attach(memory.path)).learn(KIND, 10.0, 10.0, 0.0)
    assert lengths.mean(KIND) == 10.0


def test_an_answer_is_never_longer_than_a_cell_can_say(lengths):
    lengths.learn(KIND, 1e300, 1e300, 0.0)
    assert lengths.mean(KIND) == OutputLengths.LARGEST
    lengths.learn(KIND, 0.0, 0.0, 0.0)
    assert lengths.mean(KIND) < OutputLengths.LARGEST


@pytest.mark.parametrize(("tokens", "prior"), [(-1.0, 1.0), (1.0, -1.0), (float("nan"), 1.0), (1.0, float("nan"))])
def test_less_than_nothing_is_refused(lengths, tokens, prior):
    with pytest.raises(ValueError, match="must not be below 0"):
        lengths.learn(KIND, tokens, prior, 0.0)
    assert lengths.mean(KIND) < 0


def test_of_a_full_set_the_kind_with_the_oldest_answer_gives_way(lengths):
    kinds = [mark << 44 for mark in range(1, 10)]
    for number, kind in enumerate(kinds[:8]):
        lengths.learn(kind, 5.0, 5.0, 64.0 * number)
    lengths.learn(kinds[0], 5.0, 5.0, 64.0 * 9)
    lengths.learn(kinds[8], 5.0, 5.0, 64.0 * 10)
    assert [kind >> 44 for kind in kinds if lengths.mean(kind) < 0] == [2]


def test_whatever_stands_in_a_cell_is_a_mean_in_range(memory, lengths):
    with open(memory.path, "r+b") as file:  # noqa: PTH123 - at a place
        file.seek(read_header(memory.path)["lengths_at"])
        file.write(struct.pack("<8Q", *[(1 << 64) - 1] * 8))
    assert 0 <= lengths.mean(((1 << 20) - 1) << 44) <= OutputLengths.LARGEST + 1
    lengths.learn(KIND & ~511, 5.0, 5.0, 0.0)
    assert lengths.mean(KIND & ~511) == 5.0


LEARNER = """
import sys
from _fastpath.output_lengths import OutputLengths
from _fastpath.shared_memory import SharedMemory
lengths = OutputLengths(SharedMemory.attach(sys.argv[1]))
for number in range(30_000):
    lengths.learn(int(sys.argv[2]) + (number % 3 << 44), float(sys.argv[3]), 150.0, 0.0)
    assert 100.0 <= lengths.mean(int(sys.argv[2])) <= 200.0
"""


def test_two_processes_that_learn_at_once_leave_one_cell_a_kind_and_a_mean_of_what_they_saw(memory, lengths):
    learners = [
        subprocess.Popen([sys.executable, "-c", LEARNER, memory.path, str(KIND), tokens]) for tokens in ("100", "200")
    ]
    assert [one.wait(timeout=60) for one in learners] == [0, 0]
    assert all(100.0 <= lengths.mean(KIND + (more << 44)) <= 200.0 for more in range(3))
    with open(memory.path, "rb") as file:  # noqa: PTH123 - at a place
        file.seek(read_header(memory.path)["lengths_at"])
        words = struct.unpack("<4096Q", file.read(4096 * 8))
    assert sorted(word >> 44 for word in words if word) == [7, 8, 9]
