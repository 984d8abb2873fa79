"""The page of the whole comparison: what was asked beside what was found, and its marks."""

from datetime import date

import pytest

from bench.fleet import matrix
from tests.unit.bench.test_fleet import conversation

DAY = date(2026, 1, 2)
GOOD = {
    "hit_rate": 0.98, "oracle_hit_rate": 1.0, "shareable_hit_rate": 0.99, "ttft_p50": 0.5, "ttft_p99": 9.0, "imbalance": 1.2,
}  # fmt: skip
PEER = {**GOOD, "hit_rate": 0.5, "ttft_p50": 0.6, "ttft_p99": 9.5}


def document(gateways=1, **changed):
    """One load, everybody; ``changed`` figures of ours by name."""
    others = {"e2e_p50": 1.0, "e2e_p99": 2.0, "wall_seconds": 0.1}
    runs = [{"policy": name, "load": 0.5, **others, **GOOD, **changed} for name in matrix.OURS]
    if gateways == 1:
        runs += [{"policy": name, "load": 0.5, **others, **PEER} for name in ("dynamo-cost", "least-computed")]
    facts = {"engines": 8, "requests": 10, "trace": "t.jsonl", "seed": 1, "capacity": 4.0, "gateways": gateways}
    return {"facts": facts, "runs": runs}


def verdict(alone, several):
    line = next(line for line in matrix.page([alone], [several], DAY).splitlines() if line.startswith("| 0.5 | ours |"))
    return line.strip("| ").split(" | ")


def test_what_was_reached_is_not_marked():
    cells = verdict(document(), document(4, imbalance=1.3))
    assert cells == [
        "0.5", "ours", "98.0%", "99.0%", "0.500", "0.600 (dynamo-cost)", "9.000", "9.500 (dynamo-cost)", "1.200", "1.200", "1.300", "1.08",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "at", "text"),
    [
        ({"hit_rate": 0.9}, 2, "**90.0%**"),
        ({"ttft_p50": 0.7}, 4, "**0.700**"),
        ({"ttft_p99": 9.6}, 6, "**9.600**"),
        ({"imbalance": 1.25}, 8, "**1.250**"),
    ],
)
def test_what_was_not_reached_is(changed, at, text):
    assert verdict(document(**changed), document(4))[at] == text


def test_gateways_that_are_less_even_together_are_marked():
    assert verdict(document(), document(4, imbalance=1.5))[-1] == "**1.25**"


@pytest.fixture
def drawn(monkeypatch):
    """Names of results and plots, in place of drawing them: that needs matplotlib."""
    found = []
    monkeypatch.setattr(
        matrix, "plot", lambda _, program, results, target: found.append((results[0].name, target)) or True
    )
    return found


def test_the_whole_runs_and_writes_its_page(tmp_path, monkeypatch, drawn):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(matrix, "LOADS", ("0.5",))
    trace = tmp_path / "trace.jsonl"
    trace.write_text(conversation())
    assert matrix.main(["--trace", str(trace), "--folder", str(tmp_path), "--engines", "2"]) == 0
    (page,) = tmp_path.glob("fleet-*.md")
    assert page.read_text().count("| ours-events |") == 3  # a verdict, a row alone and one of four gateways
    assert len(list(tmp_path.glob("fleet-2-engines-*.json"))) == 2
    ((result, target),) = drawn
    assert (tmp_path / result).exists() and target == tmp_path / "fleet-2-engines.png"


def test_the_newest_results_are_drawn_again(tmp_path, monkeypatch, drawn):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name in (
        "8-engines-2026-01-02",
        "8-engines-2025-12-31",
        "8-engines-4-gateways-2026-01-03",
        "16-engines-2026-01-01",
    ):
        (tmp_path / f"fleet-{name}.json").write_text("{}")
    words = ["--plot-only", "--folder", str(tmp_path), "--plots", str(tmp_path / "plots"), "--engines", "8", "16"]
    assert matrix.main(words) == 0
    assert drawn == [
        ("fleet-8-engines-2026-01-02.json", tmp_path / "plots/fleet-8-engines.png"),
        ("fleet-16-engines-2026-01-01.json", tmp_path / "plots/fleet-16-engines.png"),
    ]


def test_without_results_there_is_nothing_to_draw(tmp_path, capsys, drawn):
    assert matrix.main(["--plot-only", "--folder", str(tmp_path), "--engines", "8"]) == 1
    assert "no fleet-8-engines-DATE.json" in capsys.readouterr().err


def test_without_a_trace_nothing_is_run(capsys):
    with pytest.raises(SystemExit):
        matrix.main([])
    assert "--trace: say which" in capsys.readouterr().err
