"""``penstock explain``."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import click

from penstock.admin_client import DEFAULT_SERVER, ask, expecting_a_gateway, table
from penstock.main import UserError


@click.command()
@click.argument("model", default="")
@click.argument("prompt", default="hello")
@click.option("--header", "headers", multiple=True, metavar="NAME=VALUE", help="A header of the request.")
@click.option("--tenant", default="", help="Whose request: its models and its cache salt count. [default: nobody's]")
@click.option("--body", type=click.File("rb"), help="A whole request body instead of MODEL and PROMPT.")
@click.option("--path", default="/v1/chat/completions", show_default=True)
@click.option("--server", default=DEFAULT_SERVER, show_default=True, help="Admin port of the gateway.")
@click.option("-o", "output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def command(
    model: str, prompt: str, headers: tuple[str, ...], tenant: str, body: Any, path: str, server: str, output: str
) -> None:
    """Show where a request would go, and why, without sending it.

    \b
    penstock explain demo-8b "hello"
    penstock explain --body request.json -o json

    Exit status 1 when no route matches.
    """
    if body is None and not model:
        raise click.UsageError("Missing argument 'MODEL' (or give --body FILE)")
    content = body.read() if body is not None else _body(model, prompt, path)
    named = {}
    for header in headers:
        name, separator, value = header.partition("=")
        if not separator:
            raise click.BadParameter(f"`{header}` must be NAME=VALUE", param_hint="--header")
        named[name] = value
    document = ask(
        server,
        f"/debug/explain?path={quote(path)}&tenant={quote(tenant, safe='')}",
        content,
        {"content-type": "application/json", **named},
    )
    with expecting_a_gateway(server):
        click.echo(json.dumps(document, indent=2) if output == "json" else _text(document))
        is_matched = document["route"] is not None
    if not is_matched:
        raise UserError(f"no route matches model `{document['model']}`", "`penstock get routes` lists the routes")


def _body(model: str, prompt: str, path: str) -> bytes:
    content: dict[str, Any] = {"model": model}
    if path.endswith("/completions") and "chat" not in path:
        content["prompt"] = prompt
    elif path.endswith("rerank"):
        content |= {"query": prompt, "documents": [prompt]}
    elif path.endswith(("embeddings", "responses")):
        content["input"] = prompt
    else:
        content["messages"] = [{"role": "user", "content": prompt}]
    return json.dumps(content).encode()


_PARTS = ("queue", "prefill", "lateness", "decode", "memory", "adapter")


def _parts(cost: dict[str, float] | None) -> str | None:
    """Seconds that the request is expected to add, by where they come from."""
    return None if cost is None else " + ".join(f"{cost[name]:.3f}" for name in _PARTS)


def _opinions(said: dict[str, float | str] | None) -> str | None:
    """What plugins said of a candidate."""
    if not said:
        return None
    return ", ".join(
        f"{name} {one:+.4f}" if isinstance(one, float) else f"{name} left out" for name, one in said.items()
    )


def _faults(plugins: list[dict[str, Any]]) -> list[str]:
    """What plugins did wrong."""
    return [
        f"plugin {one['name']} is passed over, its {kind} failed: {error}"
        for one in plugins
        for kind, error in one["errors"].items()
    ]


def _turn(turn: dict[str, Any] | None) -> list[str]:
    """How it stands to requests of others: what would make it wait."""
    if turn is None:
        return []
    lines = ["requests wait for an endpoint: it would wait in turn"] if turn["waited"] else []
    if turn["held_back"]:
        lines.append(
            f"held back: {turn['kept_places']} places of each endpoint are kept for tenants that had less than their share"
        )
    return lines


def _text(document: dict[str, Any]) -> str:
    lines = [f"model {document['model']}: {document['prompt_tokens']} prompt tokens (estimated)"]
    if document["route"] is None:
        return "\n".join(lines)
    rule = f", rule {document['rule']}" if document["rule"] else ""
    lines.append(f"route {document['route']}{rule}")
    if document["tenant"] is not None:
        lines.append(f"tenant {document['tenant']}, {'with' if document['salted'] else 'without'} a cache of its own")
    for server in document["servers"]:
        lines.append(f"\nserver {server['server']}: {server['share']:.0%} of the requests")
        if server.get("missing"):
            lines.append("  does not exist")
            continue
        chosen = server["choice"] or "nobody"
        second = f", runner-up: {server['runner_up']}" if server.get("runner_up") else ""
        blocks = f"{server['blocks']} blocks of prompt by {server['matched_by']}"
        lines.append(f"policy {server['policy']}, {blocks}, choice: {chosen}{second}\n")
        lines += _turn(server.get("turn")) + _faults(server.get("plugins", []))
        has_plugins = bool(server.get("plugins"))
        rows = [
            [
                "->" if one["endpoint"] == server["choice"] else "",
                one["endpoint"],
                one["filtered"] or "candidate",
                None if one["score"] is None else f"{one['score']:.4f}",
                _parts(one.get("cost")),
                f"{one['matched_blocks']}/{server['blocks']}",
                one["in_flight"],
                one["prefill_tokens"],
                f"{one['running']:g}",
                f"{one['waiting']:g}",
                f"{one['kv_usage']:.0%}",
                "yes" if one["scraped"] else "no",
                *([_opinions(one["plugins"])] if has_plugins else []),
            ]
            for one in server["candidates"]
        ]
        columns = [
            "",
            "endpoint",
            "state",
            "score",
            " + ".join(_PARTS),
            "cached",
            "in-flight",
            "prefill",
            "running",
            "waiting",
            "kv",
            "scraped",
            *(["plugins"] if has_plugins else []),
        ]
        lines.append(table(columns, rows))
    return "\n".join(lines)
