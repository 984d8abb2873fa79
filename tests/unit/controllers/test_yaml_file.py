"""YAML with places: a fault says file, line and field, and no file can do worse than have faults."""

import pytest

from controllers.store import yaml_file
from tests.unit.controllers.objects import VERSION, loaded, route, server

HEAD = f"apiVersion: {VERSION}\n"


def problems(tmp_path, text):
    """Line, path and message of every problem; the file's name is checked here."""
    found = loaded(tmp_path, text)
    for problem in found.problems:
        assert str(problem).startswith(f"{tmp_path}/file.yaml:{problem.line}: ")
    return [(one.line, one.path, one.message) for one in found.problems]


ROUTE = f"""\
apiVersion: {VERSION}
kind: ModelRoute
metadata:
  name: r
spec:
  modelName: m
  rules:
  - name: first
    targetModels:
    - modelServerName: s
      weight: 50
    - modelServerName: t
"""


def test_a_good_document_is_an_object_without_problems(tmp_path):
    found = loaded(tmp_path, ROUTE)
    assert (found.problems, found.ignored) == ((), ())
    assert [item.metadata.name for item in found.objects] == ["r"]


def test_json_is_yaml(tmp_path):
    text = (
        f'{{"apiVersion": "{VERSION}", "kind": "ModelServer", "metadata": {{"name": "s"}}, "spec":'
        ' {"inferenceEngine": "vLLM", "endpoints": [{"name": "e", "address": "a"}]}}'
    )
    assert [item.kind for item in loaded(tmp_path, text).objects] == ["ModelServer"]


@pytest.mark.parametrize(
    ("old", "new", "line", "path"),
    [
        ("  modelName: m", "  modelNam: m", 6, "spec.modelNam"),
        ("  modelName: m", "  model-name: m", 6, "spec.model-name"),
        ("  modelName: m", '  "model name": m', 6, "spec.model name"),
        ("  modelName: m", "  modelName: m\n  5: x", 7, "spec.5"),
        ("      weight: 50", "      wieght: 50", 11, "spec.rules[0].targetModels[0].wieght"),
        ("  - name: first", "  - nmae: first", 8, "spec.rules[0].nmae"),
        ("kind: ModelRoute", "kind: ModelRoute\nstats: {}", 3, "stats"),
    ],
)
def test_an_unknown_field_is_named_with_its_own_line(tmp_path, old, new, line, path):
    assert problems(tmp_path, ROUTE.replace(old, new)) == [(line, path, "unknown field")]


@pytest.mark.parametrize(
    ("old", "new", "line", "path", "message"),
    [
        ("  modelName: m", "  modelName: 5", 6, "spec.modelName", "expected `str`, got `int`"),
        ("  modelName: m", "  modelName: true", 6, "spec.modelName", "expected `str`, got `bool`"),
        ("  modelName: m", "  modelName: 2024-01-01\n  loraAdapters: x", 7, "spec.loraAdapters", "expected `array`"),
        ("weight: 50", 'weight: "50"', 11, "spec.rules[0].targetModels[0].weight", "expected `int`, got `str`"),
        ("weight: 50", "weight: 0.5", 11, "spec.rules[0].targetModels[0].weight", "expected `int`, got `float`"),
        ("    - modelServerName: t", "    - t", 12, "spec.rules[0].targetModels[1]", "expected `object`, got `str`"),
        ("  - name: first", "  - name: {a: b}", 8, "spec.rules[0].name", "expected `str`, got `object`"),
        ("  name: r", "  labels: {}", 3, "metadata", "object missing required field `name`"),
        ("    - modelServerName: t", "    - weight: 3", 12, "spec.rules[0].targetModels[1]", "missing required field"),
        (
            "  modelName: m",
            "  modelName: m\n  rateLimit:\n    unit: fortnight",
            8,
            "spec.rateLimit.unit",
            "invalid enum value 'fortnight'",
        ),
    ],
)
def test_a_wrong_type_is_named_with_its_own_line(tmp_path, old, new, line, path, message):
    ((found_line, found_path, found_message),) = problems(tmp_path, ROUTE.replace(old, new))
    assert (found_line, found_path) == (line, path)
    assert message in found_message


def test_a_wrong_type_inside_a_map_is_named_with_the_nearest_line(tmp_path):
    text = ROUTE + "    modelMatch:\n      headers:\n        x-a: {exact: 5}\n"
    ((line, path, message),) = problems(tmp_path, text)
    assert path.startswith("spec.rules[0].modelMatch.headers")
    assert 14 <= line <= 15
    assert "expected `str | null`, got `int`" in message


def test_faults_of_validation_have_their_lines(tmp_path):
    text = ROUTE.replace("weight: 50", "weight: 500").replace("name: r", "name: R")
    assert [one[:2] for one in problems(tmp_path, text)] == [
        (4, "metadata.name"),
        (11, "spec.rules[0].targetModels[0].weight"),
    ]


def test_a_fault_of_a_field_that_is_not_there_has_its_parents_line(tmp_path):
    text = ROUTE.replace("  modelName: m\n", "")
    assert [one[:2] for one in problems(tmp_path, text)] == [(5, "spec.modelName")]


def test_fields_with_dots_in_their_names_have_their_lines(tmp_path):
    text = ROUTE + '    modelMatch:\n      headers:\n        x.y.z: {regex: "("}\n'
    assert [one[:2] for one in problems(tmp_path, text)] == [(15, "spec.rules[0].modelMatch.headers.x.y.z.regex")]


def test_a_field_that_stands_twice_is_a_problem(tmp_path):
    text = ROUTE.replace("  modelName: m", "  modelName: m\n  modelName: n")
    assert problems(tmp_path, text) == [(7, "spec.modelName", "stands twice")]


def test_several_documents_are_several_objects(tmp_path):
    found = loaded(tmp_path, ROUTE + "---\n" + server() + "---\n" + route(name="q"))
    assert [(item.kind, item.metadata.name) for item in found.objects] == [
        ("ModelRoute", "r"),
        ("ModelServer", "s"),
        ("ModelRoute", "q"),
    ]
    assert found.problems == ()


def test_lines_are_those_of_the_file_not_of_the_document(tmp_path):
    text = server() + "---\n" + ROUTE.replace("modelName: m", "modelNam: m")
    (problem,) = loaded(tmp_path, text).problems
    assert problem.line == len(server().splitlines()) + 1 + 6


def test_every_bad_document_has_its_problem_and_good_ones_are_still_read(tmp_path):
    bad = ROUTE.replace("modelName: m", "modelNam: m")
    found = loaded(tmp_path, bad + "---\n" + server() + "---\n" + bad)
    assert [problem.path for problem in found.problems] == ["spec.modelNam"] * 2
    assert len(found.objects) == 1


@pytest.mark.parametrize(
    "text", ["", "\n", "# a comment\n", "---\n", "---\n---\n", "---\n# nothing\n---\n", "null\n", "~\n"]
)
def test_empty_documents_say_nothing(tmp_path, text):
    found = loaded(tmp_path, text)
    assert (found.objects, found.problems, found.ignored) == ((), (), ())


def test_empty_documents_around_a_good_one_do_not_disturb(tmp_path):
    found = loaded(tmp_path, "---\n# Source: chart\n---\n" + ROUTE + "---\n---\n# end\n")
    assert (len(found.objects), found.problems) == (1, ())


@pytest.mark.parametrize(
    "text",
    [
        "a: [",
        "a: b: c",
        "\tx: y",
        "a: 'b",
        "{a: b",
        "- a\nb: c",
        "*unknown",
        "a: &x 1\nb: *y",
        "%YAML 9",
        "a: \x07",
        "--- !!foo\n...\n&",
    ],
)
def test_what_is_no_yaml_is_one_problem_with_its_line(tmp_path, text):
    ((line, path, message),) = problems(tmp_path, text)
    assert line >= 1
    assert path == ""
    assert message.startswith(("not valid YAML", "not usable YAML"))


def test_the_line_of_broken_yaml_is_where_it_broke(tmp_path):
    ((line, _, _),) = problems(tmp_path, ROUTE.replace("    targetModels:", "   targetModels: ["))
    assert 8 <= line <= 13


@pytest.mark.parametrize("content", [b"\xff\xfe", b"\x00\x01\x02", b"a: \xc3\x28"])
def test_bytes_that_are_no_text_are_one_problem(tmp_path, content):
    found = loaded(tmp_path, content)
    assert (len(found.problems), found.objects) == (1, ())


def test_a_file_that_is_gone_is_one_problem(tmp_path):
    found = yaml_file.load_file(tmp_path / "none.yaml")
    assert len(found.problems) == 1
    assert "none.yaml" in str(found.problems[0])


def test_a_file_that_is_too_large_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(yaml_file, "LARGEST_FILE", len(ROUTE) - 1)
    found = loaded(tmp_path, ROUTE)
    assert (len(found.problems), found.objects) == (1, ())
    assert "larger than" in found.problems[0].message


def test_an_object_that_is_too_large_to_be_sent_is_a_problem(tmp_path):
    text = ROUTE + f'    modelMatch:\n      uri: {{exact: "{"x" * yaml_file.LARGEST_OBJECT}"}}\n'
    ((_, path, message),) = problems(tmp_path, text)
    assert (path, "larger than" in message) == ("spec", True)


def test_parts_of_it_that_stand_twice_by_an_alias_count_twice(tmp_path):
    text = (
        ROUTE
        + f"""\
    modelMatch:
      headers:
        x-a: &long {{exact: "{"x" * (yaml_file.LARGEST_OBJECT // 2)}"}}
        x-b: *long
        x-c: *long
"""
    )
    ((_, _path, message),) = problems(tmp_path, text)
    assert "larger than" in message


@pytest.mark.parametrize("text", ["- a\n", "a\n", "5\n", "[]\n", "{}\n", "spec: {}\n", "kind: \n", 'kind: ""\n'])
def test_a_document_that_is_no_object_is_asked_for_its_kind(tmp_path, text):
    ((line, path, message),) = problems(tmp_path, text)
    assert (line, path) == (1, "kind")
    assert "ModelRoute" in message


@pytest.mark.parametrize(
    "version", ["v1", "serving.penstock.dev/v1", "networking.serving.volcano.sh/v1alpha1", "5", ""]
)
def test_another_version_is_a_problem_at_its_line(tmp_path, version):
    text = f"# first\napiVersion: {version}\nkind: ModelRoute\nmetadata: {{name: r}}\nspec: {{}}\n"
    ((line, path, message),) = problems(tmp_path, text)
    assert (line, path) == (2, "apiVersion")
    assert f"must be {VERSION}" in message


def test_a_missing_version_is_a_problem(tmp_path):
    ((_, path, _),) = problems(tmp_path, "kind: ModelRoute\n")
    assert path == "apiVersion"


@pytest.mark.parametrize("kind", ["Deployment", "modelroute", "ModelRoutes", "[a]", "5"])
def test_an_unknown_kind_of_our_group_is_a_problem_at_its_line(tmp_path, kind):
    ((line, path, message),) = problems(tmp_path, HEAD + f"kind: {kind}\n")
    assert (line, path) == (2, "kind")
    assert "one of" in message


def test_fields_that_have_no_effect_yet_are_noted_with_their_lines(tmp_path):
    found = loaded(tmp_path, ROUTE + "  parentRefs:\n  - name: g\n")
    assert (len(found.objects), found.problems) == (1, ())
    assert found.ignored == (f"{tmp_path}/file.yaml:13: spec.parentRefs: is not done yet",)


def test_an_object_with_faults_is_not_noted_beside(tmp_path):
    found = loaded(tmp_path, ROUTE.replace("weight: 50", "weight: 101") + "  parentRefs: [{name: g}]\n")
    assert (len(found.problems), found.ignored) == (1, ())


@pytest.mark.parametrize("kind", ["Model", "ModelInfer", "AutoScalingPolicy"])
def test_kinds_for_a_cluster_are_ignored_with_a_note(tmp_path, kind):
    found = loaded(tmp_path, ROUTE + "---\n" + HEAD + f"kind: {kind}\nmetadata: {{name: x}}\nspec: {{any: thing}}\n")
    assert (len(found.objects), found.problems) == (1, ())
    (note,) = found.ignored
    assert note.startswith(f"{tmp_path}/file.yaml:14: {kind} ")


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [*a]\n",
        "&a {b: *a}\n",
        ROUTE.replace("modelName: m", "modelName: !foo m"),
        ROUTE.replace("modelName: m", "modelName: !!int abc"),
        ROUTE.replace("modelName: m", "modelName: !!float abc"),
        ROUTE.replace("modelName: m", "modelName: !!binary '%'"),
        ROUTE.replace("modelName: m", "modelName: !!python/object/apply:os.system [ls]"),
        ROUTE.replace("modelName: m", "? [a, b]\n  : m"),
        ROUTE.replace("modelName: m", "? {a: b}\n  : m"),
        ROUTE.replace("modelName: m", "<<: {modelName: m}"),
        ROUTE.replace("weight: 50", f"weight: 1{'0' * 30}"),
        ROUTE.replace("weight: 50", f"weight: 1{'0' * 5000}"),
        ROUTE.replace("modelName: m", f"modelName: m\n  rateLimit: {{inputTokensPerUnit: 1{'0' * 400}}}"),
        ROUTE.replace("modelName: m", f"modelName: m\n  rateLimit: {{inputTokensPerUnit: 1{'0' * 25}}}"),
        "[" * 2000 + "]" * 2000,
        "{a: " * 2000 + "}" * 2000,
    ],
)
def test_no_file_is_worse_than_a_problem(tmp_path, text):
    found = loaded(tmp_path, text)
    assert found.problems
    assert found.objects == ()


def test_aliases_that_multiply_are_a_problem_not_an_afternoon(tmp_path):
    levels = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    for number in range(1, 12):
        levels += f"a{number}: &a{number} [" + ", ".join([f"*a{number - 1}"] * 10) + "]\n"
    assert loaded(tmp_path, levels).problems


def test_a_harmless_alias_is_used(tmp_path):
    text = ROUTE.replace("    - modelServerName: t", "    - &t {modelServerName: t, weight: 1}\n    - *t")
    (item,) = loaded(tmp_path, text).objects
    assert [target.model_server_name for target in item.spec.rules[0].target_models] == ["s", "t", "t"]


def test_a_date_without_quotes_is_a_text_as_for_the_api_server(tmp_path):
    text = ROUTE.replace("  name: r", "  name: r\n  creationTimestamp: 2024-05-06T07:08:09Z")
    (item,) = loaded(tmp_path, text).objects
    assert item.metadata.creation_timestamp == "2024-05-06T07:08:09Z"


def test_a_status_in_a_file_is_let_through(tmp_path):
    text = ROUTE + "status:\n  observedGeneration: 3\n"
    (item,) = loaded(tmp_path, text).objects
    assert item.status.observed_generation == 3


def test_metadata_that_nobody_reads_is_let_through(tmp_path):
    text = ROUTE.replace("  name: r", "  name: r\n  managedFields: []\n  ownerReferences: []\n  finalizers: [x]")
    assert len(loaded(tmp_path, text).objects) == 1


@pytest.mark.parametrize("word", ["off", "Off", "no", "yes", "on", "y", "n"])
def test_words_that_only_old_yaml_takes_for_truth_values_are_texts(tmp_path, word):
    (item,) = loaded(tmp_path, ROUTE.replace("modelName: m", f"modelName: {word}")).objects
    assert item.spec.model_name == word


def test_a_prefix_cache_can_be_switched_off_without_quotes(tmp_path):
    (item,) = loaded(tmp_path, server("endpoints: [{name: e, address: a}]\nprefixCache: {mode: off}")).objects
    assert item.spec.prefix_cache.mode == "off"
