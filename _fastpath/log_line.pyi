"""One line of the access log, and other texts that are times."""

def request_line(
    timestamp: str,
    request_id: str,
    path: str,
    status: int,
    operation: str,
    model: str,
    route: str | None,
    server: str | None,
    pod: str | None,
    stream: bool,
    duration: float,
    first_byte: float,
    overhead: float,
    attempts: int,
    bytes_in: int,
    bytes_out: int,
    match_ratio: float,
    usage: tuple[int, int, int] | None,
    prompt_tokens: int,
    output_tokens: int,
    cancelled: bool,
    error_code: str,
    error_source: str,
    error_message: str,
    tenant: str,
    refusal: str,
    waited: float,
    decision: bytes = b"",
) -> bytes:
    """A request that is over, as one line of JSON with its end of line.

    Times in seconds (the line has milliseconds), below 0 for what did not happen; so is ``match_ratio``. ``usage``: input, output
    and cached tokens as the engine counted them (-1 cached: it did not say); without it the two estimates stand in the line, if there
    are any. ``tenant`` and ``refusal`` (why a credential did not count) are left out when they are empty, ``waited`` (for an endpoint
    with room) when it is 0, ``decision`` (JSON, written as it is) when it is empty. ASCII control characters are escaped. Raises
    UnicodeEncodeError for half of a surrogate pair.
    """

def server_timing(overhead: float, waited: float, first: float) -> str:
    """The value of ``server-timing``, of seconds: ours before the request went out, in the queue (left out when 0), and the engine's."""

def moment(seconds: str, milliseconds: int) -> str:
    """A time of RFC 3339 in UTC, of its first part (up to 32 bytes) and 0 to 999 milliseconds. Raises ValueError for others."""
