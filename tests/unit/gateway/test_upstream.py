"""The client toward engines, against servers that answer byte by byte what a test tells them."""

import asyncio
import contextlib

import pytest
from msgspec import structs

from gateway.datastore.model import Endpoint, Traffic
from gateway.deadlines import Deadlines
from gateway.errors import UpstreamError, UpstreamTimeout
from gateway.upstream.client import UpstreamClient
from gateway.upstream.connection import MOST_UNREAD, Sink
from gateway.waiting import Run

TRAFFIC = Traffic(timeout=0.3, idle_timeout=0.2, connect_timeout=0.3)


@pytest.fixture
async def client():
    deadlines = Deadlines()
    found = UpstreamClient(deadlines)
    yield found
    await found.close()
    deadlines.close()


class Pieces(Sink):
    """Keeps what is forwarded."""

    def __init__(self, pieces):
        self.pieces = pieces

    def take(self, piece, now):
        self.pieces.append(piece)


class Engine:
    """Keeps what it was sent, answers with the pieces given; a number among them is a pause in seconds."""

    def __init__(self, *pieces, closes=True):
        self.pieces, self.closes = pieces, closes
        self.requests = []
        self.connections = 0
        self.dropped = asyncio.Event()

    async def _serve(self, reader, writer):
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    (
                        int(line.split(b":")[1])
                        for line in head.lower().split(b"\r\n")
                        if line.startswith(b"content-length")
                    ),
                    0,
                )
                self.requests.append((head, await reader.readexactly(length)))
                for piece in self.pieces:
                    if isinstance(piece, bytes):
                        writer.write(piece)
                        await writer.drain()
                    else:
                        await asyncio.wait_for(reader.read(1), piece)  # returns at once when the client hangs up
                        self.dropped.set()
                        return
                if self.closes:
                    return
        except (asyncio.IncompleteReadError, TimeoutError, OSError):
            pass
        finally:
            writer.close()

    @contextlib.asynccontextmanager
    async def listening(self):
        tasks = set()

        async def run(reader, writer):
            tasks.add(asyncio.current_task())
            try:
                await self._serve(reader, writer)
            except (OSError, asyncio.CancelledError, asyncio.IncompleteReadError):
                pass
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()

        server = await asyncio.start_server(run, "127.0.0.1", 0)
        async with server:
            yield Endpoint("default/e", "default/s", "i", "127.0.0.1", server.sockets[0].getsockname()[1])
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def head(*lines, status=b"200 OK"):
    return b"HTTP/1.1 " + status + b"\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


async def send(client, endpoint, traffic=TRAFFIC, path="/v1/x", headers="", body=b"{}"):
    return await client.send(endpoint, path, headers, body, traffic)


async def read(answer):
    return [chunk async for chunk in answer.chunks()]


async def test_a_request_goes_out_as_it_was_given(client):
    engine = Engine(head(b"content-length: 2") + b"ok")
    async with engine.listening() as endpoint:
        answer = await send(client, endpoint, path="/v1/chat/completions", headers="x-a: b\r\n", body=b'{"a": 1}')
        assert (answer.status, answer.length, answer.is_event_stream) == (200, 2, False)
        assert b"".join(await read(answer)) == b"ok"
        answer.close()
    (sent, body) = engine.requests[0]
    assert sent.startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")
    names = {line.split(b":")[0].lower() for line in sent.split(b"\r\n")[1:] if line}
    assert names == {b"host", b"x-a", b"content-length"}
    assert body == b'{"a": 1}'


async def test_a_request_to_a_rank_says_which_on_connections_of_its_own(client):
    engine = Engine(head(b"content-length: 2") + b"ok", closes=False)
    async with engine.listening() as endpoint:
        ranks = [structs.replace(endpoint, identity=f"i@{rank}", rank=rank) for rank in (0, 13)]
        for _ in range(2):
            for one in ranks:
                answer = await send(client, one)
                await read(answer)
                answer.close()
        assert engine.connections == 2
        sent = [next(line for line in sent.split(b"\r\n") if b"rank" in line) for sent, _ in engine.requests]
        assert sent == [b"x-data-parallel-rank: 0", b"x-data-parallel-rank: 13"] * 2
        await client.close()


async def test_headers_of_the_answer_are_passed_on_without_those_of_the_connection(client):
    lines = [
        b"Content-Type: text/event-stream; charset=utf-8", b"Content-Length: 2", b"Server: uvicorn", b"Date: now",
        b"Connection: keep-alive, X-Hop", b"X-Hop: 1", b"Keep-Alive: 5", b"X-Request-Id: engines", b"X-A: b", b"X-A: c",
        b"X-Bad: \xc3\xa9",
    ]  # fmt: skip
    engine = Engine(head(*lines) + b"ok")
    async with engine.listening() as endpoint:
        answer = await send(client, endpoint)
        assert answer.headers == [("content-type", "text/event-stream; charset=utf-8"), ("x-a", "b"), ("x-a", "c")]
        assert answer.is_event_stream
        answer.close()


async def test_a_redirect_is_not_followed(client):
    engine = Engine(head(b"location: http://127.0.0.1:1/", b"content-length: 0", status=b"302 Found"))
    async with engine.listening() as endpoint:
        answer = await send(client, endpoint)
        assert answer.status == 302
        answer.close()
    assert len(engine.requests) == 1


async def test_a_compressed_answer_is_not_touched(client):
    engine = Engine(head(b"content-encoding: gzip", b"content-length: 3") + b"\x1f\x8b\x00")
    async with engine.listening() as endpoint:
        answer = await send(client, endpoint)
        assert b"".join(await read(answer)) == b"\x1f\x8b\x00"
        assert ("content-encoding", "gzip") in answer.headers
        answer.close()


async def test_pieces_arrive_as_the_engine_sends_them(client):
    pieces = [b"5\r\ndata1\r\n", b"5\r\ndata2\r\n", b"0\r\n\r\n"]

    class Slowly(Engine):
        async def _serve(self, reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(head(b"transfer-encoding: chunked"))
            for piece in pieces:
                await asyncio.sleep(0.05)
                writer.write(piece)
            await writer.drain()
            writer.close()

    async with Slowly().listening() as endpoint:
        answer = await send(client, endpoint)
        assert answer.length is None
        assert await read(answer) == [b"data1", b"data2"]
        answer.close()


async def test_nobody_there_may_be_retried(client):
    async with Engine().listening() as endpoint:
        pass
    with pytest.raises(UpstreamError) as raised:
        await send(client, endpoint)
    assert (raised.value.retryable, raised.value.status) == (True, 502)
    assert "127.0.0.1" not in raised.value.message


async def test_an_engine_that_hangs_up_without_a_word_may_be_retried(client):
    async with Engine().listening() as endpoint:
        with pytest.raises(UpstreamError) as raised:
            await send(client, endpoint)
    assert raised.value.retryable
    assert not isinstance(raised.value, UpstreamTimeout)


@pytest.mark.parametrize(
    "noise",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"\x00\x01\x02\r\n\r\n",
        head(b"x: " + b"y" * 20_000),
        head(b"content-length: x"),
    ],
)
async def test_what_is_no_http_is_an_error_that_no_retry_mends(client, noise):
    async with Engine(noise).listening() as endpoint:
        with pytest.raises(UpstreamError) as raised:
            await send(client, endpoint)
    assert not raised.value.retryable
    assert raised.value.status == 502


async def test_an_engine_that_does_not_answer_in_time_is_not_tried_again(client):
    engine = Engine(5)
    async with engine.listening() as endpoint:
        with pytest.raises(UpstreamTimeout) as raised:
            await send(client, endpoint)
        await asyncio.wait_for(engine.dropped.wait(), 5)  # and sees that nobody waits any more
    assert (raised.value.status, raised.value.retryable) == (504, False)


async def test_an_engine_that_stops_in_the_middle_of_an_answer_is_given_up(client):
    engine = Engine(head(b"content-length: 10") + b"12345", 5)
    async with engine.listening() as endpoint:
        answer = await send(client, endpoint)
        chunks = answer.chunks()
        assert await anext(chunks) == b"12345"
        with pytest.raises(UpstreamTimeout, match=r"nothing for 0\.2 s"):
            await anext(chunks)
        answer.close()


async def test_pauses_shorter_than_the_idle_timeout_are_no_stall(client):
    class Slowly(Engine):
        async def _serve(self, reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(head(b"content-length: 8"))
            for _ in range(8):
                await asyncio.sleep(0.08)
                writer.write(b"x")
            await writer.drain()
            writer.close()

    async with Slowly().listening() as endpoint:
        answer = await send(client, endpoint)
        assert b"".join(await read(answer)) == b"x" * 8  # 0.64 s in all, more than either deadline
        answer.close()


@pytest.mark.parametrize("lines", [[b"content-length: 10"], [b"transfer-encoding: chunked"]])
async def test_an_answer_that_breaks_off_is_an_error(client, lines):
    body = b"12345" if b"length" in lines[0] else b"5\r\n12345\r\n"
    async with Engine(head(*lines) + body).listening() as endpoint:
        answer = await send(client, endpoint)
        with pytest.raises(UpstreamError, match="broke off"):
            await read(answer)
        answer.close()


async def test_a_connection_is_used_again_after_a_whole_answer(client):
    engine = Engine(head(b"content-length: 2") + b"ok", closes=False)
    async with engine.listening() as endpoint:
        for _ in range(3):
            answer = await send(client, endpoint)
            await read(answer)
            answer.close()
        assert (engine.connections, len(engine.requests)) == (1, 3)
        await client.close()


async def test_an_answer_that_is_closed_early_drops_its_connection(client):
    engine = Engine(head(b"transfer-encoding: chunked") + b"5\r\n12345\r\n", 5)
    async with engine.listening() as endpoint:
        answer = await send(client, endpoint, Traffic())
        answer.close()
        await asyncio.wait_for(engine.dropped.wait(), 5)


async def test_a_request_that_is_cancelled_drops_its_connection(client):
    engine = Engine(5)
    async with engine.listening() as endpoint:
        sending = asyncio.ensure_future(send(client, endpoint, Traffic()))
        while not engine.requests:
            await asyncio.sleep(0.005)
        sending.cancel()
        await asyncio.wait_for(engine.dropped.wait(), 5)
        with contextlib.suppress(asyncio.CancelledError):
            await sending


async def test_cookies_of_an_engine_are_not_kept(client):
    engine = Engine(head(b"set-cookie: a=b; Path=/", b"content-length: 0"), closes=False)
    async with engine.listening() as endpoint:
        for _ in range(2):
            answer = await send(client, endpoint)
            await read(answer)
            answer.close()
        assert b"cookie" not in engine.requests[1][0].lower()
        await client.close()


@pytest.mark.parametrize("status", [b"199 Odd", b"600 Odd", b"999 Odd"])
async def test_a_status_that_no_client_may_see_is_an_error(client, status):
    async with Engine(head(b"content-length: 0", status=status)).listening() as endpoint:
        with pytest.raises(UpstreamError):
            await send(client, endpoint)


async def test_interim_answers_are_skipped(client):
    engine = Engine(head(status=b"100 Continue") + head(b"content-length: 2") + b"ok")
    async with engine.listening() as endpoint:
        answer = await send(client, endpoint)
        assert (answer.status, await read(answer)) == (200, [b"ok"])
        answer.close()


class Hangup(Engine):
    """Answers the first request of each connection, and closes the connection when the second comes."""

    async def _serve(self, reader, writer):
        self.connections += 1
        for turn in range(2):
            try:
                self.requests.append((await reader.readuntil(b"\r\n\r\n"), await reader.readexactly(2)))
            except asyncio.IncompleteReadError:
                return
            if turn == 0:
                writer.write(head(b"content-length: 2") + b"ok")
                await writer.drain()
        writer.close()


async def test_a_kept_connection_that_the_engine_closes_is_no_failure_of_the_engine(client):
    engine = Hangup()
    async with engine.listening() as endpoint:
        for _ in range(3):
            answer = await send(client, endpoint)
            assert await read(answer) == [b"ok"]
            answer.close()
    assert (engine.connections, len(engine.requests)) == (3, 5)


@pytest.mark.parametrize("more", [b"x", head(b"content-length: 6") + b"poison"])
async def test_bytes_after_the_answer_reach_nobody_and_end_the_connection(client, more):
    engine = Engine(head(b"content-length: 2") + b"ok" + more, closes=False)
    async with engine.listening() as endpoint:
        for _ in range(3):
            answer = await send(client, endpoint)
            assert await read(answer) == [b"ok"]
            answer.close()
        assert engine.connections == 3
        await client.close()


async def test_bytes_that_nobody_asked_for_end_an_idle_connection(client):
    class Talkative(Engine):
        async def _serve(self, reader, writer):
            self.connections += 1
            await reader.readuntil(b"\r\n\r\n")
            writer.write(head(b"content-length: 2") + b"ok")
            await asyncio.sleep(0.05)
            writer.write(head(b"content-length: 6") + b"poison")
            self.dropped.set()
            await reader.read()
            writer.close()

    engine = Talkative()
    async with engine.listening() as endpoint:
        answer = await send(client, endpoint)
        assert await read(answer) == [b"ok"]
        answer.close()
        await engine.dropped.wait()
        await asyncio.sleep(0.02)
        answer = await send(client, endpoint)
        assert await read(answer) == [b"ok"]
        answer.close()
        assert engine.connections == 2
        await client.close()


async def test_a_body_larger_than_any_buffer_arrives_whole(client):
    engine, body = Engine(head(b"content-length: 0"), closes=False), bytes(range(256)) * (32 << 10)
    async with engine.listening() as endpoint:
        answer = await send(client, endpoint, Traffic(), body=body)
        answer.close()
        assert engine.requests[0][1] == body
        await client.close()


async def test_a_last_piece_that_its_client_does_not_take_is_told(client):
    class Gone(Sink):
        def take(self, piece, now):
            raise BrokenPipeError("nobody takes it")

    engine = Engine(head(b"content-length: 5"), closes=False)
    async with engine.listening() as endpoint:
        answer = await send(client, endpoint)
        forwarding = asyncio.ensure_future(answer.forward(Gone()))
        await asyncio.sleep(0)
        answer.feed(b"12345")  # as the connection does it
        with pytest.raises(BrokenPipeError):
            await asyncio.wait_for(forwarding, 5)
        answer.close()
        await client.close()


async def test_an_answer_that_is_too_large_to_be_taken_whole_is_read_on_when_it_is_forwarded(client):
    # found by a test of a running gateway: reading had been paused, and a client that read quickly waited for ever
    content = bytes(5 << 20)
    engine = Engine(head(b"content-length: %d" % len(content)) + content, closes=False)
    async with engine.listening() as endpoint:
        answer = await send(client, endpoint)
        first = await answer.whole(1 << 20)
        assert 1 << 20 < len(first) < len(content)
        pieces = [first]
        await asyncio.wait_for(answer.forward(Pieces(pieces)), 10)
        assert b"".join(pieces) == content
        answer.close()
        await client.close()


async def test_an_answer_that_comes_before_the_body_was_read_is_passed_on_and_ends_the_connection(client):
    class Early(Engine):
        async def _serve(self, reader, writer):
            self.connections += 1
            await reader.readuntil(b"\r\n\r\n")
            writer.write(head(b"content-length: 2", status=b"413 Too Large") + b"no")
            await writer.drain()
            await asyncio.sleep(0.3)
            writer.close()

    engine = Early()
    async with engine.listening() as endpoint:
        for _ in range(2):
            answer = await send(client, endpoint, Traffic(), body=b"x" * (16 << 20))
            assert (answer.status, await read(answer)) == (413, [b"no"])
            answer.close()
        assert engine.connections == 2


async def test_a_body_that_ends_with_its_connection_is_whole(client):
    async with Engine(head() + b"until the end").listening() as endpoint:
        answer = await send(client, endpoint)
        assert b"".join(await read(answer)) == b"until the end"
        answer.close()


async def test_a_head_that_dribbles_in_is_given_up_at_its_deadline(client):
    class Dribbling(Engine):
        async def _serve(self, reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            with contextlib.suppress(OSError):
                for byte in head(b"content-length: 0"):
                    writer.write(bytes([byte]))
                    await writer.drain()
                    await asyncio.sleep(0.05)
            writer.close()

    async with Dribbling().listening() as endpoint:
        with pytest.raises(UpstreamTimeout):
            await send(client, endpoint)


async def test_an_engine_is_not_read_faster_than_its_answer_is_taken(client):
    size = 64 << 20

    class Flood(Engine):
        written = 0

        async def _serve(self, reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(head(b"content-length: %d" % size))
            with contextlib.suppress(OSError):
                while self.written < size:
                    writer.write(b"x" * 65536)
                    await writer.drain()
                    self.written += 65536
            writer.close()

    engine = Flood()
    async with engine.listening() as endpoint:
        answer = await send(client, endpoint, Traffic(idle_timeout=0.2))
        chunks = answer.chunks()
        taken = len(await anext(chunks))
        await asyncio.sleep(0.5)
        assert engine.written < 16 << 20  # what the kernels hold, and the bound
        async for chunk in chunks:
            taken += len(chunk)
        assert taken == size
        answer.close()


async def test_a_connection_whose_answer_ended_while_it_was_not_read_is_read_on(client):
    size = MOST_UNREAD + 1  # its last byte is the one that stops the reading
    engine = Engine(head(b"content-length: %d" % size) + b"x" * size)
    async with engine.listening() as endpoint:
        for number in (1, 2):
            answer = await send(client, endpoint)
            await asyncio.sleep(0.1)  # nobody takes it; meanwhile the engine hangs up
            assert answer.is_complete
            assert sum(map(len, await read(answer))) == size
            answer.close()
            assert engine.connections == number


async def test_an_answer_may_be_let_go_of_by_whom_its_bytes_wake(client):
    engine = Engine(head(b"transfer-encoding: chunked") + b"5\r\n12345\r\n", 5)

    async def work():
        answer = await send(client, endpoint, Traffic())  # goes on in the very call that brings the bytes
        answer.close()

    async with engine.listening() as endpoint:
        for _ in range(20):
            run = Run(work())
            run.start()
            await run.finished
            assert not client._pool.connections


async def test_answers_of_many_requests_at_once_do_not_mix(client):
    class Echo(Engine):
        async def _serve(self, reader, writer):
            with contextlib.suppress(asyncio.IncompleteReadError):
                while True:
                    await reader.readuntil(b"\r\n\r\n")
                    name = await reader.readexactly(4)
                    writer.write(head(b"transfer-encoding: chunked"))
                    for _ in range(3):
                        await asyncio.sleep(0.001)
                        writer.write(b"4\r\n" + name + b"\r\n")
                    writer.write(b"0\r\n\r\n")
            writer.close()

    async with Echo().listening() as endpoint:

        async def ask(number):
            name = b"%04d" % number
            answer = await send(client, endpoint, Traffic(), body=name)
            assert b"".join(await read(answer)) == name * 3
            answer.close()

        for _ in range(5):
            await asyncio.gather(*(ask(number) for number in range(100)))
        assert len(client._pool.connections) <= 100
        await client.close()
