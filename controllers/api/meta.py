"""What every kind has: metadata, conditions, and the faults that validation finds."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Literal

from msgspec import Struct

API_VERSION = "serving.penstock.dev/v1alpha1"
KINDS = ("Model", "ModelInfer", "ModelServer", "ModelRoute", "AutoScalingPolicy")

_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)")
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


class Strict(Struct, frozen=True, rename="camel", omit_defaults=True, forbid_unknown_fields=True):
    """Base of all parts of a spec: a field that nobody reads is a mistake somebody should hear of."""


class Metadata(Struct, frozen=True, rename="camel", omit_defaults=True):
    """The part of Kubernetes' object metadata that controllers read. Unknown members are let through."""

    name: str
    namespace: str = "default"
    uid: str = ""
    generation: int = 1
    resource_version: str = ""
    creation_timestamp: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class Condition(Struct, frozen=True, rename="camel"):
    """What a controller did with what it was told."""

    type: str
    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str
    observed_generation: int


class Fault(Struct, frozen=True):
    """Something wrong at a field: its path (``spec.rules[0].targetModels``) and what to do."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


NOT_DONE = "is not done yet"


def honoured(not_built: Iterable[Fault], generation: int) -> Condition:
    """The condition that says which fields were accepted and have no effect yet."""
    paths = [fault.path for fault in not_built]
    if not paths:
        return Condition("Honoured", "True", "AllFields", "every field that is set has its effect", generation)
    verb = "is" if len(paths) == 1 else "are"
    return Condition("Honoured", "False", "NotBuiltYet", f"{', '.join(paths)} {verb} not done yet", generation)


def check_metadata(metadata: Metadata) -> Iterable[Fault]:
    """Faults of the names."""
    for field in ("name", "namespace"):
        value = getattr(metadata, field)
        if not _NAME.fullmatch(value):
            yield Fault(
                f"metadata.{field}",
                f"`{value}` must be lower-case letters, digits, `-` and `.`, at most 253 characters",
            )


def seconds(duration: str) -> float | None:
    """Seconds of a Kubernetes duration (``250ms``, ``1m30s``), None when it is none."""
    at, total = 0, 0.0
    for part in _DURATION.finditer(duration):
        if part.start() != at:
            return None
        total += float(part[1]) * _UNITS[part[2]]
        at = part.end()
    return total if at == len(duration) and at > 0 and math.isfinite(total) else None
