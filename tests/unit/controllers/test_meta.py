"""Durations and names."""

import pytest

from controllers.api.meta import API_VERSION, Fault, Metadata, check_metadata, seconds


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("1s", 1.0),
        ("250ms", 0.25),
        ("1.5s", 1.5),
        ("2m", 120.0),
        ("1m30s", 90.0),
        ("1h2m3s", 3723.0),
        ("1h0.5s", 3600.5),
        ("100us", 1e-4),
        ("100µs", 1e-4),
        ("5ns", 5e-9),
        ("0s", 0.0),
        ("007s", 7.0),
    ],
)
def test_durations_are_read_as_kubernetes_does(text, wanted):
    assert seconds(text) == pytest.approx(wanted)


@pytest.mark.parametrize(
    "text",
    ["", "1", "s", "1.s.", "-1s", "+1s", " 1s", "1s ", "1 s", "1d", "1S", "1m30", "1,5s", "1e3s", "infs", "nans", "1s\n",
     "1x1s", "1s1x", "9" * 400 + "s", "9" * 400 + "h"],
)  # fmt: skip
def test_anything_else_is_no_duration(text):
    assert seconds(text) is None


@pytest.mark.parametrize("name", ["a", "a-b", "a.b", "0", "a" * 253, "x1-2.3"])
def test_names_of_kubernetes_are_names(name):
    assert list(check_metadata(Metadata(name, name))) == []


@pytest.mark.parametrize("name", ["", "A", "a_b", "-a", "a-", ".a", "a.", "a/b", "a b", "ä", "a" * 254, "a\n", "a#b"])
def test_other_names_are_faults_of_the_field(name):
    (fault,) = check_metadata(Metadata(name))
    assert fault.path == "metadata.name"
    assert f"`{name}`" in fault.message
    assert [fault.path for fault in check_metadata(Metadata("a", name))] == ["metadata.namespace"]


def test_both_names_may_be_wrong_at_once():
    assert len(list(check_metadata(Metadata("A", "B")))) == 2


def test_a_fault_reads_as_path_and_message():
    assert str(Fault("spec.rules[0]", "is wrong")) == "spec.rules[0]: is wrong"


def test_the_version_is_that_of_the_documentation():
    assert API_VERSION == "serving.penstock.dev/v1alpha1"
