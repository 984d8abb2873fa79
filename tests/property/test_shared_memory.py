"""Layout and worker rows agree with plain numbers, whatever the sizes."""

from hypothesis import given, settings
from hypothesis import strategies as st

from _fastpath.shared_memory import SharedMemory
from tests.property.pairs import pair
from tests.reference.shared_memory import STATES, checksum, lay_out, read_header
from tests.support.examples import examples

SIZES = st.fixed_dictionaries(
    {
        "workers": st.integers(1, 63),
        "slots": st.integers(1, 400),
        "buckets": st.integers(1, 100),
        "journal_records": st.integers(1, 50),
        "prefix_bytes": st.integers(192, 1 << 18),
        "counter_series": st.integers(1, 20),
        "counter_cells": st.integers(1, 600),
    }
)
WORD = st.integers(0, (1 << 64) - 1)
ROWS = 4
ROW = st.integers(0, ROWS - 1)
ROW_OPERATIONS = st.one_of(
    st.tuples(st.just("claim_row"), ROW, WORD, WORD),
    st.tuples(st.just("release_row"), ROW),
    st.tuples(st.just("beat"), ROW, WORD, WORD, WORD, WORD),
    st.tuples(st.just("set_state"), ROW, st.integers(0, len(STATES) - 1)),
    st.tuples(st.just("set_snapshot"), ROW, WORD, WORD, WORD),
)


@settings(max_examples=examples(100), deadline=None)
@given(sizes=SIZES)
def test_every_part_of_the_file_lies_where_plain_arithmetic_puts_it(sizes):
    with pair() as both:
        memory = SharedMemory.create(both.path, **sizes)
        header = read_header(both.path)
    assert header | lay_out(**sizes) == header
    assert header["checksum"] == checksum(header)
    assert (header["hash_key_low"], header["hash_key_high"]) == memory.hash_key
    assert (header["size"], header["workers"], header["slots"]) == (memory.size, memory.workers, memory.slots)


@settings(max_examples=examples(100), deadline=None)
@given(sizes=SIZES)
def test_parts_do_not_overlap_and_the_prefix_index_keeps_to_its_bytes(sizes):
    header = lay_out(**sizes)
    places = [value for name, value in header.items() if name.endswith("_at")]
    assert places == sorted(set(places))
    assert 192 <= header["prefix_entries"] * 24 <= max(sizes["prefix_bytes"], 192)


@settings(max_examples=examples(100), deadline=None)
@given(operations=st.lists(ROW_OPERATIONS, max_size=30))
def test_worker_rows_say_what_their_owners_said(operations):
    with pair(workers=ROWS - 1) as both:
        reader = both.attach()
        for name, *arguments in operations:
            getattr(both.compiled, name)(*arguments)
            getattr(both.plain, name)(*arguments)
        for row in range(ROWS):
            assert reader.read_row(row) == both.plain.read_row(row)
