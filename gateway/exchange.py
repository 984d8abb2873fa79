"""One request and all that becomes known of it on its way through the pipeline."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from typing import Any

from _fastpath.hashing import BlockHashes
from _fastpath.scanner import Scan
from gateway.admission.limits import Reservation
from gateway.identity.gate import Caller
from gateway.routing.kinds import Kind
from gateway.routing.match import Matched
from gateway.scheduling.place import Placement
from gateway.scheduling.pool import ServerPool
from gateway.waiting import Run

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class Operation:
    """What a path of the inference port does: its name for metrics, and the member that must hold the prompt."""

    def __init__(
        self,
        name: str,
        prompt: str | None,
        counts_in_stream: bool = False,
        takes_cache_salt: bool = False,
        generates: bool = False,
    ) -> None:
        self.name = name
        self.prompt = prompt
        self.counts_in_stream = counts_in_stream
        """Whether ``stream_options.include_usage`` makes its streams end with a count of tokens."""
        self.takes_cache_salt = takes_cache_salt
        """Whether engines keep what they cache of it apart by ``cache_salt``."""
        self.generates = generates
        """Whether its answers are made of output tokens: only then their length says how many, where the engine does not."""


OPERATIONS: dict[str, Operation] = {
    "/v1/chat/completions": Operation("chat", "messages", counts_in_stream=True, takes_cache_salt=True, generates=True),
    "/v1/completions": Operation(
        "text_completion", "prompt", counts_in_stream=True, takes_cache_salt=True, generates=True
    ),
    "/v1/embeddings": Operation("embeddings", "input"),
    "/v1/responses": Operation("responses", "input", takes_cache_salt=True, generates=True),
    "/v1/rerank": Operation("rerank", "query"),
    "/v1/score": Operation("score", None),
    "/v1/messages": Operation("messages", "messages", generates=True),
    "/tokenize": Operation("tokenize", None),
    "/detokenize": Operation("detokenize", None),
}


class Exchange:
    """The one object of a request. Times are monotonic seconds, 0 for what has not happened."""

    def __init__(
        self,
        scope: Any,
        protocol: Any,
        path: str,
        operation: Operation,
        request_id: str,
        started: float,
        header: Callable[[str], str | None],
    ) -> None:
        self.scope = scope
        self.protocol = protocol
        self.path = path
        self.operation = operation
        self.request_id = request_id
        self.started = started
        self.header = header
        self.body: bytes = b""
        """The client's bytes, until an engine answers."""
        self.announced: int = -1
        """Bytes that its body is said to have, -1 for one of which nothing is said."""
        self.bytes_in: int = 0
        self.caller: Caller | None = None
        """Who asks, None where nobody is asked."""
        self.refusal: str = ""
        """Why a credential did not count: for the log alone."""
        self.scan: Scan | None = None
        self.world: Any = None
        """What the gateway served when its route was looked for; later steps see the same."""
        self.matched: Matched | None = None
        self.kind: Kind | None = None
        """What it has in common with others, once it is matched."""
        self.server: ServerPool | None = None
        self.reservation: Reservation | None = None
        self.placement: Placement | None = None
        self.awaits_room: bool = False
        """No endpoint had room for it when it came."""
        self.is_released: bool = True
        """Whether nothing is charged for it anywhere."""
        self.run: Run | None = None
        self.done: Callable[[], object] | None = None
        """Tells the HTTP server that the request is over."""
        self.deadline: float = 0.0
        """When what it waits for itself (its body) is late, 0 for never."""
        self.prompt_tokens: int = 0
        self.output_tokens: int = 0
        self.tried: tuple[int, ...] = ()
        """Positions in the pool of the endpoints that it was sent to."""
        self.status: int = 0
        self.error_code: str = ""
        self.error_source: str = ""
        self.error_message: str = ""
        self.asked_for_usage: bool = False
        """The engine was asked to count tokens at the end of its stream, and the client did not ask for it."""
        self.pushes_back: bool = False
        """The engine answered that it has too much to do: no fault of its own."""
        self.client_gone: bool = False
        self.responded: bool = False
        self.hashes: BlockHashes | None = None
        """Of its prompt, as its server matches prompts."""
        self.is_learned: bool = True
        """Whether whoever gets it is taken to hold its prompt from then on."""
        self.session: int = 0
        """What stands for its conversation, 0 for none."""
        self.lease_turns: int = 0
        """How often it has looked for tokens that are being leased."""
        self.waited: float = 0.0
        """Seconds that it waited for an endpoint with room."""
        self.decision: bytes = b""
        """Its choice as JSON, where it is one of those that the log shows."""
        self.scheduling: float = 0.0
        """Seconds that the choice of its endpoint took."""
        self.sent: float = 0.0
        self.first_byte: float = 0.0
        self.last_byte: float = 0.0
        self.chunks: int = 0
        self.bytes_out: int = 0
        self.usage: tuple[int, int, int] | None = None

    @property
    def tenant(self) -> str:
        """The tenant that asks, empty where nobody is asked."""
        return self.caller.tenant if self.caller is not None else ""

    @property
    def is_stream(self) -> bool:
        """Whether the client asked for a stream."""
        return self.scan is not None and self.scan.stream

    @property
    def model(self) -> str:
        """The model's name as the client sent it."""
        return (self.scan.model if self.scan is not None else None) or ""


class RequestIds:
    """Ids of requests whose client sent none: random for the process, counted in it."""

    def __init__(self) -> None:
        self._process = secrets.token_hex(8)
        self._count = 0

    def of(self, sent: str | None) -> str:
        """The client's own id if it is well formed, else a new one."""
        if sent is not None and _REQUEST_ID.fullmatch(sent):
            return sent
        self._count += 1
        return f"req_{self._process}{self._count:08x}"
