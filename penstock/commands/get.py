"""``penstock get``."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

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
    "limits": (
        ["route", "tenant", "key", "limit", "counts", "left", "burst", "full-in", "store"],
        lambda one: [
            one["route"], one["tenant"], one["key"], one["name"], one["kind"], f"{one['left']:.0f}", f"{one['burst']:g}",
            _age(one["seconds_until_full"]), one["store"],
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
    "limits": ("limits", "limit"),
    "problems": ("problems", "problem"),
}
_KINDS = {"routes": "ModelRoute", "servers": "ModelServer"}
_BY_NAME = {name: kind for kind, names in _NAMES.items() for name in names}


@click.command()
@click.argument("kind")
@click.option("--tenant", help="Of limits: those of this tenant alone. [default: of all that the files name]")
@click.option("--server", default=DEFAULT_SERVER, show_default=True, help="Admin port of the gateway.")
@click.option("-o", "output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def command(kind: str, tenant: str | None, server: str, output: str) -> None:
    """Show what a running gateway serves.

    KIND: routes, servers, endpoints, workers, queues (who waits), limits (what is left of them), or problems.

    \b
    penstock get endpoints
    penstock get mroute -o json
    penstock get limits --tenant team-a
    """
    found = _BY_NAME.get(kind.lower())
    if found is None:
        raise click.BadParameter(f"`{kind}` is none of {', '.join(_TABLES)}", param_hint="KIND")
    if tenant is not None and found != "limits":
        raise click.BadParameter("is for `penstock get limits`", param_hint="--tenant")
    with expecting_a_gateway(server):
        rows, remarks = _limits(server, tenant) if found == "limits" else _served(server, found)
        columns, row = _TABLES[found]
        shown = table(columns, [row(one) for one in rows])
    click.echo(json.dumps(rows, indent=2) if output == "json" else shown)
    for line in remarks:
        click.echo(line, err=True)


def _served(server: str, kind: str) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows, and what there is to remark on them."""
    state = ask(server, "/debug/state")
    rows: list[dict[str, Any]] = state[kind]
    if kind not in _KINDS:
        return rows, []
    return with_conditions(rows, state["objects"], _KINDS[kind]), [_problem(one) for one in state["problems"]]


def _limits(server: str, tenant: str | None) -> tuple[list[dict[str, Any]], list[str]]:
    found = ask(server, "/debug/limits" + ("" if tenant is None else f"?tenant={quote(tenant, safe='')}"))
    remarks = [found["fault"]] if found["fault"] else []
    if found["left_out"] or found["more"]:
        count = "more" if found["more"] else found["left_out"]
        remarks.append(f"{count} limits are not shown: name a tenant with --tenant")
    return found["limits"], remarks


def _problem(one: dict[str, Any]) -> str:
    where = f"{one['file']}:{one['line']}" if one["line"] else one["file"]
    return f"{where}: {one['path']}: {one['message']}" if one["path"] else f"{where}: {one['message']}"
