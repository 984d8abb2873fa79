"""How many tokens an answer used, from the last bytes of it."""

def scan_usage(text: bytes) -> tuple[int, int, int] | None:
    """Prompt, completion and cached tokens of the last ``usage`` object in the tail of an answer, None when there is none.

    Cached tokens are -1 where the engine does not say. Never raises: an engine's answer may be anything.
    """
