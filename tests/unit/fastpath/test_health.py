"""Endpoints that fail are left alone, longer each time; one request at a time tries them; who is back or new gets a little at first."""

import os

import pytest

from _fastpath.health import EVENTS, OUTCOMES, Health, Outlier
from _fastpath.shared_memory import SharedMemory
from _fastpath.slots import Slots

NOW = 100.0
RULES = Outlier(failures=3, base_ejection=10.0, maximum_ejection=60.0, slow_start=30.0, probe_seconds=20.0)


@pytest.fixture
def memory(tmp_path):
    return SharedMemory.create(str(tmp_path / "memory"), workers=2, slots=64, prefix_bytes=192, counter_cells=1)


@pytest.fixture
def slots(memory):
    return Slots(memory)


@pytest.fixture
def endpoint(slots):
    return slots.acquire(0, 1000)


@pytest.fixture
def health(memory):
    return Health(memory, 0)


@pytest.fixture
def note(health, endpoint):
    """Note an outcome by its name; the event's name."""

    def note(word, now=NOW, sent=None, probe=0, rules=RULES, by=health):
        return EVENTS[by.note(*endpoint, rules, OUTCOMES.index(word), now if sent is None else sent, now, probe)]

    return note


def read(health, endpoint, now=NOW, rules=RULES):
    return health.read(*endpoint, rules, now)


def state(health, endpoint, now=NOW, rules=RULES):
    reading = read(health, endpoint, now, rules)
    return reading["state"], reading["seconds_left"]


def eject(note, now=NOW):
    assert [note("failed", now) for _ in range(3)] == ["", "", "ejected"]


def test_an_endpoint_of_which_nothing_is_known_serves(health, endpoint):
    assert read(health, endpoint) == {
        "state": "serving", "seconds_left": 0.0, "share": 1.0, "failures": 0, "ejections": 0,
    }  # fmt: skip


def test_failures_in_a_row_eject(health, endpoint, note):
    assert note("failed") == ""
    assert read(health, endpoint)["failures"] == 1
    assert note("failed") == ""
    assert state(health, endpoint) == ("serving", 0)
    assert note("failed") == "ejected"
    assert state(health, endpoint) == ("ejected", 10)
    assert state(health, endpoint, NOW + 4) == ("ejected", 6)
    assert state(health, endpoint, NOW + 10) == ("ejected", 0)


def test_an_answer_in_between_ends_the_row(health, endpoint, note):
    for word in ("failed", "failed", "served", "failed", "failed"):
        assert note(word) == ""
    assert state(health, endpoint)[0] == "serving"


def test_what_says_nothing_of_the_engine_neither_ejects_nor_ends_the_row(health, endpoint, note):
    assert [note("neutral") for _ in range(200)] == [""] * 200
    assert read(health, endpoint)["failures"] == 0
    assert [note(word) for word in ("failed", "neutral", "failed", "neutral", "failed")] == ["", "", "", "", "ejected"]


def test_a_first_piece_does_not_end_the_row(note):
    """An engine that answers and always breaks off is as broken as one that does not."""
    assert [note(word) for word in ("failed", "answers", "failed", "answers", "failed")] == ["", "", "", "", "ejected"]


def test_zero_failures_turn_it_off(health, endpoint, note):
    off = Outlier(failures=0)
    assert [note("failed", rules=off) for _ in range(100)] == [""] * 100
    eject(note)
    assert state(health, endpoint, rules=off) == ("serving", 0)


def test_all_workers_see_it_and_count_together(memory, health, endpoint, note):
    other = Health(SharedMemory.attach(memory.path), 1)
    assert [note("failed"), note("failed", by=other), note("failed")] == ["", "", "ejected"]
    assert state(other, endpoint) == ("ejected", 10)


class TestProbe:
    def test_is_there_to_claim_once_the_ejection_is_over(self, memory, health, endpoint, note):
        eject(note)
        other = Health(memory, 1)
        assert health.claim(*endpoint, RULES, NOW + 9.9) == 0
        assert health.claim(*endpoint, RULES, NOW + 10) != 0
        assert other.claim(*endpoint, RULES, NOW + 10) == 0
        assert state(other, endpoint, NOW + 11) == ("probing", 19)

    def test_is_nothing_for_who_serves(self, health, endpoint):
        assert health.claim(*endpoint, RULES, NOW) == 0

    def test_is_nothing_for_who_has_no_row(self, memory, endpoint, note):
        eject(note)
        assert Health(memory).claim(*endpoint, RULES, NOW + 10) == 0

    def test_that_is_answered_brings_the_endpoint_back(self, health, endpoint, note):
        eject(note)
        probe = health.claim(*endpoint, RULES, NOW + 10)
        assert note("answers", NOW + 11, NOW + 10, probe) == "returned"
        assert state(health, endpoint, NOW + 11) == ("warming", 30)
        assert note("served", NOW + 12, NOW + 10, probe) == ""
        assert read(health, endpoint, NOW + 12)["failures"] == 0

    def test_that_breaks_off_after_its_first_piece_ejects_again(self, health, endpoint, note):
        eject(note)
        probe = health.claim(*endpoint, RULES, NOW + 10)
        assert note("answers", NOW + 11, NOW + 10, probe) == "returned"
        assert note("failed", NOW + 12, NOW + 10, probe) == "ejected"
        assert state(health, endpoint, NOW + 12) == ("ejected", 20)

    def test_that_fails_ejects_for_twice_as_long_up_to_the_longest(self, health, endpoint, note):
        eject(note)
        now, spans = NOW, []
        for _ in range(40):
            spans.append(state(health, endpoint, now)[1])
            now += spans[-1]
            probe = health.claim(*endpoint, RULES, now)
            assert note("failed", now, now, probe) == "ejected"
        assert spans[:5] == [10, 20, 40, 60, 60]
        assert set(spans[4:]) == {60}

    @pytest.mark.parametrize("word", ["neutral"])
    def test_that_says_nothing_leaves_it_to_the_next(self, health, endpoint, note, word):
        eject(note)
        probe = health.claim(*endpoint, RULES, NOW + 10)
        assert note(word, NOW + 11, NOW + 10, probe) == ""
        assert state(health, endpoint, NOW + 11) == ("ejected", 0)
        assert health.claim(*endpoint, RULES, NOW + 11) != 0

    def test_of_another_is_not_ended_by_older_requests(self, health, endpoint, note):
        eject(note)
        health.claim(*endpoint, RULES, NOW + 10)
        assert [note(word, NOW + 11, NOW - 5) for word in OUTCOMES] == ["", "", "", ""]
        assert state(health, endpoint, NOW + 11) == ("probing", 19)

    def test_that_nobody_ends_is_free_again_after_its_lease(self, memory, health, endpoint, note):
        eject(note)
        lost = health.claim(*endpoint, RULES, NOW + 10)
        other = Health(memory, 1)
        assert other.claim(*endpoint, RULES, NOW + 29.9) == 0
        second = other.claim(*endpoint, RULES, NOW + 30)
        assert second not in (0, lost)
        assert note("failed", NOW + 31, NOW + 10, lost) == "", "only the present probe decides"
        assert note("served", NOW + 32, NOW + 30, second, by=other) == "returned"

    def test_of_a_dead_worker_is_free_when_it_is_buried(self, memory, health, endpoint, note):
        eject(note)
        supervisor, other = Health(memory), Health(memory, 1)
        health.claim(*endpoint, RULES, NOW + 10)
        supervisor.clear_worker(1, NOW + 11)
        assert other.claim(*endpoint, RULES, NOW + 11) == 0
        supervisor.clear_worker(0, NOW + 11)
        assert other.claim(*endpoint, RULES, NOW + 11) != 0


class TestReturn:
    def test_by_a_request_that_was_sent_during_the_ejection(self, health, endpoint, note):
        """When too many are out, they are asked all the same, and their answers count."""
        eject(note)
        assert note("served", NOW + 3, NOW - 1) == "", "it went out before"
        assert note("served", NOW + 3, NOW + 1) == "returned"
        assert state(health, endpoint, NOW + 3) == ("warming", 30)

    def test_what_was_sent_before_it_is_old_news(self, health, endpoint, note):
        eject(note)
        note("served", NOW + 3, NOW + 1)
        assert [note("failed", NOW + 4, NOW + 2) for _ in range(10)] == [""] * 10
        assert read(health, endpoint, NOW + 4)["failures"] == 0

    def test_is_slow(self, health, endpoint, note):
        eject(note)
        note("served", NOW, NOW)
        shares = [read(health, endpoint, NOW + seconds)["share"] for seconds in range(0, 36, 5)]
        assert shares == pytest.approx([0.1, 0.2, 0.4, 0.5, 0.7, 0.8, 1.0, 1.0])
        assert note("served", NOW + 30) == ""
        assert state(health, endpoint, NOW) == ("serving", 0), "the word says so from then on"

    def test_a_further_ejection_is_longer_and_forgotten_in_peace(self, health, endpoint, note):
        eject(note)
        note("served", NOW, NOW)
        eject(note, NOW + 59)
        assert state(health, endpoint, NOW + 59) == ("ejected", 20)
        note("served", NOW + 59, NOW + 59)
        eject(note, NOW + 59 + 60)
        assert state(health, endpoint, NOW + 119) == ("ejected", 20), "one minute in peace takes one off"
        note("served", NOW + 119, NOW + 119)
        eject(note, NOW + 1000)
        assert state(health, endpoint, NOW + 1000) == ("ejected", 10)


class TestBegin:
    def test_a_new_endpoint_warms_up(self, health, endpoint, memory):
        assert health.begin(*endpoint, NOW)
        assert state(health, endpoint, NOW + 6) == ("warming", 24)
        assert state(health, endpoint, NOW + 30) == ("serving", 0)

    def test_who_is_known_is_not_new(self, health, endpoint, memory, note):
        health.begin(*endpoint, NOW)
        assert not Health(memory, 1).begin(*endpoint, NOW + 20)
        eject(note)
        assert not health.begin(*endpoint, NOW + 20)
        assert state(health, endpoint, NOW + 1)[0] == "ejected"

    def test_without_a_slow_start_nobody_warms_up(self, health, endpoint):
        rules = Outlier(slow_start=0.0)
        health.begin(*endpoint, NOW)
        # another process's clock may be a little behind
        for now in (NOW - 0.01, NOW, NOW + 1):
            assert state(health, endpoint, now, rules) == ("serving", 0)

    def test_whoever_has_the_slot_next_begins_anew(self, health, endpoint, slots, note):
        eject(note)
        for row in range(3):
            slots.drop(row, endpoint[0])
        slots.sweep()
        assert [note("failed") for _ in range(5)] == [""] * 5, "nobody is noted for who is gone"
        assert not health.begin(*endpoint, NOW)
        successor = slots.acquire(0, 5000)
        assert successor[0] == endpoint[0]
        assert state(health, successor) == ("serving", 0)
        assert health.claim(*successor, RULES, NOW + 10) == 0
        assert health.begin(*successor, NOW)
        assert state(health, successor) == ("warming", 30)


def test_slots_and_rows_that_do_not_exist(memory, health):
    for call in (
        lambda: health.begin(64, 0, NOW),
        lambda: health.note(64, 0, RULES, 0, NOW, NOW),
        lambda: health.claim(64, 0, RULES, NOW),
        lambda: health.read(64, 0, RULES, NOW),
        lambda: Health(memory, 2),
    ):
        with pytest.raises(IndexError):
            call()


@pytest.mark.parametrize("outcome", [-1, 4])
def test_outcomes_that_do_not_exist(health, endpoint, outcome):
    with pytest.raises(ValueError, match=f"outcome {outcome}"):
        health.note(*endpoint, RULES, outcome, NOW, NOW)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"failures": 101}, "failures must be 0 to 100, not 101"),
        ({"base_ejection": 0.0}, "base_ejection must be 0.001 to 86400 seconds, not 0.0"),
        ({"maximum_ejection": 86401.0}, "maximum_ejection must be"),
        ({"slow_start": -1.0}, "slow_start must be 0 to"),
        ({"slow_start": float("nan")}, "slow_start must be"),
        ({"probe_seconds": float("inf")}, "probe_seconds must be"),
        ({"maximum_ejected_percent": 100.5}, "maximum_ejected_percent must be 0 to 100"),
    ],
)
def test_rules_that_are_refused(rules, message):
    with pytest.raises(ValueError, match=message):
        Outlier(**rules)


def test_two_processes_lose_no_failure(memory, health, endpoint):
    """Both note at the same time: every exchange that fails is made again."""
    rules = Outlier(failures=100)
    child = os.fork()
    other = Health(memory, 1 if child else 0)
    for _ in range(40):
        other.note(*endpoint, rules, OUTCOMES.index("failed"), NOW, NOW)
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    assert read(health, endpoint, rules=rules)["failures"] == 80


def test_of_processes_that_claim_at_once_one_has_each_probe(memory, slots, health):
    rules = Outlier(failures=1, base_ejection=1.0)
    endpoints = [slots.acquire(0, 2 * number + 2) for number in range(64)]
    for endpoint in endpoints:
        health.note(*endpoint, rules, OUTCOMES.index("failed"), NOW, NOW)
    children = []
    for _ in range(4):
        child = os.fork()
        if child == 0:
            own = Health(memory, 1)
            os._exit(sum(own.claim(*endpoint, rules, NOW + 2) != 0 for endpoint in endpoints))
        children.append(child)
    assert sum(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children) == 64
