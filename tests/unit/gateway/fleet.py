"""A whole gateway in one process without sockets: real routing, limits, scheduling and metrics, an engine of words."""

import time

from _fastpath.fair_share import FairShare
from _fastpath.load import Load
from _fastpath.shared_memory import SharedMemory
from gateway.admission.limits import RateLimiter
from gateway.admission.output_estimates import OutputEstimates
from gateway.datastore.model import Endpoint, Route, Rule, Server, Target
from gateway.datastore.replica import Replica, load
from gateway.datastore.wire import decode, whole
from gateway.deadlines import Deadlines
from gateway.downstream.client_socket import ClientSockets
from gateway.downstream.coalescer import Coalescer
from gateway.observability.access_log import AccessLog
from gateway.observability.metrics import RequestMetrics
from gateway.pipeline import Parts, Pipeline
from gateway.scheduling.place import Placer
from gateway.scheduling.plugins import Plugins
from gateway.scheduling.waiting_room import WaitingRoom
from gateway.settings import Settings
from gateway.tokens.service import PromptTokens
from gateway.upstream.client import UpstreamClient
from gateway.world import GatewayCompiler

SERVER = "default/s"


class Client(UpstreamClient):
    """Gives what it is told to, in order, and keeps what it was sent."""

    def __init__(self):
        self.answers = []
        self.sent = []

    def kept(self, endpoint):
        return None

    async def send_anew(self, endpoint, path, headers, body, traffic):
        self.sent.append((endpoint.name, path, headers, body))
        answer = self.answers.pop(0)
        if callable(answer):
            answer = await answer()
        if isinstance(answer, BaseException):
            raise answer
        return answer

    send = send_anew


class Log(AccessLog):
    """Keeps what is logged."""

    def __init__(self):
        super().__init__(enabled=False)
        self.finished_exchanges = []

    def finished(self, exchange, now, wall):
        self.finished_exchanges.append(exchange)


def route(*targets, name="default/r", model="m", **more):
    targets = targets or (SERVER,)
    return Route(name, model, (Rule(tuple(Target(one) for one in targets)),), **more)


class Fleet:
    """Two endpoints behind one server and one route, unless said otherwise."""

    def __init__(
        self,
        directory,
        *,
        settings=None,
        routes=None,
        server=None,
        endpoints=2,
        gate=None,
        plugins=None,
        reserved=None,
        **sizes,
    ):
        sizes = {"workers": 2, "slots": 64, "buckets": 16, "journal_records": 16, "prefix_bytes": 1 << 16, **sizes}
        self.memory = SharedMemory.create(str(directory / "memory"), **sizes)
        metrics = RequestMetrics(self.memory, 0)
        found = Plugins(plugins or {}, metrics.plugin_failed)
        self.replica = Replica(GatewayCompiler(self.memory, 0, plugins=found, reserved=reserved))
        self.limiter = RateLimiter(self.memory, 0, lambda: self.replica.world.sequence, time.monotonic_ns)
        self.replica.on_route(self.limiter.route_changed)
        self.client, self.log = Client(), Log()
        self.settings = settings or Settings()
        self.placer = Placer(self.memory, 0, time.monotonic)
        self.pipeline = Pipeline(
            Parts(
                coalescer=Coalescer(0.0),
                settings=self.settings,
                world=lambda: self.replica.world,
                limiter=self.limiter,
                estimates=OutputEstimates(self.memory, self.settings.expected_output_tokens),
                placer=self.placer,
                client=self.client,
                room=self.room(0),
                metrics=metrics,
                access_log=self.log,
                deadlines=Deadlines(),
                sockets=ClientSockets(),
                gate=gate,
                tokens=PromptTokens(self.settings.tokens),
            )
        )
        self.sequence = 0
        self.serve(
            routes=[route()] if routes is None else routes,
            servers=[server or Server(SERVER)],
            endpoints=[self.endpoint(number) for number in range(endpoints)],
        )

    def room(self, worker):
        """The queues of a worker."""
        queue = self.settings.queue
        share = FairShare(self.memory, worker)
        return WaitingRoom(queue.length, queue.seconds, time.monotonic, share, queue.session_seconds)

    def endpoint(self, number, **more):
        return Endpoint(f"default/e{number}", SERVER, f"10.0.0.{number}:8000", f"10.0.0.{number}", 8000, **more)

    def serve(self, routes, servers, endpoints):
        """Another world."""
        self.sequence += 1
        load(self.replica, (decode(*one) for one in whole(1, self.sequence, routes, servers, endpoints)))

    def load(self):
        """In-flight requests, prefill and decode tokens of each endpoint."""
        found = Load(self.memory)
        placed = self.replica.world.endpoints.values()
        return {one.endpoint.name: found.read(one.slot.index, one.slot.generation) for one in placed}

    @property
    def is_idle(self):
        return set(self.load().values()) <= {(0, 0, 0)}
