"""Placing a request on an endpoint: charged once, released once, refused with the right reason."""

import time

import pytest

from _fastpath.load import Load
from _fastpath.prefix_index import PrefixIndex
from _fastpath.scanner import scan
from _fastpath.shared_memory import SharedMemory
from _fastpath.slots import Slots, SlotsFull, endpoint_identity
from gateway.datastore.model import Endpoint, PrefixCache, Scheduling, Server, Traffic
from gateway.deadlines import Deadlines
from gateway.errors import NoEndpoint, QueueFull
from gateway.scheduling.place import Hashers, Placer, session_of
from gateway.scheduling.pool import ROLE_BITS, PlacedEndpoint, Reserved, make_pool, reserved_of
from gateway.scheduling.slot_book import SlotBook
from tests.unit.gateway.fakes import chat
from tests.unit.gateway.fleet import SERVER, Fleet

DEFAULT_CACHE = PrefixCache()


@pytest.fixture
def fleet(tmp_path):
    return Fleet(tmp_path)


def pool(fleet):
    return fleet.replica.world.servers[SERVER]


def place(fleet, tried=None, hashes=None, tokens=(100, 10)):
    return fleet.placer.place(pool(fleet), hashes, *tokens, [] if tried is None else tried)


def test_a_placed_request_is_charged_and_released_once(fleet):
    placement = place(fleet)
    assert fleet.load()[placement.placed.endpoint.name] == (1, 100, 10)
    fleet.placer.first_token(placement, 0.5)
    assert fleet.load()[placement.placed.endpoint.name] == (1, 0, 10)
    fleet.placer.release(placement)
    assert fleet.is_idle


def test_a_request_without_a_first_token_gives_its_prefill_back_too(fleet):
    fleet.placer.release(place(fleet))
    assert fleet.is_idle


def test_an_endpoint_that_was_tried_is_not_chosen_again(fleet):
    tried = [place(fleet).position]
    tried.append(place(fleet, tried).position)
    assert sorted(tried) == [0, 1]
    with pytest.raises(NoEndpoint, match="can take the request"):
        place(fleet, tried)


def test_a_prompt_that_is_known_costs_less_and_says_how_much_of_it(fleet):
    body = chat("x" * 64 * 10)
    hashes = fleet.placer.hash_prompt(pool(fleet), body, scan(body))
    first = place(fleet, hashes=hashes, tokens=(170, 10))
    assert (first.matched_blocks, first.match_ratio) == (0, 0.0)
    fleet.placer.release(first)
    second = place(fleet, hashes=hashes, tokens=(170, 10))
    assert (second.position, second.blocks, second.matched_blocks) == (first.position, len(hashes), len(hashes))
    assert second.match_ratio == 1.0
    assert second.prefill_tokens < 20
    fleet.placer.release(second)
    assert fleet.is_idle


@pytest.mark.parametrize(("seconds", "is_young"), [(2.0, False), (60.0, True)])
def test_the_age_of_a_prompt_counts_from_the_end_of_a_long_answer(fleet, seconds, is_young):
    body, now = chat("x" * 640), [1000.0]
    placer = Placer(fleet.memory, 0, lambda: now[0])
    hashes = placer.hash_prompt(pool(fleet), body, scan(body))
    placement = placer.place(pool(fleet), hashes, 170, 10, [])
    now[0] += seconds
    placer.refresh(placement, hashes, 1000.0)
    younger = PrefixIndex(fleet.memory).match(hashes, [placement.placed.slot.index], 1001.0)
    assert younger == [len(hashes) if is_young else 0]


def test_a_prompt_without_a_whole_block_has_no_ratio(fleet):
    assert place(fleet).match_ratio is None


def test_an_empty_server_is_not_ready(tmp_path):
    with pytest.raises(NoEndpoint, match="has no ready endpoint") as raised:
        place(Fleet(tmp_path, endpoints=0))
    assert (raised.value.status, raised.value.retry_after) == (503, 5.0)


def test_full_endpoints_are_a_reason_to_wait(tmp_path):
    fleet = Fleet(tmp_path, server=Server(SERVER, traffic=Traffic(maximum_in_flight=1)))
    held = [place(fleet), place(fleet)]
    with pytest.raises(QueueFull, match="All 2 endpoints") as raised:
        place(fleet)
    assert (raised.value.status, raised.value.retry_after) == (429, 1.0)
    fleet.placer.release(held[0])
    assert place(fleet).position == held[0].position


def test_endpoints_of_other_roles_do_not_serve(tmp_path):
    fleet = Fleet(tmp_path)
    fleet.serve([], [Server(SERVER)], [fleet.endpoint(0, role="prefill"), fleet.endpoint(1, role="decode")])
    with pytest.raises(NoEndpoint, match="can take the request"):
        place(fleet)


def test_an_endpoint_that_was_replaced_meanwhile_is_not_charged(fleet):
    old = pool(fleet)
    held = fleet.placer.place(old, None, 100, 10, [])
    fleet.serve([], [Server(SERVER)], [])
    Slots(fleet.memory).sweep()
    assert Slots(fleet.memory).in_use == 0
    with pytest.raises(NoEndpoint):
        fleet.placer.place(old, None, 100, 10, [])
    fleet.serve([], [Server(SERVER)], [Endpoint("default/new", SERVER, "new:1", "h", 1)])
    fleet.placer.release(held)  # does nothing to who has the slot now
    assert fleet.load() == {"default/new": (0, 0, 0)}


# -- hashes


def hashes(memory, body, cache=DEFAULT_CACHE):
    return Hashers(memory).prompt(body, scan(body), cache)


@pytest.fixture
def memory(fleet):
    return fleet.memory


def test_equal_prompts_have_equal_hashes_and_a_longer_one_continues_them(memory):
    short, long = hashes(memory, chat("x" * 640)), hashes(memory, chat("x" * 6400))
    assert list(short) == list(hashes(memory, chat("x" * 640)))
    common = [one for one, other in zip(short, long, strict=False) if one == other]
    assert len(common) >= len(short) - 1
    assert len(long) > 90


@pytest.mark.parametrize("more", [{"model": "n"}, {"tools": [{"type": "function"}]}])
def test_model_and_tools_are_part_of_every_hash(memory, more):
    plain, other = hashes(memory, chat("x" * 640)), hashes(memory, chat("x" * 640, **more))
    assert not set(plain) & set(other)


def test_what_is_no_prompt_is_no_part_of_the_hashes(memory):
    plain = list(hashes(memory, chat("x" * 640)))
    assert list(hashes(memory, chat("x" * 640, temperature=0.5, max_tokens=7, user="me", stream=True))) == plain


def test_a_servers_block_size_counts(memory):
    counts = [len(hashes(memory, chat("x" * 6400), PrefixCache(block_size=size))) for size in (64, 128, 640)]
    assert counts[0] > 1.9 * counts[1] > 3.8 * 2
    assert counts[2] == 10


@pytest.mark.parametrize("body", [b'{"model":"m"}', chat("x" * 640)])
def test_without_a_prompt_or_with_the_cache_off_there_are_no_hashes(memory, body):
    cache = PrefixCache(mode="off") if b"xxx" in body else PrefixCache()
    assert hashes(memory, body, cache) is None


# -- pools and slots


def test_every_role_has_a_bit_of_its_own():
    assert len(set(ROLE_BITS.values())) == len(ROLE_BITS) == 3
    assert all(bit.bit_count() == 1 for bit in ROLE_BITS.values())


def test_a_pool_has_its_endpoints_in_order(memory):
    book = SlotBook(memory, 1)
    placed = tuple(
        PlacedEndpoint(one, book.acquire(one.identity))
        for one in (Endpoint(f"default/{name}", SERVER, name, "h", 1) for name in "abc")
    )
    made = make_pool(Server(SERVER), placed)
    assert made.endpoints == placed
    assert len(made.pool) == 3


def test_a_pool_with_an_unknown_scorer_is_refused(memory):
    with pytest.raises(ValueError, match="nonsense"):
        make_pool(Server(SERVER, scheduling=Scheduling("weighted", {"nonsense": 1.0})), ())


@pytest.fixture
def book_memory(tmp_path):
    return SharedMemory.create(str(tmp_path / "book"), workers=2, slots=64, prefix_bytes=192)


def test_an_endpoint_of_several_servers_has_one_slot_until_the_last_is_gone(book_memory):
    book, slots = SlotBook(book_memory, 0), Slots(book_memory)
    assert book.acquire("a") == book.acquire("a")
    book.drop("a")
    assert slots.sweep() == []
    book.drop("a")
    slots.sweep()
    assert slots.find(endpoint_identity("a")) is None


def test_what_one_process_drops_another_still_names(book_memory):
    one, other, slots = SlotBook(book_memory, 0), SlotBook(book_memory, 1), Slots(book_memory)
    assert one.acquire("a") == other.acquire("a")
    one.drop("a")
    assert slots.sweep() == []
    assert slots.find(endpoint_identity("a")) is not None


def test_dropping_what_was_not_acquired_is_a_mistake(book_memory):
    with pytest.raises(KeyError):
        SlotBook(book_memory, 0).drop("a")


def test_more_endpoints_than_slots_are_refused_and_nothing_is_noted(book_memory):
    book = SlotBook(book_memory, 0)
    for number in range(64):
        book.acquire(str(number))
    with pytest.raises(SlotsFull):
        book.acquire("one more")
    with pytest.raises(KeyError):
        book.drop("one more")


def test_choosing_takes_microseconds_not_milliseconds(tmp_path):
    fleet = Fleet(tmp_path, endpoints=60)
    body = chat("x" * 6400)
    hashes = fleet.placer.hash_prompt(pool(fleet), body, scan(body))
    times = []
    for _ in range(200):
        started = time.perf_counter()
        placement = place(fleet, hashes=hashes)
        times.append(time.perf_counter() - started)
        fleet.placer.release(placement)
    assert sorted(times)[100] < 0.001


@pytest.mark.parametrize(
    ("tokens", "seconds", "measured"), [(8000, 0.5, True), (511, 0.5, False), (8000, 0.0, False)]
)  # fmt: skip
def test_a_long_prefill_tells_the_engines_speed(fleet, tokens, seconds, measured):
    placement = place(fleet, tokens=(tokens, 10))
    fleet.placer.first_token(placement, seconds)
    assert prefills(fleet, placement) == ((tokens, seconds) if measured else (0.0, 0.0))


def test_what_was_queued_before_it_was_computed_in_the_same_time(fleet):
    first = place(fleet, tokens=(8000, 10))
    placed = [place(fleet, tokens=(1000, 10)) for _ in range(12)]
    behind = next(one for one in placed if one.placed is first.placed)
    assert behind.queued_tokens > 7000  # a part of it is computed by now
    fleet.placer.first_token(behind, 2.0)
    assert prefills(fleet, behind) == (behind.queued_tokens + 1000, 2.0)


@pytest.mark.parametrize(
    ("headers", "key", "named"),
    [({"x-session-id": "one"}, None, "one"), ({"x-session-id": "one"}, "two", "one"), ({}, "two", "two"),
     ({"x-other": "three", "x-session-id": "one"}, None, "three"), ({"x-session-id": ""}, "", None), ({}, None, None)],
)  # fmt: skip
def test_a_session_is_named_by_the_first_header_that_is_there_else_by_the_prompts_cache_key(headers, key, named):
    scheduling = Scheduling("weighted", {"session": 1.0}, session_headers=("x-other", "x-session-id"))
    server = make_pool(Server("s", scheduling=scheduling), ())
    assert session_of(server, headers.get, key) == (0 if named is None else endpoint_identity(named))


def test_without_the_scorer_nothing_names_a_session():
    scheduling = Scheduling("weighted", {"session": 0.0}, session_headers=("x-session-id",))
    assert session_of(make_pool(Server("s", scheduling=scheduling), ()), {"x-session-id": "one"}.get, "two") == 0


def prefills(fleet, placement):
    """What was measured of the endpoint: tokens and seconds."""
    slot = placement.placed.slot
    return Load(fleet.memory).read_prefills(slot.index, slot.generation)


@pytest.mark.parametrize(
    ("bound", "percent", "expected"),
    [(8, 10.0, 1), (8, 25.0, 2), (100, 10.0, 10), (3, 50.0, 0), (4, 1.0, 1), (0, 10.0, 0), (8, 0.0, 0)],
)
def test_of_four_places_or_more_at_least_one_is_kept(bound, percent, expected):
    assert reserved_of(bound, percent) == expected


def test_what_is_kept_is_left_by_whom_it_is_not_for(fleet):
    placed = pool(fleet).endpoints[:1]
    server = make_pool(Server("s", traffic=Traffic(maximum_in_flight=4)), placed, reserved=Reserved(25.0))
    held = [fleet.placer.place(server, None, 10, 10, [], narrow=True) for _ in range(3)]
    with pytest.raises(QueueFull):
        fleet.placer.place(server, None, 10, 10, [], narrow=True)
    held.append(fleet.placer.place(server, None, 10, 10, []))
    with pytest.raises(QueueFull):
        fleet.placer.place(server, None, 10, 10, [])
    for one in held:
        fleet.placer.release(one)
    assert fleet.is_idle


def test_who_had_its_share_takes_no_further_place_of_an_endpoint_that_has_prompts_to_compute(fleet):
    placed = pool(fleet).endpoints[:1]
    server = make_pool(Server("s", traffic=Traffic(maximum_in_flight=4)), placed, reserved=Reserved(25.0, 0.1))
    held = [fleet.placer.place(server, None, 800, 10, [], narrow=True) for _ in range(2)]
    with pytest.raises(QueueFull):  # 1,600 tokens at 8,000 a second
        fleet.placer.place(server, None, 10, 10, [], narrow=True)
    held.append(fleet.placer.place(server, None, 10, 10, []))
    fleet.placer.first_token(held[0], 0.0)
    fleet.placer.first_token(held[1], 0.0)
    fleet.placer.release(held.pop())
    held.append(fleet.placer.place(server, None, 10, 10, [], narrow=True))
    for one in held:
        fleet.placer.release(one)
    assert fleet.is_idle


def test_a_long_prompt_of_an_answer_in_one_piece_is_not_taken_to_be_computed_before_it_was_expected(fleet):
    """The timer looks at what is far off before it is due."""
    placement = fleet.placer.place(pool(fleet), None, 40_000, 10, [])  # 5 s
    again = []

    class Wheel(Deadlines):
        def add(self, entry, due):
            again.append(due)
            return due

    placement.expect_prefill(fleet.placer, Wheel(), 100.0)
    placement.check(101.0)
    assert not placement.has_first_token
    assert again == [pytest.approx(105.0)] * 2
    placement.check(105.0)
    assert placement.has_first_token
    placement.check(106.0)
    fleet.placer.release(placement)
    assert fleet.is_idle
