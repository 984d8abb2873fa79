"""``penstock get``."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import click

from penstock.admin_client import DEFAULT_SERVER, ask, expecting_a_gateway, table
from penstock.conditions import with_conditions

Row = Callable[[dict[str, Any]], list[Any]]


def _age(seconds: float | None) -> str | None:
    return None if seconds is None else f"{seconds:.1f}s"


def _share(value: float | None) -> str | None:
    return None if value is None else f"{value:.0%}"


def _standing(endpoint: dict[str, Any]) -> str:
    """Its state, and for how long if it does not stay."""
    state, seconds = endpoint["state"], endpoint["state_seconds_left"]
    return f"{state} {seconds:.0f}s" if seconds else str(state)


_TABLES: dict[str, tuple[list[str], Row]] = {
    "routes": (
        ["name", "ready", "reason", "model", "adapters", "targets", "limits", "missing"],
        lambda one: [
            one["name"],
            one["ready"],
            one["reason"],
            one["model"],
            ",".join(one["adapters"]) or None,
            ",".join(one["targets"]),
            len(one["limits"]),
            ",".join(one["missing_servers"]) or None,
        ],
    ),
    "servers": (
        ["name", "ready", "reason", "engine", "model", "policy", "endpoints"],
        lambda one: [
            one["name"], one["ready"], one["reason"], one["engine"], one["model"], one["policy"], one["endpoints"],
        ],
    ),
    "endpoints": (
        ["name", "server", "url", "role", "state", "in-flight", "running", "waiting", "kv", "prefix-hits", "scraped"],
        lambda one: [
            one["name"], one["server"], one["url"], one["role"], _standing(one), one["in_flight"],
            None if one["running"] is None else int(one["running"]),
            None if one["waiting"] is None else int(one["waiting"]),
            _share(one["kv_usage"]), _share(one["prefix_hit_ratio"]), _age(one["scrape_age_seconds"]),
        ],
    ),
    "workers": (
        ["worker", "process", "state", "in-flight", "waiting", "memory", "loop-lag", "restarts"],
        lambda one: [
            one["index"], one["process"], one["state"], one["in_flight"], one["waiting"],
            f"{one['resident_bytes'] >> 20}Mi", f"{one['loop_lag_seconds'] * 1000:.1f}ms", one["restarts"],
        ],
    ),
    "queues": (
        ["server", "waiting", "expected", "tenants"],
        lambda one: [
            one["server"], one["waiting"], _age(one["estimated_seconds"]),
            " ".join(f"{tenant['tenant'] or '-'}:{tenant['waiting']}" for tenant in one["tenants"])
            + (f" others:{one['waiting_of_others']}" if one["waiting_of_others"] else ""),
        ],
    ),
    "problems": (
        ["file", "line", "field", "message"],
        lambda one: [one["file"], one["line"] or None, one["path"] or None, one["message"]],
    ),
}  # fmt: skip
_NAMES = {
    "routes": ("routes", "route", "modelroute", "modelroutes", "mroute"),
    "servers": ("servers", "server", "modelserver", "modelservers", "msrv"),
    "endpoints": ("endpoints", "endpoint", "pods", "pod"),
    "workers": ("workers", "worker"),
    "queues": ("queues", "queue"),
    "problems": ("problems", "problem"),
}
_KINDS = {"routes": "ModelRoute", "servers": "ModelServer"}
_BY_NAME = {name: kind for kind, names in _NAMES.items() for name in names}


@click.command()
@click.argument("kind")
@click.option("--server", default=DEFAULT_SERVER, show_default=True, help="Admin port of the gateway.")
@click.option("-o", "output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def command(kind: str, server: str, output: str) -> None:
    """Show what a running gateway serves. KIND: routes, servers, endpoints, workers, queues (who waits), or problems.

    \b
    penstock get endpoints
    penstock get mroute -o json
    """
    found = _BY_NAME.get(kind.lower())
    if found is None:
        raise click.BadParameter(f"`{kind}` is none of {', '.join(_TABLES)}", param_hint="KIND")
    with expecting_a_gateway(server):
        state = ask(server, "/debug/state")
        rows = state[found]
        problems = []
        if found in _KINDS:
            rows = with_conditions(rows, state["objects"], _KINDS[found])
            problems = [_problem(one) for one in state["problems"]]
        columns, row = _TABLES[found]
        shown = table(columns, [row(one) for one in rows])
    click.echo(json.dumps(rows, indent=2) if output == "json" else shown)
    for line in problems:
        click.echo(line, err=True)


def _problem(one: dict[str, Any]) -> str:
    where = f"{one['file']}:{one['line']}" if one["line"] else one["file"]
    return f"{where}: {one['path']}: {one['message']}" if one["path"] else f"{where}: {one['message']}"
