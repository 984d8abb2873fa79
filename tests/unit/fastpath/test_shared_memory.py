"""The mapped file: creation, refusal of what is none, worker rows."""

import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest

from _fastpath.shared_memory import STATES, LayoutError, SharedMemory
from tests.reference.shared_memory import FIELDS, checksum, empty_row, lay_out, read_header, write_header

ROOT = Path(__file__).parents[3]
SMALL = {
    "workers": 2,
    "slots": 64,
    "buckets": 4,
    "journal_records": 4,
    "prefix_bytes": 1 << 12,
    "counter_series": 1,
    "counter_cells": 1,
}


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "memory")


@pytest.fixture
def memory(path):
    return SharedMemory.create(path, **SMALL)


def run_python(source, *arguments):
    """In a process of its own: for limits that apply to a whole process, and for crashes."""
    command = [sys.executable, "-c", source, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20)


def test_create_leaves_one_file_that_only_its_owner_may_open(path, tmp_path):
    SharedMemory.create(path, **SMALL)
    assert [file.name for file in tmp_path.iterdir()] == ["memory"]
    assert Path(path).stat().st_mode & 0o777 == 0o600


def test_create_takes_all_blocks_of_the_file(path):
    memory = SharedMemory.create(path, **SMALL)
    status = Path(path).stat()
    assert status.st_size == memory.size
    assert status.st_blocks * 512 >= memory.size


def test_sizes_are_what_was_asked_for_with_slots_rounded_up_to_pages_of_64(path):
    memory = SharedMemory.create(path, **(SMALL | {"slots": 65}))
    assert (memory.workers, memory.slots, memory.path) == (2, 128, path)
    assert memory.size == lay_out(**(SMALL | {"slots": 65}))["size"]


def test_default_sizes_are_the_documented_ones(path):
    memory = SharedMemory.create(path, workers=1)
    assert read_header(path).items() >= lay_out(workers=1).items()
    assert memory.size < 100 << 20


def test_everything_but_the_header_starts_as_zeros(path, memory):
    assert not any(Path(path).read_bytes()[len(FIELDS) * 8 :])


def test_every_file_has_a_hash_key_of_its_own(tmp_path):
    keys = {SharedMemory.create(str(tmp_path / str(i)), **SMALL).hash_key for i in range(20)}
    words = [word for key in keys for word in key]
    assert len(set(words)) == 40
    assert all(any(word >> bit & 1 for word in words) for bit in range(64))


@pytest.mark.parametrize(
    "size",
    [
        {"workers": 0},
        {"workers": 1000},
        {"workers": -1},
        {"slots": 0},
        {"slots": (1 << 24) + 1},
        {"buckets": 0},
        {"buckets": -5},
        {"journal_records": 0},
        {"counter_series": 0},
        {"counter_cells": (1 << 24) + 1},
        {"prefix_bytes": 191},
        {"prefix_bytes": -1},
        {"prefix_bytes": (1 << 40) + 1},
        {"prefix_bytes": 1 << 66},
    ],
)
def test_create_refuses_sizes_out_of_range_and_names_them(path, size):
    with pytest.raises(ValueError, match=next(iter(size))):
        SharedMemory.create(path, **(SMALL | size))
    assert not Path(path).exists()


def test_create_in_a_missing_folder_says_so(tmp_path):
    with pytest.raises(FileNotFoundError):
        SharedMemory.create(str(tmp_path / "missing" / "memory"), **SMALL)


def test_create_that_gets_no_space_leaves_no_draft_and_keeps_the_former_file(path, memory, tmp_path):
    # the limit of a file's size stands for a full disk: both fail in posix_fallocate
    failed = run_python(
        "import resource, sys; from _fastpath.shared_memory import SharedMemory\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))\n"
        "try: SharedMemory.create(sys.argv[1], workers=1)\n"
        "except OSError as error: print(type(error).__name__)",
        path,
    )
    assert failed.stdout == "OSError\n"
    assert [file.name for file in tmp_path.iterdir()] == ["memory"]
    assert memory.is_current()


def test_create_overwrites_a_draft_that_a_killed_process_left(path):
    draft = Path(f"{path}.{os.getpid()}.new")
    draft.write_bytes(b"garbage" * 1000)
    memory = SharedMemory.create(path, **SMALL)
    assert memory.is_current()
    assert not draft.exists()


def test_attach_sees_the_same_file(path, memory):
    other = SharedMemory.attach(path)
    assert (other.inode, other.hash_key, other.size) == (memory.inode, memory.hash_key, memory.size)
    memory.claim_row(0, 77, 88)
    assert other.read_row(0)["process"] == 77


def test_attach_to_a_missing_file_says_so(path):
    with pytest.raises(FileNotFoundError):
        SharedMemory.attach(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"x", b"\0" * 4095, b"\0" * 8192, b"PENSTOCX" * 1024],
    ids=["empty", "one byte", "short", "zeros", "another magic"],
)
def test_attach_refuses_files_that_are_no_shared_memory(path, content):
    Path(path).write_bytes(content)
    with pytest.raises(LayoutError, match=r"not Penstock's|too short"):
        SharedMemory.attach(path)


def test_attach_refuses_another_layout_version_and_names_both(path, memory):
    write_header(path, read_header(path) | {"layout_version": 99})
    with pytest.raises(LayoutError, match=r"layout 99, this Penstock uses 10"):
        SharedMemory.attach(path)


@pytest.mark.parametrize("field", [field for field in FIELDS if field not in ("magic", "layout_version")])
@pytest.mark.parametrize("bit", [0, 31, 63])
def test_attach_refuses_a_header_with_one_bit_changed(path, memory, field, bit):
    header = read_header(path)
    write_header(path, header | {field: header[field] ^ 1 << bit})
    with pytest.raises(LayoutError, match="damaged"):
        SharedMemory.attach(path)


@pytest.mark.parametrize("change", [-4096, -1, 1, 4096])
def test_attach_refuses_a_file_that_was_cut_or_grew(path, memory, change):
    os.truncate(path, memory.size + change)
    with pytest.raises(LayoutError, match="damaged"):
        SharedMemory.attach(path)


def test_the_checksum_is_the_plain_one(path, memory):
    header = read_header(path)
    assert header["checksum"] == checksum(header)


def test_a_memory_is_current_until_another_is_created_at_its_path(path, memory):
    other = SharedMemory.attach(path)
    assert memory.is_current()
    assert other.is_current()
    newer = SharedMemory.create(path, **SMALL)
    assert (memory.is_current(), other.is_current(), newer.is_current()) == (False, False, True)
    assert newer.hash_key != memory.hash_key


def test_a_memory_whose_file_is_gone_or_cut_is_not_current_but_stays_mapped(path, memory):
    memory.claim_row(0, 5, 6)
    os.truncate(path, memory.size - 4096)
    assert not memory.is_current()
    Path(path).unlink()
    assert not memory.is_current()
    assert memory.read_row(0)["process"] == 5


def test_many_re_creations_never_bring_an_inode_back_that_is_mapped(path, memory):
    held = [memory]
    for _ in range(20):
        held.append(SharedMemory.create(path, **SMALL))
    assert [each.is_current() for each in held] == [False] * 20 + [True]


def test_a_dropped_memory_is_unmapped(path):
    SharedMemory.create(path, **SMALL)
    assert path not in Path("/proc/self/maps").read_text()


def test_rows_are_those_of_the_workers_and_one_for_the_sidecar(memory):
    assert [memory.read_row(row) for row in range(3)] == [empty_row()] * 3
    memory.claim_row(2, 9, 9)
    for call in (
        lambda: memory.read_row(3),
        lambda: memory.claim_row(3, 1, 1),
        lambda: memory.release_row(3),
        lambda: memory.beat(3, 1, 1, 1, 1),
        lambda: memory.set_state(3, 0),
        lambda: memory.set_snapshot(1 << 40, 1, 1, 1),
    ):
        with pytest.raises(IndexError):
            call()


def test_a_claimed_row_says_nothing_of_its_former_owner(memory):
    memory.beat(1, 5, 6, 7, 8)
    memory.set_snapshot(1, 9, 10, 11)
    memory.set_state(1, 2)
    memory.claim_row(1, 1234, 5678)
    assert memory.read_row(1) == empty_row() | {"process": 1234, "started": 5678}


def test_a_released_row_belongs_to_nobody_and_holds_nothing(memory):
    memory.claim_row(1, 1234, 5678)
    memory.set_state(1, 1)
    memory.beat(1, 5, 6, 7, 8)
    memory.release_row(1)
    row = memory.read_row(1)
    assert (row["process"], row["state"], row["in_flight"]) == (0, "starting", 0)


def test_a_beat_says_when_how_busy_how_large_and_how_late(memory):
    memory.beat(0, 11, 22, 33, 44, 5)
    assert memory.read_row(0) == empty_row() | {
        "heartbeat": 11, "in_flight": 22, "resident": 33, "loop_lag": 44, "waiting": 5,
    }  # fmt: skip
    assert memory.read_row(1) == empty_row()


def test_a_snapshot_says_which_and_when(memory):
    memory.set_snapshot(0, 11, 22, 33)
    assert memory.read_row(0) == empty_row() | {"epoch": 11, "sequence": 22, "applied": 33}


def test_states_go_by_their_position_and_there_are_no_others(memory):
    for position, name in enumerate(STATES):
        memory.set_state(0, position)
        assert memory.read_row(0)["state"] == name
    with pytest.raises(ValueError, match="state 3"):
        memory.set_state(0, len(STATES))


def test_a_state_that_a_later_version_wrote_reads_as_the_last(path, memory):
    with Path(path).open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        at = read_header(path)["worker_rows_at"] + 3 * 8
        mapped[at : at + 8] = (7).to_bytes(8, "little")
    assert memory.read_row(0)["state"] == STATES[-1]


@pytest.mark.parametrize("number", [-1, 1 << 64])
def test_numbers_that_are_no_64_bit_words_are_refused(memory, number):
    with pytest.raises(OverflowError):
        memory.beat(0, number, 0, 0, 0)
    with pytest.raises(OverflowError):
        memory.read_row(number)


def test_a_memory_cannot_be_made_without_a_file():
    with pytest.raises(TypeError, match="create or"):
        SharedMemory()
