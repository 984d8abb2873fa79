"""The metrics page: text that Prometheus reads, added up over workers."""

import math

import pytest
from prometheus_client.parser import text_string_to_metric_families

from _fastpath.counters import OVERFLOW, Counters
from _fastpath.shared_memory import SharedMemory
from gateway.observability.exposition import render
from gateway.observability.metrics import FAMILIES, HELP, RequestMetrics

NAMES = [name for name, _, _ in FAMILIES]


@pytest.fixture
def memory(tmp_path):
    return SharedMemory.create(
        str(tmp_path / "memory"), workers=3, slots=64, prefix_bytes=192, counter_series=64, counter_cells=4096
    )


def counters(memory, worker=0):
    return Counters(memory, worker, FAMILIES)


def record(counters, name, labels, *values):
    handle = counters.series(NAMES.index(name), labels)
    for value in values:
        counters.record(((handle, value),))


def families(text):
    found = list(text_string_to_metric_families(text))
    names = [family.name for family in found]
    assert len(names) == len(set(names)), "a family stands twice"
    return {family.name: family for family in found}


def samples(text, name):
    """Values by labels of one sample name."""
    found = {}
    for family in families(text).values():
        for sample in family.samples:
            if sample.name == name:
                labels = tuple(sorted(sample.labels.items()))
                assert labels not in found, "a series stands twice"
                found[labels] = sample.value
    return found


def labelled(name, *values):
    labels = next(labels for one, labels, _ in FAMILIES if one == name)
    return tuple(sorted(zip(labels, values, strict=True)))


def test_a_page_without_any_request_names_every_family_with_its_help_and_type(memory):
    found = families(render(memory, 3, ()))
    for name, _, boundaries in FAMILIES:
        family = found[name if boundaries else name.removesuffix("_total")]
        assert family.type == ("histogram" if boundaries else "counter")
        assert family.documentation == HELP[name]
        assert family.samples == []
    assert samples(render(memory, 3, ()), "penstock_metrics_series_dropped_total") == {(): 0}


def test_counters_are_added_up_over_workers(memory):
    labels = ("m", "default/r", "default/s", "chat", "200", "")
    for worker, count in enumerate((1, 20, 300)):
        record(counters(memory, worker), "penstock_requests_total", labels, float(count))
    record(counters(memory, 2), "penstock_requests_total", (*labels[:4], "500", "x"), 7.0)
    assert samples(render(memory, 3, ()), "penstock_requests_total") == {
        labelled("penstock_requests_total", *labels): 321,
        labelled("penstock_requests_total", *labels[:4], "500", "x"): 7,
    }


def test_workers_that_are_not_asked_for_do_not_count(memory):
    record(counters(memory, 2), "penstock_tokens_estimated_total", ("m",), 5.0)
    assert samples(render(memory, 2, ()), "penstock_tokens_estimated_total") == {}


def test_histograms_are_cumulative_added_up_and_have_their_sum_and_count(memory):
    record(counters(memory, 0), "penstock_overhead_seconds", ("chat",), 0.0001, 0.0002, 50.0)
    record(counters(memory, 1), "penstock_overhead_seconds", ("chat",), 0.0002, 0.75)
    text = render(memory, 2, ())
    buckets = samples(text, "penstock_overhead_seconds_bucket")
    by_edge = sorted((float(dict(labels)["le"]), value) for labels, value in buckets.items())
    edges = next(boundaries for name, _, boundaries in FAMILIES if name == "penstock_overhead_seconds")
    assert [edge for edge, _ in by_edge] == [*edges, math.inf]
    assert [value for _, value in by_edge] == sorted(value for _, value in by_edge)
    assert dict(by_edge)[0.0001] == 1  # a value on a boundary belongs to it
    assert dict(by_edge)[0.00025] == 3
    assert dict(by_edge)[1.0] == 4
    assert dict(by_edge)[math.inf] == 5
    assert samples(text, "penstock_overhead_seconds_count") == {(("operation", "chat"),): 5}
    (total,) = samples(text, "penstock_overhead_seconds_sum").values()
    assert total == pytest.approx(50.7505)


def test_every_series_of_a_histogram_has_buckets_of_its_own(memory):
    one = counters(memory)
    record(one, "penstock_overhead_seconds", ("chat",), 0.5)
    record(one, "penstock_overhead_seconds", ("embeddings",), 0.5, 0.5)
    text = render(memory, 1, ())
    counts = samples(text, "penstock_overhead_seconds_count")
    assert counts == {(("operation", "chat"),): 1, (("operation", "embeddings"),): 2}


@pytest.mark.parametrize("value", ['a"b', "a\\b", "a\nb", "\\n", 'x="y",z', "{}", "é✓", "", " "])
def test_label_values_come_through_whatever_is_in_them(memory, value):
    record(counters(memory), "penstock_ratelimit_decisions_total", (value, "route", "l", "refused"), 1.0)
    (labels,) = samples(render(memory, 1, ()), "penstock_ratelimit_decisions_total")
    assert dict(labels)["route"] == value


def test_numbers_are_written_exactly(memory):
    one = counters(memory)
    record(one, "penstock_tokens_total", ("m", "s", "input"), 2.0**53)
    record(one, "penstock_tokens_total", ("m", "s", "output"), 0.1)
    assert sorted(samples(render(memory, 1, ()), "penstock_tokens_total").values()) == [0.1, 2.0**53]


def test_gauges_follow_with_their_labels(memory):
    gauges = [
        ("penstock_x", "Help x.", [({"worker": "0"}, 1.5), ({"worker": "1"}, 0)]),
        ("penstock_y_total", "Help y.", [({}, 3)]),
        ("penstock_z", "Nothing yet.", []),
    ]
    text = render(memory, 1, gauges)
    assert samples(text, "penstock_x") == {(("worker", "0"),): 1.5, (("worker", "1"),): 0}
    assert samples(text, "penstock_y_total") == {(): 3}
    found = families(text)
    assert (found["penstock_x"].type, found["penstock_y"].type, found["penstock_z"].type) == (
        "gauge",
        "counter",
        "gauge",
    )


def test_series_that_did_not_fit_are_counted_under_other_and_the_number_is_told(memory):
    one = counters(memory)
    for number in range(200):
        record(one, "penstock_tokens_estimated_total", (f"model-{number}",), 1.0)
    text = render(memory, 1, ())
    found = samples(text, "penstock_tokens_estimated_total")
    assert sum(found.values()) == 200
    assert found[(("model", OVERFLOW),)] > 0
    assert samples(text, "penstock_metrics_series_dropped_total")[()] > 0


def test_the_page_ends_with_a_line_end(memory):
    assert render(memory, 1, ()).endswith("\n")


def test_what_a_worker_counts_of_requests_is_on_the_page(memory):
    RequestMetrics(memory, 1).limited("default/r", "route", "per-minute")
    wanted = labelled("penstock_ratelimit_decisions_total", "default/r", "route", "per-minute", "refused")
    assert samples(render(memory, 2, ()), "penstock_ratelimit_decisions_total") == {wanted: 1}
