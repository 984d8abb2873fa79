"""The fleet's figures, its capacity, what it reads, and the command from end to end."""

import dataclasses
import json
import random

import pytest

from bench.fleet import __main__ as command
from bench.fleet import capacity, measures, plot, trace
from bench.fleet.policies import POLICIES
from bench.fleet.policies.base import Setting
from bench.fleet.simulation import Fleet, Simulation, default_profile


def line(timestamp, prompt, output, ids):
    return json.dumps({"timestamp": timestamp, "input_length": prompt, "output_length": output, "hash_ids": list(ids)})


def conversation(count=150, seed=1):
    """Conversations of some turns: each repeats what was said before it."""
    rng = random.Random(seed)
    talks, fresh, lines = [], iter(range(10**6)), []
    for number in range(count):
        if not talks or rng.random() < 0.4:
            talks.append([next(fresh)])
        talk = rng.choice(talks)
        talk += [next(fresh) for _ in range(rng.randrange(1, 6))]
        lines.append(line(number * 1000, len(talk) * 512 + 100, rng.randrange(1, 40), [*talk, next(fresh)]))
    return "\n".join(lines) + "\n"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "small.jsonl"
    path.write_text(conversation())
    return path


# -- figures -------------------------------------------------------------------------------------------------------


def test_a_percentile_is_a_value_that_so_many_do_not_exceed():
    values = [float(one) for one in range(100, 0, -1)]
    assert [measures.percentile(values, share) for share in (0.0, 0.5, 0.99, 1.0)] == [1, 50, 99, 100]
    assert measures.percentile([3.0], 0.99) == 3.0
    with pytest.raises(ValueError, match="no values"):
        measures.percentile([], 0.5)


def test_imbalance_is_the_mean_over_windows_of_the_busiest_over_the_mean():
    assert measures.imbalance([[0, 0], [30, 10], [40, 20]]) == pytest.approx((1.5 + 1.0) / 2)
    assert measures.imbalance([[0, 0], [30, 10], [30, 10]]) == 1.5  # nothing was done in the second
    assert measures.imbalance([[5, 5]]) == 1.0


def test_windows_are_whole_minutes_up_to_the_last_arrival():
    assert measures.window_edges(185.0) == [0.0, 60.0, 120.0, 180.0]
    assert measures.window_edges(20.0) == [0.0, 20.0]


# -- the trace -----------------------------------------------------------------------------------------------------


def test_arrivals_are_scaled_to_the_rate(file):
    found = trace.read(file, 512)
    assert found.rate == pytest.approx(1.0)
    assert found.arrivals(4.0)[-1] == pytest.approx(149 / 4)
    assert len(trace.read(file, 512, limit=7).requests) == 7


def test_only_whole_blocks_can_be_reused(tmp_path):
    path = tmp_path / "two.jsonl"
    path.write_text(line(0, 1024, 1, [1, 2]) + "\n\n" + line(5, 1025, 1, [1, 2, 3]) + "\n")
    assert [one.whole for one in trace.read(path, 512).requests] == [(1, 2), (1, 2)]


@pytest.mark.parametrize(
    "second, complaint",
    [
        ("{", "line 2: not a request"),
        ("[]", "line 2: not a request"),
        ('{"timestamp": 1}', "line 2: not a request with timestamp, input_length"),
        (line(5, 0, 1, []), "line 2: input_length and output_length"),
        (line(5, 1000, 1, [1]), "line 2: 1 hash_ids for 1000 tokens; --block-size is 512"),
        (line(-5, 100, 1, [1]), "line 2: timestamp -5 is before"),
        ("", "two requests at different times"),
        (line(0, 100, 1, [1]), "two requests at different times"),
    ],
)
def test_what_is_no_trace_is_refused_with_its_line(tmp_path, second, complaint):
    path = tmp_path / "bad.jsonl"
    path.write_text(line(0, 100, 1, [1]) + "\n" + second + "\n")
    with pytest.raises(trace.BadTrace, match=complaint):
        trace.read(path, 512)


# -- capacity ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [0.3, 9.0, 10.0, 11.0, 400.0])
def test_bisection_finds_the_highest_rate_that_passes_from_anywhere(start):
    asked = []
    found = capacity.bisect(lambda rate: asked.append(rate) or rate < 10.0, start)
    assert 10.0 * 0.99 <= found < 10.0
    assert len(asked) < 20


@pytest.mark.parametrize("answer", [True, False])
def test_bisection_gives_up_when_all_rates_are_alike(answer):
    with pytest.raises(capacity.NoCapacity, match="all of" if answer else "none of"):
        capacity.bisect(lambda rate: answer, 1.0)


def test_too_short_a_trace_has_no_capacity_and_the_error_says_what_to_do(file):
    with pytest.raises(capacity.NoCapacity, match="give --capacity"):
        capacity.measure(Fleet(2, default_profile(512)), trace.read(file, 512, 10), 1, lambda text: None)


def test_an_idle_engine_computes_a_prompt_in_its_chunks(file):
    found = trace.read(file, 512, 60)  # of so few the last percentile is the longest
    longest = max(one.prompt_tokens for one in found.requests)
    expected = longest / 8000 + -(-longest // 2048) * 0.006
    assert capacity.idle_first_token(default_profile(512), found) == pytest.approx(expected)


def test_capacity_is_measured_once_for_the_same_inputs(file, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(capacity, "measure", lambda *inputs: calls.append(inputs) or 2.5)
    found, longer = trace.read(file, 512, 30), trace.read(file, 512, 31)
    fleet = Fleet(2, default_profile(512))
    for inputs in ((fleet, found, 1), (fleet, found, 1), (fleet, longer, 1), (fleet, found, 2)):
        assert capacity.Remembered(tmp_path / "cache").capacity(*inputs, print) == 2.5
    assert len(calls) == 3
    (tmp_path / "cache/fleet-capacity.json").write_text("{")
    assert capacity.Remembered(tmp_path / "cache").capacity(fleet, found, 1, print) == 2.5
    assert len(calls) == 4


# -- simulations ---------------------------------------------------------------------------------------------------


def simulate(file, name, gateways=1, engines=2, rate=1.0):
    found = trace.read(file, 512)
    routers = [POLICIES[name](Setting(engines, 512, 524_288, seed)) for seed in range(gateways)]
    outcome = Simulation(Fleet(engines, default_profile(512)), found, rate, routers).run()
    for one in routers:
        one.close()
    return found, outcome


@pytest.mark.parametrize("name", POLICIES)
def test_every_request_is_served_and_counted_under_every_policy(file, name):
    found, outcome = simulate(file, name)
    assert len(outcome.first_tokens) == len(outcome.ends) == len(found.requests)
    assert outcome.prompt_tokens == sum(one.prompt_tokens for one in found.requests)
    assert 0 < outcome.cached_tokens <= outcome.oracle_tokens < outcome.prompt_tokens


def test_one_engine_alone_finds_all_that_the_oracle_does(file):
    _, outcome = simulate(file, "random", engines=1, rate=0.2)
    assert outcome.cached_tokens == outcome.oracle_tokens


def test_the_oracle_forgets_as_engines_do_by_when_a_request_was_over():
    def request(number, timestamp, blocks, output=1, first=None):
        first = 100 * number if first is None else first
        ids = tuple(range(first, first + blocks))
        return trace.Prompted(number, timestamp, blocks * 512 + 10, output, (*ids, 9000 + number), ids)

    # the first is over after the second, which is therefore what the third and fourth push out
    requests = (
        request(0, 0, 4, 200),
        request(1, 1, 2),
        request(2, 60, 6),
        request(3, 120, 3),
        request(4, 180, 4, first=0),
    )
    found = trace.Trace("made", "", 512, requests)
    profile = dataclasses.replace(default_profile(512), kv_tokens=12 * 512)
    router = POLICIES["random"](Setting(1, 512, profile.kv_tokens))
    outcome = Simulation(Fleet(1, profile), found, found.rate, [router]).run()
    assert (outcome.cached_tokens, outcome.oracle_tokens) == (2 * 512, 3 * 512)


def test_a_run_repeats_itself(file):
    first, second = (measures.figures(simulate(file, "ours", rate=5.0)[1]) for _ in range(2))
    assert first | {"wall_seconds": 0} == second | {"wall_seconds": 0}


def test_gateways_that_know_nothing_of_each_other_find_less(file):
    alone, apart = (simulate(file, "ours", gateways, engines=8)[1].cached_tokens for gateways in (1, 4))
    assert apart < alone


# -- the command ---------------------------------------------------------------------------------------------------


def run(file, tmp_path, *words):
    return command.main(["--trace", str(file), "--engines", "2", "--cache", str(tmp_path / "cache"), *words])


def test_the_command_prints_an_object_a_policy_and_a_table(file, tmp_path, capsys):
    target = tmp_path / "run.json"
    words = ("--load", "0.5", "0.9", "--policy", "ours", "random", "--gateways", "2", "--json", str(target))
    assert run(file, tmp_path, *words) == 0
    shown = capsys.readouterr()
    objects = [json.loads(one) for one in shown.out.splitlines() if one.startswith("{")]
    assert [(one["policy"], one["load"]) for one in objects] == [
        ("ours", 0.5), ("random", 0.5), ("ours", 0.9), ("random", 0.9),
    ]  # fmt: skip
    names = {
        "hit_rate",
        "oracle_hit_rate",
        "shareable_hit_rate",
        "ttft_p50",
        "ttft_p99",
        "e2e_p50",
        "e2e_p99",
        "imbalance",
    }
    assert all(names < set(one) for one in objects)
    assert len([one for one in shown.out.splitlines() if one.startswith("|")]) == 6
    assert "capacity:" in shown.err
    assert "150 of 150 requests sent" in shown.err
    document = json.loads(target.read_text())
    assert document["runs"] == objects
    assert (document["facts"]["engines"], document["facts"]["requests"]) == (2, 150)
    assert run(file, tmp_path, "--load", "0.5", "--policy", "random") == 0
    assert "capacity:" not in capsys.readouterr().err


def test_curves_of_several_documents(file, tmp_path, capsys):
    runs = [
        {"policy": "ours", "load": 0.8, "ttft_p50": 2.0, "oracle_hit_rate": 0.3},
        {"policy": "ours", "load": 0.5, "ttft_p50": 1.0, "oracle_hit_rate": 0.2},
        {"policy": "random", "load": 0.5, "ttft_p50": 9.0, "oracle_hit_rate": 0.25},
    ]
    again = [runs[0] | {"ttft_p50": 4.0}]
    documents = [{"facts": {}, "runs": runs}, {"facts": {}, "runs": again}]
    assert plot.curves(documents, "ttft_p50") == {"ours": [(0.5, 1.0), (0.8, 3.0)], "random": [(0.5, 9.0)]}
    assert plot.oracle(documents) == [(0.5, 0.25), (0.8, 0.3)]


@pytest.mark.parametrize(
    "words, complaint",
    [
        (["--engines", "0"], "argument --engines: must be a whole number, 1 or more, not '0'"),
        (["--load", "-1"], "argument --load: "),
        (["--load", "much"], "argument --load: must be a number above 0, not 'much'"),
        (["--limit", "1.5"], "argument --limit: must be a whole number"),
        (["--gateways", "none"], "argument --gateways: must be a whole number"),
        (["--policy", "best"], "argument --policy: invalid choice: 'best'"),
        (["--seed", "x"], "argument --seed: "),
        (["--trace", "/nowhere/at/all"], "argument --trace: "),
        (["--limit", "1"], "argument --trace: small.jsonl: two requests"),
        (["--block-size", "256"], "argument --trace: line 1: "),
        (["--json", "/nowhere/at/all.json"], "argument --json: no such folder: /nowhere/at"),
    ],
)
def test_a_bad_argument_is_named(file, tmp_path, capsys, words, complaint):
    with pytest.raises(SystemExit) as ended:
        run(file, tmp_path, "--load", "0.5", *words)
    assert ended.value.code == 2
    assert complaint in capsys.readouterr().err


def test_a_request_that_no_engine_can_hold_is_refused(tmp_path, capsys):
    path = tmp_path / "long.jsonl"
    path.write_text(line(0, 100, 1, [1]) + "\n" + line(1000, 600_000, 1, range(1172)) + "\n")
    with pytest.raises(SystemExit):
        run(path, tmp_path, "--load", "0.5", "--capacity", "1")
    assert "argument --trace: request 2 has 600001 tokens; an engine holds 524288" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wanted", "places"),
    [
        ([50.0, 10.0], [50.0, 10.0]),  # where they want to be
        ([50.0, 52.0], [46.0, 56.0]),  # around the middle of both
        ([2.0, 1.0], [10.0, 0.0]),  # inside the lower bound
        ([99.0, 99.0, 80.0], [90.0, 100.0, 80.0]),  # pushed from the upper one against a third
        ([], []),
    ],
)
def test_names_of_curves_do_not_lie_on_each_other(wanted, places):
    assert plot.apart(wanted, 10.0, 0.0, 100.0) == places
