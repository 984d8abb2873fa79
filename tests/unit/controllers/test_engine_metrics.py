"""Engines' metrics pages: old names and new, ranks added up, and one that hangs delays nobody."""

import asyncio
import contextlib
import time
from dataclasses import replace

import pytest
from aiohttp import web

from _fastpath.adapters import Adapters
from _fastpath.hashing import BlockHashes
from _fastpath.load import Load
from _fastpath.prefix_index import PrefixIndex
from _fastpath.shared_memory import SharedMemory
from _fastpath.slots import Slots, endpoint_identity
from controllers.network import engine_metrics as module
from controllers.network.engine_metrics import SHARED_MEMORY_FILE, EngineScraper, Reading, read_page
from gateway.datastore.model import Endpoint
from tests.support.certificates import Authority

VLLM = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_waiting{engine="0",model_name="m"} 4.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:prefix_cache_queries_total{engine="0",model_name="m"} 100.0
vllm:prefix_cache_hits_total{engine="0",model_name="m"} 40.0
vllm:time_to_first_token_seconds_bucket{engine="0",le="0.001",model_name="m"} 0.0
vllm:time_to_first_token_seconds_count{engine="0",model_name="m"} 10.0
vllm:time_to_first_token_seconds_sum{engine="0",model_name="m"} 2.5
vllm:inter_token_latency_seconds_count{engine="0",model_name="m"} 200.0
vllm:inter_token_latency_seconds_sum{engine="0",model_name="m"} 4.0
"""
WANTED = Reading(3, 4, 0.25, (2.5, 10), (4.0, 200), (40, 100))
SGLANG = """\
sglang:num_running_reqs{model_name="m"} 3.0
sglang:num_queue_reqs{model_name="m"} 4.0
sglang:token_usage{model_name="m"} 0.25
sglang:prompt_tokens_total{model_name="m"} 100.0
sglang:cached_tokens_total{model_name="m"} 40.0
sglang:time_to_first_token_seconds_sum{model_name="m"} 2.5
sglang:time_to_first_token_seconds_count{model_name="m"} 10.0
sglang:inter_token_latency_seconds_sum{model_name="m"} 4.0
sglang:inter_token_latency_seconds_count{model_name="m"} 200.0
"""


# -- pages


def test_a_page_of_vllm_is_read():
    assert read_page(VLLM) == WANTED


def test_the_names_of_older_vllms_are_read():
    old = (
        VLLM.replace("kv_cache_usage_perc", "gpu_cache_usage_perc")
        .replace("vllm:prefix_cache", "vllm:gpu_prefix_cache")
        .replace("inter_token_latency", "time_per_output_token")
    )
    assert "gpu_prefix_cache_hits_total" in old
    assert read_page(old) == WANTED


def test_where_a_page_has_both_names_the_new_one_counts_and_nothing_is_counted_twice():
    both = VLLM + "".join(
        f"{line}\n"
        for line in """\
vllm:gpu_cache_usage_perc{engine="0"} 0.9
vllm:gpu_prefix_cache_queries_total{engine="0"} 7
vllm:gpu_prefix_cache_hits_total{engine="0"} 7
vllm:time_per_output_token_seconds_count{engine="0"} 9
vllm:time_per_output_token_seconds_sum{engine="0"} 9""".splitlines()
    )
    assert read_page(both) == WANTED


def test_a_page_of_sglang_is_read():
    assert read_page(SGLANG) == replace(WANTED, computed=60)


def test_ranks_are_added_up_and_shares_averaged():
    other = VLLM.replace('engine="0"', 'engine="1"').replace(" 0.25", " 0.75").replace(" 3.0", " 5.0")
    assert read_page(VLLM + other) == Reading(8, 8, 0.5, (5.0, 20), (8.0, 400), (80, 200))


def test_one_rank_of_a_page_is_read_as_if_it_were_alone():
    size = 'vllm:cache_config_info{block_size="16",name="a} b",engine="0",num_gpu_blocks="100"} 1.0\n'
    page = VLLM + size + "process_start_time_seconds 7\n"
    other = page.replace('engine="0"', 'engine="1"').replace(" 3.0", " 5.0").replace('"100"', '"50"')
    assert read_page(page + other, 0) == replace(WANTED, kv_tokens=1600, started=7)
    assert read_page(page + other, 1) == replace(WANTED, running=5, kv_tokens=800, started=7)
    assert read_page(page + other, 2) is None


@pytest.mark.parametrize(
    ("lines", "tokens"),
    [
        ('vllm:cache_config_info{block_size="16",cache_dtype="auto",num_gpu_blocks="100",num_cpu_blocks="7"} 1.0\n', 1600),
        ('sglang:cache_config_info{page_size="64",num_pages="10"} 1.0\n', 640),
        ('vllm:cache_config_info{block_size="16",engine="0",num_gpu_blocks="100"} 1.0\n'
         'vllm:cache_config_info{block_size="16",engine="1",num_gpu_blocks="50"} 1.0\n', 2400),
        ('vllm:cache_config_info{block_size="16",num_gpu_blocks="None"} 1.0\n', 0),
        ("", 0),
    ],
)  # fmt: skip
def test_a_page_says_how_much_the_engines_cache_holds(lines, tokens):
    assert read_page(VLLM + lines) == replace(WANTED, kv_tokens=tokens)


@pytest.mark.parametrize(
    ("lines", "computed"),
    [
        ("vllm:prompt_tokens_total 1000\nvllm:generation_tokens_total 50\nvllm:prompt_tokens_cached_total 600\n", 450),
        ("vllm:prompt_tokens_total 1000\nvllm:generation_tokens_total 50\n", 1010),  # 40 hits
        ("vllm:prompt_tokens_total 10\n", 0),  # hits are counted when a prompt begins, prompts when they are computed
        ("vllm:generation_tokens_total 50\n", 50),
    ],
)
def test_a_page_says_what_the_engine_computed_so_far(lines, computed):
    assert read_page(VLLM + lines).computed == computed


def test_what_was_computed_counts_from_scrape_to_scrape_of_one_process():
    first, second = replace(WANTED, computed=100.0), replace(WANTED, computed=350.0)
    assert second.computed_since(first) == 250
    assert first.computed_since(None) == 0
    assert replace(first, started=7.0).computed_since(replace(second, started=3.0)) == 0
    assert first.computed_since(second) == 0


def test_a_page_without_labels_is_read():
    assert read_page("vllm:num_requests_running 2\nvllm:num_requests_waiting 1\n").running == 2


def test_time_stamps_and_exponents_are_read():
    page = "vllm:num_requests_running 1.5e+01 1700000000000\nvllm:num_requests_waiting 2E0\n"
    assert (read_page(page).running, read_page(page).waiting) == (15, 2)


def test_lines_that_end_as_in_windows_are_read():
    assert read_page(VLLM.replace("\n", "\r\n")) == WANTED


def test_what_is_not_there_counts_as_nothing():
    assert read_page("vllm:num_requests_waiting 1\n") == Reading(0, 1, 0.0, (0.0, 0.0), (0.0, 0.0), (0, 0))


@pytest.mark.parametrize(
    "page", ["", "ok\n", "<html>vllm:</html>", "python_gc_objects_total 5\n", "# vllm:num_requests_running 5\n"]
)
def test_a_page_that_is_no_engines_is_none(page):
    assert read_page(page) is None


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-Inf", "1.2.3", "-", "e", "abc", "", "0x10", "1,5"])
def test_a_number_that_is_none_is_left_out(value):
    page = VLLM.replace("vllm:kv_cache_usage_perc", f"vllm:kv_cache_usage_perc {value}\nvllm:kv_cache_usage_perc")
    assert read_page(page) == WANTED


def test_a_page_of_nothing_but_nan_is_none():
    assert read_page("vllm:num_requests_running NaN\nvllm:num_requests_waiting NaN\n") is None


def test_label_values_may_hold_anything():
    page = VLLM.replace('model_name="m"', r'model_name="a}b{c,d=\"e\" 9"')
    assert read_page(page) == WANTED


def test_a_name_that_only_begins_alike_is_another_metric():
    page = VLLM + 'vllm:num_requests_running_by_reason{engine="0"} 99\nother_vllm:num_requests_running 99\n'
    assert read_page(page) == WANTED


def test_a_large_page_is_read_in_a_moment():
    page = "".join(f'vllm:time_to_first_token_seconds_bucket{{le="{i}"}} {i}\n' for i in range(50_000)) + VLLM
    started = time.process_time()
    assert read_page(page) == WANTED
    assert time.process_time() - started < 2


# -- means


def means(*readings):
    found = module._Means()
    return [found.of("x", reading) for reading in readings]


def test_a_mean_is_that_of_the_last_interval():
    assert means((10.0, 100), (11.0, 110), (14.0, 120)) == [0.0, pytest.approx(0.1), pytest.approx(0.3)]


def test_a_mean_stays_while_nothing_happens():
    assert means((10.0, 100), (11.0, 110), (11.0, 110), (11.0, 110))[1:] == [pytest.approx(0.1)] * 3


def test_after_a_restart_of_the_engine_the_mean_stays_until_there_is_a_new_one():
    assert means((10.0, 100), (11.0, 110), (1.0, 2), (3.0, 4))[1:] == [
        pytest.approx(0.1),
        pytest.approx(0.1),
        pytest.approx(1.0),
    ]


def test_means_of_different_things_are_apart():
    found = module._Means()
    for reading in ((0.0, 0), (1.0, 1)):
        found.of("a", reading)
    assert (found.of("a", (1.0, 1)), found.of("b", (5.0, 5))) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("change", "follows"),
    [({}, True), ({"first_token": (9.0, 30)}, True), ({"first_token": (0.1, 1)}, False), ({"prefix": (0, 0)}, False),
     ({"started": 17.0}, False), ({"started": 0.0}, True), ({"running": 0, "kv_usage": 0.0}, True)],
)  # fmt: skip
def test_an_engine_that_was_started_anew_is_known_by_its_time_or_by_counters_that_fell(change, follows):
    before = read_page(VLLM + "process_start_time_seconds 16.5\n")
    assert before.started == 16.5
    assert replace(before, **change).follows(before) is follows


# -- scraping


class Engine:
    """A real server with a metrics page."""

    def __init__(self, page=VLLM, tls=None):
        self.page, self.status, self.hangs, self.scrapes = page, 200, False, 0
        self._tls = tls

    async def _metrics(self, _):
        self.scrapes += 1
        if self.hangs:
            await asyncio.sleep(3600)
        return web.Response(text=self.page, status=self.status)

    async def start(self, port=0):
        application = web.Application()
        application.add_routes([web.get("/metrics", self._metrics)])
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", port, ssl_context=self._tls).start()
        self.port = self._runner.addresses[0][1]
        return self

    async def stop(self):
        await self._runner.cleanup()

    def endpoint(self, name="e", **more):
        scheme = "http" if self._tls is None else "https"
        return Endpoint(
            f"default/{name}", "default/s", f"127.0.0.1:{self.port}", "127.0.0.1", self.port, scheme=scheme, **more
        )


@pytest.fixture
async def engines():
    found = []

    async def start(page=VLLM, tls=None):
        found.append(await Engine(page, tls).start())
        return found[-1]

    yield start
    for one in found:
        await one.stop()


def make_memory(directory):
    return SharedMemory.create(
        str(directory / SHARED_MEMORY_FILE), workers=1, slots=64, prefix_bytes=192, counter_series=16, counter_cells=64
    )


@pytest.fixture
def memory(tmp_path):
    return make_memory(tmp_path)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(module, "SCRAPE_SECONDS", 0.1)


@contextlib.asynccontextmanager
async def scraping(tmp_path, endpoints, **options):
    task = asyncio.ensure_future(EngineScraper(lambda: endpoints, tmp_path, **options).run())
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def metrics(memory, endpoint):
    found = Slots(memory).find(endpoint_identity(endpoint.identity))
    return found and Load(memory).read_metrics(*found)


async def until(condition, seconds=5):
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def test_what_an_engine_says_is_written_at_its_slot_with_its_time(tmp_path, memory, engines):
    engine = await engines()
    before = time.monotonic()
    async with scraping(tmp_path, [engine.endpoint()]):
        await until(lambda: metrics(memory, engine.endpoint()))
        found = metrics(memory, engine.endpoint())
        assert (found["running"], found["waiting"], found["kv_usage"]) == (3, 4, 0.25)
        assert before <= found["time"] <= time.monotonic()
        assert found["first_token_seconds"] == 0  # no interval yet
        engine.page = VLLM.replace(" 10.0", " 20.0").replace(" 2.5", " 4.5").replace("total{", 'total{x="y",')
        await until(lambda: metrics(memory, engine.endpoint())["first_token_seconds"] == pytest.approx(0.2))
        first = metrics(memory, engine.endpoint())["time"]
        await until(lambda: metrics(memory, engine.endpoint())["time"] > first)


async def test_what_an_engine_computes_between_two_scrapes_is_written(tmp_path, memory, engines):
    engine = await engines(VLLM + "vllm:prompt_tokens_total 5000\n")

    def computed():
        found = Slots(memory).find(endpoint_identity(engine.endpoint().identity))
        return Load(memory).read_computed(*found, time.monotonic()) if found else 0

    async with scraping(tmp_path, [engine.endpoint()]):
        await until(lambda: engine.scrapes > 1)
        assert computed() == 0  # what it did before it was known
        engine.page = VLLM + "vllm:prompt_tokens_total 6200\n"
        await until(computed)
        assert computed() == pytest.approx(1200, rel=0.05)


async def test_what_an_engine_had_cached_is_forgotten_when_it_was_started_anew(tmp_path, memory, engines):
    engine, other, followed = await engines(), await engines(), await engines()
    # one that tells of its blocks: its follower sees a restart itself
    endpoints = [engine.endpoint("e"), other.endpoint("f"), followed.endpoint("g", events_port=5557)]
    prefixes, hashes = PrefixIndex(memory), BlockHashes.of([1, 2])
    async with scraping(tmp_path, endpoints):
        await until(lambda: all(metrics(memory, one) for one in endpoints))
        slots = [Slots(memory).find(endpoint_identity(one.identity))[0] for one in endpoints]
        for slot in slots:
            prefixes.learn(hashes, slot, time.monotonic())
        scrapes = engine.scrapes
        await until(lambda: engine.scrapes > scrapes + 1)
        assert prefixes.match(hashes, slots) == [2, 2, 2]
        followed.page = engine.page = VLLM.replace(" 100.0", " 7.0").replace(" 40.0", " 0.0")
        scrapes = followed.scrapes
        await until(lambda: prefixes.match(hashes, slots) == [0, 2, 2] and followed.scrapes > scrapes + 2)


async def test_the_adapters_that_an_engine_has_loaded_are_written_until_it_is_started_anew(tmp_path, memory, engines):
    def adapters():
        found = Slots(memory).find(endpoint_identity(engine.endpoint().identity))
        return found and Adapters(memory).read(*found)

    of_adapters = 'vllm:lora_requests_info{max_lora="2",running_lora_adapters="%s",waiting_lora_adapters="%s"} 5\n'
    engine = await engines(VLLM + of_adapters % ("sql", "law"))
    sql, law = (endpoint_identity(name) & ~1 for name in ("sql", "law"))
    async with scraping(tmp_path, [engine.endpoint()]):
        await until(adapters)
        assert adapters() == {"capacity": 2, "busy": 2, "loaded": {sql}, "waited_for": {law}}
        engine.page = VLLM + of_adapters % ("law", "")
        await until(lambda: adapters() == {"capacity": 2, "busy": 1, "loaded": {sql, law}, "waited_for": set()})
        engine.page = VLLM.replace(" 100.0", " 7.0").replace(" 40.0", " 0.0") + of_adapters % ("", "")
        await until(lambda: adapters() == {"capacity": 2, "busy": 0, "loaded": set(), "waited_for": set()})


async def test_an_engine_that_hangs_delays_nobody_and_grows_old(tmp_path, memory, engines, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT_SECONDS", 0.3)
    stuck, *others = [await engines() for _ in range(5)]
    stuck.hangs = True
    async with scraping(tmp_path, [one.endpoint(str(i)) for i, one in enumerate([stuck, *others])]):
        await until(lambda: all(one.scrapes >= 5 for one in others), 3)
        assert metrics(memory, stuck.endpoint()) is None
        stuck.hangs = False
        await until(lambda: metrics(memory, stuck.endpoint("0")))


@pytest.mark.parametrize("fault", ["status", "page", "gone"])
async def test_an_engine_that_cannot_be_scraped_is_not_written_and_its_last_word_stays(
    tmp_path, memory, engines, fault
):
    engine = await engines()
    endpoint = engine.endpoint()
    async with scraping(tmp_path, [endpoint]) as task:
        await until(lambda: metrics(memory, endpoint))
        if fault == "status":
            engine.status = 503
        elif fault == "page":
            engine.page = "vllm:num_requests_running NaN\n"
        else:
            await engine.stop()
        await asyncio.sleep(0.2)
        last = metrics(memory, endpoint)
        await asyncio.sleep(0.3)
        assert metrics(memory, endpoint) == last
        assert not task.done()
        if fault == "gone":
            await engine.start(endpoint.port)
        engine.status, engine.page = 200, VLLM
        await until(lambda: metrics(memory, endpoint)["time"] > last["time"])


async def test_endpoints_are_followed_as_they_come_and_go(tmp_path, memory, engines):
    first, second = await engines(), await engines()
    endpoints = [first.endpoint()]
    async with scraping(tmp_path, endpoints):
        await until(lambda: metrics(memory, first.endpoint()))
        endpoints[:] = [second.endpoint()]
        await until(lambda: metrics(memory, second.endpoint()))
        await asyncio.sleep(0.15)
        scrapes = first.scrapes
        await asyncio.sleep(0.3)
        assert first.scrapes == scrapes
        # and its slot is named no more
        Slots(memory).sweep()
        await asyncio.sleep(0)
        Slots(memory).sweep()
        assert Slots(memory).find(endpoint_identity(first.endpoint().identity)) is None


async def test_an_endpoint_that_changes_its_protocol_is_scraped_by_its_new_one(tmp_path, memory, engines):
    engine = await engines()
    endpoint = engine.endpoint()
    wrong = Endpoint(endpoint.name, endpoint.server, endpoint.identity, endpoint.address, endpoint.port, "https")
    endpoints = [wrong]
    async with scraping(tmp_path, endpoints):
        await asyncio.sleep(0.3)
        endpoints[:] = [endpoint]
        await until(lambda: metrics(memory, endpoint), 2)


async def test_an_engine_of_two_servers_is_scraped_once(tmp_path, memory, engines):
    engine = await engines()
    one = engine.endpoint()
    other = Endpoint("default/e", "default/t", one.identity, one.address, one.port)
    async with scraping(tmp_path, [one, other]):
        await until(lambda: engine.scrapes >= 1)
        await asyncio.sleep(0.55)
        assert engine.scrapes <= 7


async def test_many_endpoints_are_all_scraped_and_not_at_the_same_moment(tmp_path, memory, engines):
    all_engines = [await engines() for _ in range(30)]
    async with scraping(tmp_path, [one.endpoint(str(i)) for i, one in enumerate(all_engines)]):
        await until(lambda: all(metrics(memory, one.endpoint()) for one in all_engines))


async def test_a_gateway_that_starts_later_or_anew_is_found(tmp_path, engines):
    engine = await engines()
    async with scraping(tmp_path, [engine.endpoint()]):
        await asyncio.sleep(0.2)
        memory = make_memory(tmp_path)
        await until(lambda: metrics(memory, engine.endpoint()))
        (tmp_path / SHARED_MEMORY_FILE).unlink()
        await asyncio.sleep(0.2)
        again = make_memory(tmp_path)
        await until(lambda: metrics(again, engine.endpoint()))


async def test_a_file_that_is_no_shared_memory_is_waited_for(tmp_path, engines, caplog):
    (tmp_path / SHARED_MEMORY_FILE).write_bytes(b"x" * 8192)
    engine = await engines()
    async with scraping(tmp_path, [engine.endpoint()]) as task:
        await asyncio.sleep(0.25)
        assert not task.done()
        assert "shared memory cannot be used" in caplog.text
        (tmp_path / SHARED_MEMORY_FILE).unlink()
        memory = make_memory(tmp_path)
        await until(lambda: metrics(memory, engine.endpoint()))


async def test_a_page_without_end_is_cut(tmp_path, memory, monkeypatch):
    monkeypatch.setattr(module, "LARGEST_PAGE", 10_000)
    sent = 0

    async def endless(http):
        nonlocal sent
        response = web.StreamResponse()
        await response.prepare(http)
        while True:
            await response.write(VLLM.encode())
            sent += len(VLLM)

    application = web.Application()
    application.add_routes([web.get("/metrics", endless)])
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    endpoint = Endpoint("default/e", "default/s", f"127.0.0.1:{port}", "127.0.0.1", port)
    async with scraping(tmp_path, [endpoint]):
        await until(lambda: metrics(memory, endpoint))
    await runner.cleanup()


async def test_an_engine_with_a_private_authority_is_read_when_it_is_the_one_that_was_given(tmp_path, memory, engines):
    ours, theirs = Authority(tmp_path, "ours"), Authority(tmp_path, "theirs")
    good = await engines(tls=ours.server("IP:127.0.0.1"))
    other = await engines(tls=theirs.server("IP:127.0.0.1"))
    async with scraping(tmp_path, [good.endpoint("good"), other.endpoint("other")], authorities=str(ours.file)):
        await until(lambda: metrics(memory, good.endpoint()))
        await asyncio.sleep(0.3)
        assert metrics(memory, other.endpoint()) is None
        assert other.scrapes == 0
