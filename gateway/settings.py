"""Settings: typed, documented, from flags, environment and one file; every fault is reported at once.

A flag wins over the environment, the environment over the file, the file over the default. ``shared_memory.slots`` in the
file is ``PENSTOCK_SHARED_MEMORY_SLOTS`` in the environment and ``--shared-memory-slots`` as a flag.
"""

from __future__ import annotations

import difflib
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_type_hints

import msgspec
import yaml
from msgspec import Struct

from gateway.identity.settings import Identity
from gateway.settings_check import settings_faults

PREFIX = "PENSTOCK_"
_SOCKET_PATH_LIMIT = 107
_LONGEST_SOCKET_NAME = "/snapshots"


class SettingsError(Exception):
    """Everything that is wrong with the settings, a line a fault."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


class SharedMemory(Struct, frozen=True, kw_only=True):
    """Sizes of the file that the workers share; fixed while the gateway runs."""

    slots: int = 8192
    """Endpoints that can be known at once. 8,192 cost 3.4 MB and 0.4 MB a worker."""
    buckets: int = 4096
    """Token buckets: limits times tenants. 448 bytes each."""
    journal_records: int = 4096
    """Requests in flight a worker that can hold reservations. 400 bytes each."""
    prefix_bytes: int = 64 << 20
    """Prefix index; 24 bytes a block and 64 endpoints: 64 MB remember 2.8 million blocks, 45 million prompt tokens."""
    counter_series: int = 1024
    """Labelled series of metrics a worker; what no longer fits is counted under ``_other``."""
    counter_cells: int = 65536
    """Numbers a worker that those series hold; a histogram takes about twenty."""


class Requests(Struct, frozen=True, kw_only=True):
    """What a client may send."""

    body_bytes: int = 32 << 20
    """Largest body. Long prompts with images reach megabytes; beyond this a request is refused with 413."""
    body_seconds: float = 60.0
    """From the head to the last byte of the body."""
    json_depth: int = 64
    """Nesting of objects and arrays."""
    json_members: int = 10_000
    """Members of one object; an array may have a hundred times as many, since prompts come as token ids."""
    json_digits: int = 40
    """Digits of one number."""
    stripped_members: str = "kv_transfer_params bootstrap_* data_parallel_rank disagg_prefill_dp_rank routed_dp_rank"
    """Members that only this gateway may say to an engine, taken out of what clients send: names, or beginnings with ``*``, by spaces."""
    bodies_in_flight_bytes: int = 256 << 20
    """Bodies that one worker holds at once; beyond it requests are refused with 503 until others have been sent on."""


class Queue(Struct, frozen=True, kw_only=True):
    """Requests that find every endpoint of their server as full as it may be (``maxInFlight``, the filter ``least-request``)."""

    seconds: float = 10.0
    """How long a request waits for room at the most, 0 for not at all; less when its client says so (docs/identity.md)."""
    session_seconds: float = 0.0
    """For how long after its last answer a conversation (docs/identity.md) goes before others of its tenant, 0 for never."""
    reserved_percent: float = 25.0
    """Share of ``maxInFlight`` (one at least, of four or more) kept for tenants that had less than their share, while several ask."""
    reserved_prefill_seconds: float = 0.02
    """Meanwhile an endpoint with half of ``maxInFlight`` gets no more of others while its prompts take longer to compute; 0: no bound."""
    credit_tokens: float = 20_000.0
    """Tokens (one of an answer counts as four) of its share that a tenant may have left unused and still ask for at once."""
    length: int = 1000
    """How many may wait for one server in each worker; beyond it the tenant with most waiting gives way, with 429."""


class Streams(Struct, frozen=True, kw_only=True):
    """Bounds on what is kept for clients that read slowly (RSGI itself keeps everything)."""

    check_bytes: int = 256 << 10
    """A stream's socket is asked how much is unsent each time so many bytes were handed over."""
    backlog_bytes: int = 256 << 10
    """With more than this unsent, nothing more is read from the engine."""
    slow_client_seconds: float = 30.0
    """A client that has not caught up after so long is cut off."""
    coalesce_seconds: float = 0.001
    """While pieces of streams come more often than twice in this time, they are handled together, up to so much later; 0: each at once."""


class Tokens(Struct, frozen=True, kw_only=True):
    """Tokenising of prompts, for servers with ``prefixCache.mode: tokens``."""

    budget_seconds: float = 0.1
    """Longest that a request waits for its token ids; later it is matched by its text, and the ids are kept for the next turn."""
    threads: int = 1
    """Threads a worker."""
    cache_characters: int = 64 << 20
    """Text of conversations, a tokenizer and worker, whose ids are remembered. A character costs about 4 bytes in all."""
    engine_requests: int = 8
    """Prompts that engines tokenise at once for a worker, where no tokenizer is on its disk; 0: none (docs/prefix-cache.md)."""


class Redis(Struct, frozen=True, kw_only=True):
    """How limits are shared with other gateways in the Redis that a ModelRoute names (docs/limits.md)."""

    username: str = ""
    """User of Redis's access lists; the default user without one."""
    password_file: str = ""
    """File that holds the password alone; else the environment's ``REDIS_PASSWORD``."""
    ca_file: str = ""
    """PEM certificates of the authorities that Redis is verified by where its address is ``rediss://``, instead of the system's."""
    prefix: str = "penstock"
    """What its keys begin with: gateways with the same one share limits."""
    timeout_seconds: float = 0.25
    """Longest exchange; a Redis that takes longer is away, and ``onStoreFailure`` says what that means."""
    gateways: int = 1
    """How many gateways share a Redis that has not answered yet since this one started; later it is known."""


class Settings(Struct, frozen=True, kw_only=True):
    """All settings of the gateway."""

    host: str = "127.0.0.1"
    """Address of the inference port. Beyond loopback it needs ``identity.keys_file`` or an issuer of tokens, or ``insecure_no_auth``."""
    port: int = 8080
    """Inference port; 0 takes a free one."""
    admin_host: str = "127.0.0.1"
    """Address of the admin port, which has no identity of its own: keep it where only monitoring reaches it."""
    admin_port: int = 8081
    """Metrics, health, debug documents, the page; 0 takes a free one."""
    workers: int = 2
    """Worker processes; one a core that the gateway may use."""
    run_directory: str = ""
    """Sockets, shared memory and the last snapshot; ``$PENSTOCK_RUN_DIR``, else a directory of the user's."""
    insecure_no_auth: bool = False
    """Says that whoever reaches the ports may use them."""
    upstream_ca_file: str = ""
    """PEM certificates of the authorities that engines with ``protocol: https`` are verified by, instead of the system's."""
    header_seconds: float = 60.0
    """Deadline for a request's head, and so the longest that an idle connection is kept (Granian has one timer for both)."""
    connections: int = 20_000
    """Connections a worker; more wait in the kernel's queue."""
    drain_seconds: float = 30.0
    """After SIGTERM: how long requests may go on before they are cut."""
    drain_delay_seconds: float = 0.0
    """After SIGTERM: how long new requests are still taken, so that balancers can learn of it."""
    response_details: bool = True
    """Whether answers name their endpoint (``x-penstock-endpoint``) and say their times (``server-timing``)."""
    access_log: bool = True
    """One JSON line a request on standard output."""
    access_log_decisions: float = 0.0
    """Share of requests, 0 to 1, whose line also says how their endpoint was chosen: candidates, scores, runner-up."""
    scheduling_plugins: str = ""
    """Filters and scores in Python beside installed ones, by spaces: ``name=module:attribute`` (docs/scheduling.md)."""
    expected_output_tokens: int = 256
    """Tokens that an answer is taken to have until answers of its route, model and operation were seen."""
    requests: Requests = Requests()
    queue: Queue = Queue()
    streams: Streams = Streams()
    identity: Identity = Identity()
    shared_memory: SharedMemory = SharedMemory()
    tokens: Tokens = Tokens()
    redis: Redis = Redis()


def load(
    flags: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
    file: Path | None = None,
) -> Settings:
    """Read every source, report every fault. Raises SettingsError."""
    faults: list[str] = []
    values: dict[str, Any] = {}
    known = dict(fields(Settings))
    if file is not None:
        values |= _from_file(file, known, faults)
    environment = os.environ if environment is None else environment
    for name in known:
        text = environment.get(PREFIX + name.replace(".", "_").upper())
        # Kubernetes sets PENSTOCK_PORT=tcp://... in every pod beside a Service of that name
        if text is not None and not text.startswith("tcp://"):
            values[name] = (text, f"environment {PREFIX}{name.replace('.', '_').upper()}")
    if PREFIX + "RUN_DIR" in environment:
        values["run_directory"] = (environment[PREFIX + "RUN_DIR"], f"environment {PREFIX}RUN_DIR")
    for name, value in (flags or {}).items():
        if value is not None:
            values[name] = (value, f"flag --{name.replace('.', '-').replace('_', '-')}")
    converted = _convert(values, known, faults)
    settings = _build(converted)
    faults += settings_faults(settings)
    if faults:
        raise SettingsError(faults)
    return settings


def run_directory(settings: Settings, environment: Mapping[str, str] | None = None) -> Path:
    """The run directory, made with mode 0700 when it is missing. Raises SettingsError when a socket path would be too long."""
    environment = os.environ if environment is None else environment
    if settings.run_directory:
        path = Path(settings.run_directory)
    elif environment.get("XDG_RUNTIME_DIR"):
        path = Path(environment["XDG_RUNTIME_DIR"]) / "penstock"
    else:
        path = Path(tempfile.gettempdir()) / f"penstock-{os.getuid()}"
    path = path.absolute()
    length = len(os.fsencode(str(path) + _LONGEST_SOCKET_NAME))
    if length > _SOCKET_PATH_LIMIT:
        raise SettingsError(
            [
                f"run_directory: a socket in {path} would have a path of {length} bytes, and the system allows {_SOCKET_PATH_LIMIT}"
            ]
        )
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = path.stat()
    if status.st_uid != os.getuid():
        raise SettingsError([f"run_directory: {path} belongs to user {status.st_uid}, not to you: choose another"])
    path.chmod(0o700)
    return path


def fields(struct: type[Struct], before: str = "") -> Iterator[tuple[str, type]]:
    """Every setting by its dotted name, with its type."""
    hints = get_type_hints(struct)
    for field in msgspec.structs.fields(struct):
        kind = hints[field.name]
        if isinstance(kind, type) and issubclass(kind, Struct):
            yield from fields(kind, f"{before}{field.name}.")
        else:
            yield f"{before}{field.name}", kind


def _from_file(file: Path, known: Mapping[str, type], faults: list[str]) -> dict[str, tuple[Any, str]]:
    try:
        content = yaml.safe_load(file.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        faults.append(f"{file}: {error}")
        return {}
    if content is None:
        return {}
    if not isinstance(content, dict):
        faults.append(f"{file}: must hold a mapping of settings")
        return {}
    found: dict[str, tuple[Any, str]] = {}
    for name, value in _flat(content):
        if name in known:
            found[name] = (value, str(file))
        else:
            nearest = difflib.get_close_matches(name, known, n=1)
            faults.append(f"{file}: unknown setting `{name}`" + (f": did you mean `{nearest[0]}`?" if nearest else ""))
    return found


def _flat(content: Mapping[Any, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in content.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


def _convert(values: Mapping[str, tuple[Any, str]], known: Mapping[str, type], faults: list[str]) -> dict[str, Any]:
    converted: dict[str, Any] = {}
    for name, (value, origin) in values.items():
        try:
            converted[name] = msgspec.convert(value, known[name], strict=not isinstance(value, str))
        except msgspec.ValidationError:
            faults.append(f"{origin}: `{name}` must be {_spoken(known[name])}, not {value!r}")
    return converted


def _spoken(kind: type) -> str:
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text"}.get(kind, kind.__name__)


def _build(values: Mapping[str, Any]) -> Settings:
    top: dict[str, Any] = {}
    groups: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        group, _, rest = name.partition(".")
        if rest:
            groups.setdefault(group, {})[rest] = value
        else:
            top[name] = value
    kinds = get_type_hints(Settings)
    return Settings(**top, **{group: kinds[group](**fields) for group, fields in groups.items()})
