"""Lines of the access log, and other texts that are times."""

from typing import final

@final
class LogLines:
    """Lines that wait until somebody takes them."""

    count: int
    """How many."""
    size: int
    """How many bytes they are together."""
    def __init__(self) -> None: ...
    def add(
        self,
        wall: float,
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
    ) -> None:
        """A request that is over, as one line of JSON with its end of line.

        ``wall``: Unix time at which it began, of the years 1970 to 9999. Times in seconds (the line has milliseconds), below 0 for what did
        not happen; so is ``match_ratio``. ``usage``: input, output and cached tokens as the engine counted them (-1 cached: it did not
        say); without it the two estimates stand in the line, if there are any. ``tenant`` and ``refusal`` (why a credential did not
        count) are left out when they are empty, ``waited`` (for an endpoint with room) when it is 0, ``decision`` (JSON, written as it
        is) when it is empty. ASCII control characters are escaped. Raises UnicodeEncodeError for half of a surrogate pair; then there is
        no line.
        """

    def take(self) -> bytes:
        """All lines in their order; none waits from then on."""

def is_plain(text: str, longest: int) -> bool:
    """Whether it is printable ASCII and has at most so many characters."""

def server_timing(overhead: float, waited: float, first: float) -> str:
    """The value of ``server-timing``, of seconds: ours before the request went out, in the queue (left out when 0), and the engine's."""
