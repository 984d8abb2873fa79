"""Limits in Redis: one script that leases from a bucket by Redis's own clock, and a set of the gateways that live."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError

from gateway.admission.limit_store import Ask, Leased, StoreAway
from gateway.admission.redis_address import Address

GATEWAY_SECONDS = 5
"""A gateway that has said nothing for so long is counted no more."""
_CONNECTIONS = 4

# Arrival: microseconds of Redis's clock at which the bucket will be full, as in _fastpath/token_bucket. Where the bucket is another than
# the one that the asker knows, the store has lost it: the asker's word for how empty it was counts. A clock that was set back takes the
# arrival along.
_LEASE = """
local at = redis.call('TIME')
local now = at[1] * 1000000 + at[2]
local interval, tolerance = tonumber(ARGV[1]), tonumber(ARGV[2])
local found = redis.call('HMGET', KEYS[1], 'arrival', 'tolerance', 'seen', 'born')
local arrival, born = now, string.format('%.0f', now)
if found[1] then
  arrival, born = tonumber(found[1]), found[4]
  local before, seen = tonumber(found[2]), tonumber(found[3])
  if now < seen then arrival = arrival - (seen - now) end
  if arrival > now and before ~= tolerance then arrival = now + (arrival - now) / before * tolerance end
end
if ARGV[6] ~= '0' and ARGV[6] ~= born then arrival = math.max(arrival, now + tonumber(ARGV[7])) end
arrival = math.max(now, math.max(arrival, now) + (tonumber(ARGV[5]) - tonumber(ARGV[4])) * interval)
local left = (tolerance - (arrival - now)) / interval
local granted = math.max(0, math.min(tonumber(ARGV[3]), math.floor(left + 0.000001)))
arrival = arrival + granted * interval
redis.call('HSET', KEYS[1], 'arrival', string.format('%.17g', arrival), 'tolerance', ARGV[2],
  'seen', string.format('%.0f', now), 'born', born)
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', math.ceil((arrival - now) / 1000) + 60000))
return {string.format('%.0f', granted), string.format('%.17g', left - granted), born}
"""
_BEAT = """
local at = redis.call('TIME')
local now = tonumber(at[1])
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - tonumber(ARGV[2]))
redis.call('ZREMRANGEBYSCORE', KEYS[1], now + 1, '+inf')
redis.call('EXPIRE', KEYS[1], 3600)
return redis.call('ZCARD', KEYS[1])
"""


@dataclass(frozen=True, slots=True)
class RedisOptions:
    """What a gateway brings to every Redis."""

    username: str = ""
    password: str = ""
    ca_file: str = ""
    prefix: str = "penstock"
    timeout: float = 0.25
    """Seconds for one exchange, connecting included."""


class Script:
    """A Lua script by its hash; its text goes to a Redis that does not know it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.hash = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


class RedisStore:
    """A LimitStore in one Redis: few connections, no retries of its own."""

    def __init__(self, address: Address, options: RedisOptions) -> None:
        """Connects when it is first asked. Raises OSError when the authorities' file cannot be read."""
        self._options = options
        self._name = uuid.uuid4().hex
        self._lease, self._beat = Script(_LEASE), Script(_BEAT)
        security: dict[str, Any] = {}
        if address.tls:
            security = {"ssl": True, "ssl_ca_certs": options.ca_file or None, "ssl_min_version": ssl.TLSVersion.TLSv1_2}
        self._redis = Redis(
            host=address.host,
            port=address.port,
            username=options.username or None,
            password=options.password or None,
            socket_timeout=options.timeout,
            socket_connect_timeout=options.timeout,
            retry=Retry(NoBackoff(), 0),
            max_connections=_CONNECTIONS,
            **security,
        )

    async def lease(self, asks: Sequence[Ask]) -> list[Leased]:
        """One exchange for all buckets. Raises StoreAway."""
        answers = await self._run(self._lease, [self._call(ask) for ask in asks])
        return [Leased(int(granted), float(left), int(born)) for granted, left, born in answers]

    async def beat(self) -> int:
        """Say that this gateway lives; how many do. Raises StoreAway."""
        (count,) = await self._run(self._beat, [(f"{self._options.prefix}:gateways", self._name, GATEWAY_SECONDS)])
        return max(1, int(count))

    async def leave(self) -> None:
        """Say that it lives no more. Raises StoreAway."""
        try:
            async with asyncio.timeout(self._options.timeout):
                await self._redis.zrem(f"{self._options.prefix}:gateways", self._name)
        except (RedisError, OSError, TimeoutError) as error:
            raise StoreAway(_reason(error)) from error

    async def close(self) -> None:
        """Let go of the connections."""
        await self._redis.aclose()

    def _call(self, ask: Ask) -> tuple[Any, ...]:
        key = f"{self._options.prefix}:limit:{ask.key:016x}"
        interval = ask.interval * 1e6
        numbers = (interval, interval * ask.burst, ask.wanted, ask.returned, ask.owed, ask.born, ask.debt * 1e6)
        return key, *(repr(number) for number in numbers)

    async def _run(self, script: Script, calls: list[tuple[Any, ...]]) -> list[Any]:
        try:
            async with asyncio.timeout(self._options.timeout):
                answers = await self._once(script, calls)
                unknown = [place for place, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
                if unknown:
                    await self._redis.script_load(script.text)
                    again = await self._once(script, [calls[place] for place in unknown])
                    for place, answer in zip(unknown, again, strict=True):
                        answers[place] = answer
        except (RedisError, OSError, TimeoutError) as error:
            raise StoreAway(_reason(error)) from error
        for answer in answers:
            if isinstance(answer, Exception):
                raise StoreAway(_reason(answer)) from answer
        return answers

    async def _once(self, script: Script, calls: list[tuple[Any, ...]]) -> list[Any]:
        # no transaction: each call stands for itself, so that keys may lie on different nodes
        async with self._redis.pipeline(transaction=False) as pipeline:
            for key, *arguments in calls:
                pipeline.evalsha(script.hash, 1, key, *arguments)
            return list(await pipeline.execute(raise_on_error=False))


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError) and not str(error):
        return "no answer in time"
    return str(error) or type(error).__name__
