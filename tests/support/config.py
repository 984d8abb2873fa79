"""YAML of the two kinds, from keyword arguments."""

import yaml

API_VERSION = "serving.penstock.dev/v1alpha1"


def document(kind, name, spec):
    """One document, as text."""
    content = {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec}
    return "---\n" + yaml.safe_dump(content, sort_keys=False)


def server(name, ports, *, traffic=None, **spec):
    """A ModelServer whose endpoints are ``engine-1``, ``engine-2`` … (or named by the keys of a dict) on these ports."""
    named = ports if isinstance(ports, dict) else {f"engine-{number}": port for number, port in enumerate(ports, 1)}
    endpoints = [{"name": one, "address": "127.0.0.1", "port": port} for one, port in named.items()]
    if traffic is not None:
        spec["trafficPolicy"] = traffic
    return document("ModelServer", name, {"inferenceEngine": "vLLM", "endpoints": endpoints, **spec})


def rule(*targets, match=None):
    """A rule; a target is a server's name or a pair of name and weight."""
    models = [
        {"modelServerName": one} if isinstance(one, str) else {"modelServerName": one[0], "weight": one[1]}
        for one in targets
    ]
    return {"targetModels": models} | ({"modelMatch": match} if match is not None else {})


def route(name, rules=None, **spec):
    """A ModelRoute of the model ``name`` to the server ``name``, unless it is told otherwise."""
    wanted = {"modelName": name, "rules": [rule(name)] if rules is None else rules, **spec}
    return document("ModelRoute", name.replace("/", "-").lower(), {key: one for key, one in wanted.items() if one})


def simple(name, ports, *, limits=None, **spec):
    """A server and the route to it."""
    return server(name, ports, **spec) + route(name, rateLimit={"limits": limits} if limits else None)
