"""One leg: the request goes to one endpoint as the client sent it, save for a few members that are spliced in or out."""

from __future__ import annotations

import orjson

from _fastpath.request_head import passed_on
from _fastpath.splice import splice, with_usage
from gateway.exchange import Exchange
from gateway.upstream.client import UpstreamClient
from gateway.upstream.connection import Answer


def upstream_body(exchange: Exchange) -> bytes:
    """The client's bytes, save for four things: the server's own model name unless an adapter was asked for, the count of tokens at
    the end of a stream, the tenant's salt for the engine's cache, and what no client may send.
    """
    scan, server = exchange.scan, exchange.server
    assert scan is not None and server is not None and exchange.matched is not None
    changes: dict[str, bytes | None] = {}
    model = server.server.model
    if model is not None and model != scan.model and not exchange.matched.is_adapter:
        changes["model"] = orjson.dumps(model)
    if scan.stream and not scan.include_usage and exchange.operation.counts_in_stream and server.traffic.stream_usage:
        changes["stream_options"] = with_usage(exchange.body, scan)
        exchange.asked_for_usage = True
    caller = exchange.caller
    if caller is not None and caller.cache_salt and exchange.operation.takes_cache_salt:
        changes["cache_salt"] = caller.cache_salt
    if not changes and not scan.forbidden:
        return exchange.body
    return splice(exchange.body, scan, changes)


def send_at_once(exchange: Exchange, client: UpstreamClient, forwards_authorization: bool = False) -> Answer | None:
    """Send to the chosen endpoint on a kept connection, without waiting for anything; None where there is none."""
    placement = exchange.placement
    assert placement is not None
    connection = client.kept(placement.placed.endpoint)
    if connection is None:
        return None
    headers = passed_on(exchange.request_id, exchange.header, forwards_authorization)
    body, traffic = upstream_body(exchange), placement.pool.traffic
    return client.ask(connection, exchange.path, headers, body, traffic, exchange.sent)


async def head_of(
    exchange: Exchange, client: UpstreamClient, answer: Answer | None, forwards_authorization: bool = False
) -> Answer:
    """The answer once its head is there: that of :func:`send_at_once`, or else one on a connection of its own. Raises UpstreamError."""
    if answer is not None and await client.has_head(answer):
        return answer
    placement = exchange.placement
    assert placement is not None
    headers = passed_on(exchange.request_id, exchange.header, forwards_authorization)
    body = upstream_body(exchange)
    return await client.send_anew(placement.placed.endpoint, exchange.path, headers, body, placement.pool.traffic)
