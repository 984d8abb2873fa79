"""Moving a coroutine on, without the exception by which Python tells of its end."""

from collections.abc import Coroutine
from typing import Any

ENDED: object
"""What :func:`step` returns of a coroutine that has returned."""

def step(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Go to the next wait: what it waits for, or :data:`ENDED`. What it returns is dropped. Raises what it raises."""

def is_end(said: object) -> bool:
    """Whether that is :data:`ENDED`."""
