"""An engine's publisher of KV events, as a test tells it to speak: real sockets, any framing, any fault."""

import struct

import msgspec
import zmq
import zmq.asyncio

END = b"\xff" * 8


def packed(number):
    return struct.pack(">Q", number)


def batch(*events, time=1.0, rank=0):
    return msgspec.msgpack.encode([time, list(events), rank])


def stored(names, parent=None, first=0, size=4, **more):
    """A BlockStored event in the encoding of maps; tokens count from ``first`` on."""
    tokens = list(range(first, first + size * len(names)))
    fields = {"block_hashes": names, "parent_block_hash": parent, "token_ids": tokens, "block_size": size}
    return {"type": "BlockStored", **fields, "lora_id": None, "medium": "GPU", "lora_name": None, **more}


def removed(*names, **more):
    return {"type": "BlockRemoved", "block_hashes": list(names), "medium": "GPU", **more}


CLEARED = {"type": "AllBlocksCleared"}


def bound(socket, port):
    """Bind to a port, 0 for any; which it is."""
    socket.setsockopt(zmq.LINGER, 0)
    socket.bind(f"tcp://127.0.0.1:{port or '*'}")
    return int(socket.last_endpoint.rpartition(b":")[2])


class Publisher:
    """Publishes batches by number and keeps them for replays; ``ports`` of a former one make it a restarted engine."""

    def __init__(self, context, ports=(0, 0), topic=b"kv@pod", old_framing=False, keeps=10_000):
        self._context = context
        self._topic, self._old_framing, self._keeps = topic, old_framing, keeps
        self.number = 0
        self.kept = {}
        self.questions = []
        self.is_mute = False
        self.holes = set()
        """Numbers that the next replay leaves out, as a full queue does."""
        self._pub, self._router = context.socket(zmq.PUB), context.socket(zmq.ROUTER)
        self.ports = tuple(map(bound, (self._pub, self._router), ports))

    async def publish(self, *events, time=1.0, is_lost=False, payload=None):
        """One batch; a lost one can be had by a replay alone."""
        payload = batch(*events, time=time) if payload is None else payload
        number, self.number = self.number, self.number + 1
        self.kept[number] = payload
        for old in sorted(self.kept)[: max(0, len(self.kept) - self._keeps)]:
            del self.kept[old]
        if not is_lost:
            await self._pub.send_multipart([self._topic, packed(number), payload])

    async def answer(self):
        """Serve replays until cancelled."""
        while True:
            client, _, start = await self._router.recv_multipart()
            first = struct.unpack(">Q", start)[0]
            self.questions.append(first)
            if self.is_mute:
                continue
            holes, self.holes = self.holes, set()
            for number, payload in list(self.kept.items()):
                if number >= first and number not in holes:
                    topic = [] if self._old_framing else [self._topic]
                    await self._router.send_multipart([client, b"", *topic, packed(number), payload])
            await self._router.send_multipart([client, b"", *([] if self._old_framing else [b""]), END, b""])

    def close(self):
        self._pub.close()
        self._router.close()
