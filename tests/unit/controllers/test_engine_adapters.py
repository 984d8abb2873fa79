"""What metrics pages say of LoRA adapters, and what is loaded after one page and the next."""

import pytest

from controllers.network.engine_adapters import AdapterReading, LoadedAdapters, read_adapters
from controllers.network.engine_metrics import read_page


def series(written, **labels):
    return (
        "vllm:lora_requests_info{" + ",".join(f'{name}="{value}"' for name, value in labels.items()) + f"}} {written}\n"
    )


def reading(capacity, running=(), waiting=()):
    return AdapterReading(capacity, frozenset(running), frozenset(waiting))


# -- pages


def test_names_and_room_are_read():
    page = series("1.76e9", max_lora="4", running_lora_adapters="sql,chat", waiting_lora_adapters="law")
    assert read_adapters(page) == reading(4, {"sql", "chat"}, {"law"})
    assert read_page("vllm:num_requests_running 1\n" + page).adapters == reading(4, {"sql", "chat"}, {"law"})


def test_the_series_that_was_written_last_counts():
    old = series(100.0, max_lora="2", running_lora_adapters="old", waiting_lora_adapters="")
    new = series(200.5, max_lora="2", running_lora_adapters="new", waiting_lora_adapters="")
    assert read_adapters(old + new) == read_adapters(new + old) == reading(2, {"new"})


def test_ranks_are_taken_together():
    page = "".join(
        series(100 + rank, engine=rank, max_lora="2", running_lora_adapters=name, waiting_lora_adapters="")
        for rank, name in enumerate(["a", "b"])
    )
    assert read_adapters(page) == reading(2, {"a", "b"})


@pytest.mark.parametrize(
    "page", ["", "vllm:num_requests_running 1\n", "vllm:lora_requests_info 5\n", series("NaN", max_lora="4")]
)
def test_an_engine_that_does_not_say(page):
    assert read_adapters(page) == reading(0)


@pytest.mark.parametrize("capacity", ["", "-1", "x", "1.5", "٣"])
def test_a_room_that_is_no_number_is_taken_for_unsaid(capacity):
    assert read_adapters(series(1, max_lora=capacity, running_lora_adapters="a")).capacity == 0


def test_nobody_is_no_name_and_escapes_are_undone():
    page = series(1, max_lora="2", running_lora_adapters=r"a\"b, c\\d,,", waiting_lora_adapters="")
    assert read_adapters(page).running == {'a"b', "c\\d"}


def test_requests_run_and_wait_with_so_many_adapters():
    assert reading(2, {"a", "b"}, {"b", "c"}).busy == 3


# -- what is loaded


def test_an_adapter_stays_loaded_until_another_needs_its_place():
    loaded = LoadedAdapters()
    assert loaded.of(reading(2, {"a"})) == ["a"]
    assert loaded.of(reading(2)) == ["a"]
    assert loaded.of(reading(2, {"b"})) == ["b", "a"]
    assert loaded.of(reading(2, {"c"})) == ["c", "b"]


def test_the_adapter_that_was_used_longest_ago_gives_way():
    loaded = LoadedAdapters()
    for name in ("a", "b", "a", "c"):
        last = loaded.of(reading(2, {name}))
    assert last == ["c", "a"]


def test_what_runs_is_loaded_whatever_the_engine_says_of_its_room():
    assert set(LoadedAdapters().of(reading(1, {"a", "b"}))) == {"a", "b"}


def test_an_engine_that_was_started_anew_has_nothing_loaded():
    loaded = LoadedAdapters()
    loaded.of(reading(2, {"a"}))
    loaded.forget()
    assert loaded.of(reading(2)) == []
