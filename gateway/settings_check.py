"""What is wrong with settings of the right types: bounds, files that cannot be used, what would be open to anyone."""

from __future__ import annotations

import ipaddress
import math
import os
import ssl
from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from _fastpath.scanner import Forbidden
from gateway.admission.redis_address import address_of
from gateway.identity.check import identity_faults, is_configured
from gateway.plugin_paths import named_paths

if TYPE_CHECKING:
    from gateway.settings import Settings

_SIZES = {"prefix_bytes": (192, 1 << 40), "counter_series": (64, 1 << 24), "counter_cells": (1024, 1 << 24)}
"""Least and most of the shared memory's sizes where they are not 1 and 2^24: every family of metrics needs its series."""
_MOST_RESERVED = 50.0
_MOST_COALESCED = 0.05


def settings_faults(settings: Settings) -> list[str]:
    """A line a fault."""
    faults = []
    for name in ("port", "admin_port"):
        if not 0 <= getattr(settings, name) <= 65535:
            faults.append(f"`{name}` must be 0 to 65535, not {getattr(settings, name)}")
    if settings.port and settings.port == settings.admin_port:
        faults.append(f"`port` and `admin_port` are both {settings.port}: give the admin port another")
    if not 1 <= settings.workers <= 63:
        faults.append(f"`workers` must be 1 to 63, not {settings.workers}")
    if not 1 <= settings.header_seconds <= 60:
        faults.append(f"`header_seconds` must be 1 to 60 (Granian's bounds), not {settings.header_seconds}")
    for name, value in _numbers(settings.shared_memory, "shared_memory."):
        smallest, largest = _SIZES.get(name.partition(".")[2], (1, 1 << 24))
        if not smallest <= value <= largest:
            faults.append(f"`{name}` must be {smallest} to {largest}, not {value}")
    if not 1 <= settings.tokens.threads <= 64:
        faults.append(f"`tokens.threads` must be 1 to 64, not {settings.tokens.threads}")
    if settings.access_log_decisions > 1:
        faults.append(f"`access_log_decisions` must be 0 to 1, not {settings.access_log_decisions}")
    if settings.redis.gateways < 1:
        faults.append(f"`redis.gateways` must be 1 or more, not {settings.redis.gateways}")
    if not 0.01 <= settings.redis.timeout_seconds <= 10:
        faults.append(f"`redis.timeout_seconds` must be 0.01 to 10, not {settings.redis.timeout_seconds}")
    if settings.queue.reserved_percent > _MOST_RESERVED:
        faults.append(
            f"`queue.reserved_percent` must be at most {_MOST_RESERVED:g}, not {settings.queue.reserved_percent:g}"
        )
    if settings.streams.coalesce_seconds > _MOST_COALESCED:
        faults.append(
            f"`streams.coalesce_seconds` must be at most {_MOST_COALESCED:g}: the whole worker waits for so long, "
            f"not {settings.streams.coalesce_seconds:g}"
        )
    for name, value in _numbers(settings):
        if value < 0:
            faults.append(f"`{name}` must not be negative, not {value}")
        elif not value < math.inf:
            faults.append(f"`{name}` must be a finite number, not {value}")
    if settings.identity.limits_redis:
        try:
            address_of(settings.identity.limits_redis)
        except ValueError as error:
            faults.append(f"`identity.limits_redis`: {error}")
    faults += _faults_of_binding(settings)
    faults += identity_faults(settings.identity)
    try:
        Forbidden(settings.requests.stripped_members.split())
    except ValueError as error:
        faults.append(f"`requests.stripped_members`: {error}")
    try:
        named_paths(settings.scheduling_plugins)
    except ValueError as error:
        faults.append(f"`scheduling_plugins`: {error}")
    for name, file in (("upstream_ca_file", settings.upstream_ca_file), ("redis.ca_file", settings.redis.ca_file)):
        if file:
            faults += _faults_of_authorities(name, file)
    if settings.redis.password_file and not os.access(settings.redis.password_file, os.R_OK):
        faults.append(f"`redis.password_file`: {settings.redis.password_file} cannot be read")
    return faults


def _faults_of_binding(settings: Settings) -> Iterator[str]:
    if settings.insecure_no_auth:
        return
    if not is_loopback(settings.host) and not is_configured(settings.identity):
        yield (
            f"`host` is {settings.host}, beyond loopback, and no identity is configured: anyone who reaches it could use the "
            "engines. Give API keys with `identity.keys_file`, bind 127.0.0.1, or say --insecure-no-auth"
        )
    if not is_loopback(settings.admin_host):
        yield (
            f"`admin_host` is {settings.admin_host}, beyond loopback, and the admin port asks nobody who they are: anyone who "
            "reaches it could read of every request. Bind 127.0.0.1, or say --insecure-no-auth"
        )


def _faults_of_authorities(name: str, file: str) -> list[str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(file)
    except ssl.SSLError:
        pass  # no PEM, or broken: what came before the fault was loaded all the same
    except (OSError, ValueError) as error:
        return [f"`{name}`: {file} cannot be read: {getattr(error, 'strerror', None) or error}"]
    else:
        if context.cert_store_stats()["x509"]:
            return []
    return [f"`{name}`: {file} must hold certificates in PEM (-----BEGIN CERTIFICATE-----)"]


def _numbers(struct: Struct, before: str = "") -> Iterator[tuple[str, float]]:
    for field in msgspec.structs.fields(struct):
        value = getattr(struct, field.name)
        if isinstance(value, Struct):
            yield from _numbers(value, f"{before}{field.name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{before}{field.name}", value


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
