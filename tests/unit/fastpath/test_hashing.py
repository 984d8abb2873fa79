"""Hashes of blocks: spans, limits, tokens, seeds, and arguments that are refused."""

import struct
import subprocess
import sys
from array import array
from itertools import combinations
from pathlib import Path

import pytest

from _fastpath.hashing import BlockHashes, Hasher

ROOT = Path(__file__).parents[3]
KEY = (0x0123456789ABCDEF, 0xFEDCBA9876543210)
TEXT = bytes(range(256)) * 4


@pytest.fixture
def hasher():
    return Hasher(KEY)


def test_defaults_are_blocks_of_64_bytes_and_8192_of_them(hasher):
    assert (hasher.block_bytes, hasher.maximum_blocks) == (64, 8192)
    assert len(hasher.hash_text(bytes(64 * 8193))) == 8192


def test_a_prompt_is_hashed_up_to_the_maximum(hasher):
    short = Hasher(KEY, maximum_blocks=3)
    assert list(short.hash_text(TEXT)) == list(hasher.hash_text(TEXT))[:3]
    assert list(short.hash_tokens(array("I", range(256)))) == list(hasher.hash_tokens(array("I", range(256))))[:3]
    assert len(Hasher(KEY, maximum_blocks=0).hash_text(TEXT)) == 0


@pytest.mark.parametrize(("length", "blocks"), [(0, 0), (63, 0), (64, 1), (127, 1), (128, 2), (1024, 16)])
def test_a_last_part_shorter_than_a_block_is_left_out(hasher, length, blocks):
    assert len(hasher.hash_text(TEXT[:length])) == blocks
    assert list(hasher.hash_text(TEXT[:length])) == list(hasher.hash_text(TEXT))[:blocks]


def test_a_span_hashes_as_the_text_cut_out(hasher):
    assert list(hasher.hash_text(TEXT, 10, 600)) == list(hasher.hash_text(TEXT[10:600]))
    assert list(hasher.hash_text(TEXT, start=10)) == list(hasher.hash_text(TEXT[10:]))
    assert list(hasher.hash_text(TEXT, end=600)) == list(hasher.hash_text(TEXT[:600]))
    assert list(hasher.hash_text(TEXT, 5, 1 << 40)) == list(hasher.hash_text(TEXT[5:]))
    assert list(hasher.hash_text(TEXT, len(TEXT))) == []


@pytest.mark.parametrize("span", [(5, 4), (1025, 2000), (1025, 1026)])
def test_spans_that_start_after_their_end_or_the_text_are_refused(hasher, span):
    with pytest.raises(ValueError, match="span"):
        hasher.hash_text(TEXT, *span)


@pytest.mark.parametrize("span", [(-1, 5), (0, -1), (0, 1 << 64)])
def test_spans_that_count_from_the_end_are_refused(hasher, span):
    with pytest.raises(OverflowError):
        hasher.hash_text(TEXT, *span)


@pytest.mark.parametrize("text", ["text", None, bytearray(64)])
def test_only_bytes_are_hashed_as_text(hasher, text):
    with pytest.raises(TypeError):
        hasher.hash_text(text)


def test_a_chain_goes_on_from_the_hash_it_is_seeded_with(hasher):
    whole = list(hasher.hash_text(TEXT))
    assert list(hasher.hash_text(TEXT, 256, seed=whole[3])) == whole[4:]


def test_a_change_in_one_block_changes_it_and_all_after_it(hasher):
    changed = bytearray(TEXT)
    changed[64 * 5] ^= 1
    pairs = list(zip(hasher.hash_text(TEXT), hasher.hash_text(bytes(changed)), strict=True))
    assert [first == second for first, second in pairs] == [True] * 5 + [False] * 11


def test_equal_blocks_hash_differently_at_each_position(hasher):
    assert len(set(hasher.hash_text(bytes(64 * 100)))) == 100


def test_block_sizes_hash_differently():
    first = {next(iter(Hasher(KEY, size).hash_text(bytes(256)))) for size in range(1, 257)}
    assert len(first) == 256


@pytest.mark.parametrize("typecode", ["I", "i", "f"])
def test_tokens_come_in_any_buffer_of_four_byte_items(hasher, typecode):
    buffer = array("I", range(64))
    other = array(typecode)
    other.frombytes(buffer.tobytes())
    assert list(hasher.hash_tokens(other)) == list(hasher.hash_tokens(buffer)) == list(hasher.hash_text(bytes(buffer)))
    assert list(hasher.hash_tokens(memoryview(buffer.tobytes()).cast("I"))) == list(hasher.hash_tokens(buffer))


@pytest.mark.parametrize(("tokens", "blocks"), [(0, 0), (15, 0), (16, 1), (31, 1), (32, 2)])
def test_a_last_part_shorter_than_a_block_of_tokens_is_left_out(hasher, tokens, blocks):
    assert len(hasher.hash_tokens(array("I", range(tokens)))) == blocks


@pytest.mark.parametrize("tokens", [b"\0" * 64, array("H", range(64)), array("Q", range(64))])
def test_tokens_of_another_width_are_refused(hasher, tokens):
    with pytest.raises(ValueError, match="32-bit"):
        hasher.hash_tokens(tokens)


def test_tokens_that_are_no_buffer_or_have_gaps_are_refused(hasher):
    with pytest.raises(TypeError):
        hasher.hash_tokens([1, 2, 3])
    with pytest.raises(BufferError):
        hasher.hash_tokens(memoryview(array("I", range(64)))[::2])


def test_a_buffer_of_tokens_is_let_go_of(hasher):
    tokens = array("I", range(16))
    hasher.hash_tokens(tokens)
    tokens.append(1)  # BufferError while somebody holds it
    wide = array("Q", range(16))
    with pytest.raises(ValueError, match="32-bit"):
        hasher.hash_tokens(wide)
    wide.append(1)


def test_blocks_of_nothing_are_refused(hasher):
    with pytest.raises(ValueError, match="block_bytes"):
        Hasher(KEY, 0)
    with pytest.raises(ValueError, match="block_tokens"):
        hasher.hash_tokens(array("I"), 0)


def test_a_huge_block_of_tokens_is_no_crash():
    source = (
        "from array import array; from _fastpath.hashing import Hasher\n"
        "print(len(Hasher((1, 2)).hash_tokens(array('I', range(64)), 1 << 62)))"
    )
    process = subprocess.run([sys.executable, "-c", source], cwd=ROOT, capture_output=True, text=True, timeout=20)
    assert process.returncode >= 0


@pytest.mark.parametrize(
    ("key", "error"),
    [((1,), ValueError), ((1, 2, 3), ValueError), ((-1, 2), OverflowError), ((1, 1 << 64), OverflowError)],
)
def test_keys_that_are_not_two_64_bit_numbers_are_refused(key, error):
    with pytest.raises(error):
        Hasher(key)


def test_a_key_that_is_no_tuple_is_refused():
    with pytest.raises(TypeError):
        Hasher([1, 2])


def test_a_seed_tells_its_parts_their_order_and_their_ends_apart(hasher):
    seeds = [
        hasher.seed(),
        hasher.seed(""),
        hasher.seed("", ""),
        hasher.seed("ab"),
        hasher.seed("a", "b"),
        hasher.seed("b", "a"),
        hasher.seed("ab", ""),
        hasher.seed("", "ab"),
        hasher.seed("a\0"),
        hasher.seed("a"),
        hasher.seed("\0"),
    ]
    assert len(set(seeds)) == len(seeds)


def test_a_seed_takes_text_as_its_utf_8(hasher):
    assert hasher.seed("größe") == hasher.seed("größe".encode())


def test_no_parts_are_the_seed_0(hasher):
    assert hasher.seed() == 0


def test_both_words_of_the_key_matter():
    hashes = {
        tuple(Hasher(key).hash_text(TEXT))
        for key in (KEY, (KEY[0] ^ 1, KEY[1]), (KEY[0], KEY[1] ^ 1), (KEY[1], KEY[0]), (0, 0))
    }
    assert len(hashes) == 5


@pytest.mark.parametrize("lane", [0, 16], ids=["first lane", "second lane"])
def test_names_that_collide_under_every_key_cannot_be_made_without_knowing_it(lane):
    constant = {0: 0x9E3779B97F4A7C15, 16: 0xC2B2AE3D27D4EB4F}[lane]
    first, second = struct.unpack_from("<2Q", TEXT, lane)
    swapped = TEXT[:lane] + struct.pack("<2Q", second ^ constant, first ^ constant) + TEXT[lane + 16 : 64]
    for key in (KEY, (5, 6), (1 << 63, 99)):
        assert Hasher(key).seed(swapped) != Hasher(key).seed(TEXT[:64])


@pytest.mark.parametrize(("one", "other"), list(combinations(range(8), 2)))
def test_words_of_a_block_cannot_change_places(one, other):
    words = list(struct.unpack_from("<8Q", TEXT))
    words[one], words[other] = words[other], words[one]
    for key in (KEY, (5, 6), (1 << 63, 99)):
        assert list(Hasher(key).hash_text(struct.pack("<8Q", *words))) != list(Hasher(key).hash_text(TEXT[:64]))


@pytest.mark.parametrize("word", range(8))
@pytest.mark.parametrize("difference", [1, 1 << 31, 1 << 63, (1 << 64) - 1])
def test_what_is_added_to_one_word_of_a_block_cannot_be_taken_from_another(word, difference):
    words = list(struct.unpack_from("<8Q", TEXT))
    words[word] = (words[word] + difference) % (1 << 64)
    seen = {next(iter(Hasher(KEY).hash_text(TEXT[:64]))), next(iter(Hasher(KEY).hash_text(struct.pack("<8Q", *words))))}
    for other in range(8):
        changed = list(words)
        changed[other] = (changed[other] - difference) % (1 << 64)
        seen.add(next(iter(Hasher(KEY).hash_text(struct.pack("<8Q", *changed)))))
    assert len(seen) == 9  # taken from the same word, it is the block that was


@pytest.mark.parametrize("count", [31, 32, 33, 8192])
def test_few_hashes_and_many_are_kept(hasher, count):
    hashes = hasher.hash_text(bytes(64 * count))
    assert len(hashes) == count
    assert list(hashes) == list(hasher.hash_text(bytes(64 * 8192)))[:count]


def test_hashes_from_numbers_can_be_read_again_and_again():
    hashes = BlockHashes.of([1, 2, (1 << 64) - 1])
    assert list(hashes) == list(hashes) == [1, 2, (1 << 64) - 1]
    assert len(BlockHashes.of([])) == 0
    assert list(BlockHashes.of((3, 4))) == [3, 4]


@pytest.mark.parametrize("values", [[-1], [1 << 64]])
def test_hashes_that_are_no_64_bit_words_are_refused(values):
    with pytest.raises(OverflowError):
        BlockHashes.of(values)


def test_hashes_outlive_their_prompt_and_do_not_share_memory(hasher):
    kept = [hasher.hash_text(bytes([i]) * 640) for i in range(200)]
    again = [list(hashes) for hashes in kept]
    del kept[::2]
    assert [list(hasher.hash_text(bytes([i]) * 640)) for i in range(200)] == again
    assert [list(hashes) for hashes in kept] == again[1::2]
