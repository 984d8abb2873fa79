"""Hashes are the twin's, chain, depend on the key, and look random."""

import struct
from array import array
from itertools import combinations
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from _fastpath.hashing import BlockHashes, Hasher
from tests.reference import hashing as reference
from tests.support.examples import examples

WORD = st.integers(0, (1 << 64) - 1)
KEY = st.tuples(WORD, WORD)
BITS = 64
BLOCK = 64


def random_key(seed):
    random = Random(seed)
    return random.getrandbits(64), random.getrandbits(64)


# what a hash promises it promises for random keys alone: with the key (0, 0), words of zero swallow their neighbours
RANDOM_KEY = st.integers(0, 1 << 32).map(random_key)


@settings(max_examples=examples(300), deadline=None)
@given(
    key=KEY,
    block_bytes=st.one_of(st.integers(1, 270), st.sampled_from([63, 64, 65, 127, 128, 129])),
    maximum_blocks=st.integers(0, 20),
    text=st.binary(max_size=1500),
    span=st.tuples(st.integers(0, 1600), st.integers(0, 1600)).map(sorted),
    seed=WORD,
)
def test_texts_hash_as_their_twin_says(key, block_bytes, maximum_blocks, text, span, seed):
    start, end = min(span[0], len(text)), span[1]
    compiled = Hasher(key, block_bytes, maximum_blocks)
    plain = reference.Hasher(key, block_bytes, maximum_blocks)
    assert list(compiled.hash_text(text, start, end, seed)) == list(plain.hash_text(text, start, end, seed))
    assert list(compiled.hash_text(text, start)) == list(plain.hash_text(text, start))


@settings(max_examples=examples(200), deadline=None)
@given(
    key=KEY,
    tokens=st.lists(st.integers(0, (1 << 32) - 1), max_size=200),
    block_tokens=st.integers(1, 40),
    seed=WORD,
)
def test_tokens_hash_as_their_twin_says_and_as_the_same_bytes_do(key, tokens, block_tokens, seed):
    buffer = array("I", tokens)
    hashes = list(Hasher(key).hash_tokens(buffer, block_tokens, seed))
    assert hashes == list(reference.Hasher(key).hash_tokens(tokens, block_tokens, seed))
    assert hashes == list(Hasher(key, 4 * block_tokens).hash_text(buffer.tobytes(), seed=seed))


@settings(max_examples=examples(200), deadline=None)
@given(key=KEY, parts=st.lists(st.one_of(st.text(max_size=80), st.binary(max_size=80)), max_size=6))
def test_seeds_are_as_their_twin_says(key, parts):
    assert Hasher(key).seed(*parts) == reference.Hasher(key).seed(*parts)


@settings(max_examples=examples(200), deadline=None)
@given(values=st.lists(WORD, max_size=50))
def test_hashes_made_from_numbers_give_the_numbers_back(values):
    hashes = BlockHashes.of(values)
    assert (len(hashes), list(hashes)) == (len(values), values)


@settings(max_examples=examples(200), deadline=None)
@given(key=RANDOM_KEY, stem=st.binary(max_size=600), tails=st.tuples(st.binary(max_size=300), st.binary(max_size=300)))
def test_hashes_are_equal_as_far_as_the_texts_are_and_no_further(key, stem, tails):
    hasher = Hasher(key, BLOCK)
    first, second = (stem + tail for tail in tails)
    hashes = [list(hasher.hash_text(text)) for text in (first, second)]
    blocks = range(min(len(first), len(second)) // BLOCK)
    for block in blocks:
        same_text = first[: (block + 1) * BLOCK] == second[: (block + 1) * BLOCK]
        assert (hashes[0][block] == hashes[1][block]) == same_text


@settings(max_examples=examples(100), deadline=None)
@given(
    key=RANDOM_KEY,
    text=st.binary(min_size=BLOCK, max_size=600),
    seeds=st.lists(WORD, min_size=2, max_size=2, unique=True),
)
def test_no_block_hashes_the_same_from_another_seed(key, text, seeds):
    hasher = Hasher(key, BLOCK)
    pairs = zip(hasher.hash_text(text, seed=seeds[0]), hasher.hash_text(text, seed=seeds[1]), strict=True)
    assert all(first != second for first, second in pairs)


@settings(max_examples=examples(200), deadline=None)
@given(parts=st.lists(st.text(max_size=40), min_size=1, max_size=5), data=st.data())
def test_seeds_tell_where_one_part_ends_and_the_next_begins(parts, data):
    hasher = Hasher(random_key(1))
    joined = "".join(parts)
    cut = data.draw(st.integers(0, len(joined)))
    other = [joined[:cut], joined[cut:]]
    assert (hasher.seed(*parts) == hasher.seed(*other)) == (parts == other)


def flipped(hasher, key, block, seed):
    """The hash after each single change: of a bit of the block, of the seed, of the key."""
    text = int.from_bytes(block, "little")
    for bit in range(8 * len(block)):
        (value,) = hasher.hash_text((text ^ 1 << bit).to_bytes(len(block), "little"), seed=seed)
        yield value
    for bit in range(BITS):
        (value,) = hasher.hash_text(block, seed=seed ^ 1 << bit)
        yield value
    for bit in range(2 * BITS):
        other = Hasher((key[0] ^ 1 << bit & (1 << BITS) - 1, key[1] ^ 1 << bit >> BITS), len(block))
        (value,) = other.hash_text(block, seed=seed)
        yield value


def test_every_bit_of_block_seed_and_key_flips_every_output_bit_half_of_the_time():
    trials = 100
    random = Random(2)
    flips = [[0] * BITS for _ in range(8 * BLOCK + 3 * BITS)]
    for _ in range(trials):
        key, seed, block = random_key(random.random()), random.getrandbits(64), random.randbytes(BLOCK)
        hasher = Hasher(key, BLOCK)
        (base,) = hasher.hash_text(block, seed=seed)
        for counts, value in zip(flips, flipped(hasher, key, block, seed), strict=True):
            difference = base ^ value
            for bit in range(BITS):
                counts[bit] += difference >> bit & 1
    # one cell is binomial with deviation 5: 45,000 of them stay within 5.5 deviations; a row is 64 cells, deviation 40
    assert all(abs(count - trials / 2) < 28 for counts in flips for count in counts)
    assert all(abs(sum(counts) - trials * BITS / 2) < 5.5 * 40 for counts in flips)
    total = sum(sum(counts) for counts in flips)
    assert abs(total / (len(flips) * BITS * trials) - 0.5) < 0.002


def test_sparse_blocks_avalanche_too():
    # text is far from random: nearly empty blocks must be as far apart as others
    hasher = Hasher(random_key(3), BLOCK)
    values = [next(iter(hasher.hash_text((1 << bit).to_bytes(BLOCK, "little")))) for bit in range(8 * BLOCK)]
    distances = [(first ^ second).bit_count() for first, second in combinations(values, 2)]
    assert min(distances) >= 8
    assert max(distances) <= BITS - 8
    assert abs(sum(distances) / len(distances) - BITS / 2) < 0.1


def structured_blocks():
    """More than a million different blocks that look alike."""
    for word in range(8):
        for counter in range(1, 60_001):
            yield counter << 64 * word  # counters, at every word
    for pair in range(4):
        for first in range(1, 200):
            for second in range(1, 200):
                yield first << 128 * pair | second << 128 * pair + 64  # and at both words of a pair
    for positions in combinations(range(512), 2):
        yield 1 << positions[0] | 1 << positions[1]  # sparse
    for base in range(500):
        text = int.from_bytes((b"Question %d: what is " % base * 8)[:BLOCK], "little")
        for bit in range(512):
            yield text ^ 1 << bit  # one bit different
    for first in range(256):
        for second in range(1, 256):
            yield int.from_bytes(bytes([first, first ^ second] * 32), "little")  # patterns
    for number in range(100_000):
        yield int.from_bytes(b"%064d" % number, "little")  # decimal counters


def test_a_million_structured_blocks_do_not_collide_and_their_halves_only_as_often_as_random_ones():
    hasher = Hasher(random_key(4), BLOCK)
    whole, low, high = set(), set(), set()
    distinct = set(structured_blocks())
    for number in distinct:
        (value,) = hasher.hash_text(number.to_bytes(BLOCK, "little"), seed=5)
        whole.add(value)
        low.add(value & 0xFFFFFFFF)
        high.add(value >> 32)
    blocks = len(distinct)
    assert blocks > 1_000_000
    assert len(whole) == blocks
    expected = blocks * blocks / (1 << 33)
    for half in (low, high):
        assert abs(blocks - len(half) - expected) < 6 * expected**0.5


def test_a_block_over_and_over_again_gives_no_hash_twice():
    text = bytes(BLOCK * 8192)
    whole, low = set(), set()
    for seed in range(50):
        hashes = list(Hasher(random_key(seed), BLOCK).hash_text(text, seed=seed))
        whole.update(hashes)
        low.update(value & 0xFFFFFFFF for value in hashes)
    expected = (50 * 8192) ** 2 / (1 << 33)
    assert len(whole) == 50 * 8192
    assert abs(50 * 8192 - len(low) - expected) < 6 * expected**0.5


def test_another_key_gives_other_hashes():
    text = struct.pack("<4096I", *range(4096))
    hashes = [set(Hasher(random_key(seed), BLOCK).hash_text(text)) for seed in range(20)]
    assert len(set().union(*hashes)) == 20 * 256
