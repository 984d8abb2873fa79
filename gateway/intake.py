"""From a connection to a checked request: the body within bounds, scanned once, and what is estimated of it."""

from __future__ import annotations

from collections.abc import Callable

from _fastpath.scanner import Forbidden, Scan, ScanError, scan
from gateway.admission.limits import BYTES_PER_TOKEN
from gateway.counting import Count
from gateway.errors import ClientError, Overloaded, RequestTimeout, TooLarge, UnsupportedMedia
from gateway.exchange import Exchange
from gateway.settings import Requests, Settings

LARGEST_WHOLE = 1 << 20
"""A body that announces no more is taken from RSGI in one piece; a larger one is counted while it comes."""
PATIENCE_SECONDS = 1.0
"""A body on its way for less is not given up for another's."""
CACHE_SALT = "cache_salt"
_MOST_ANNOUNCED = 10**18
"""A body that is said to have more has this many: more than anybody takes."""
_CLOSE = (("connection", "close"),)


class BodyLedger:
    """Bytes of bodies that this worker holds, and whose body is still on its way."""

    def __init__(self, most: int, clock: Callable[[], float]) -> None:
        self._most = most
        self._clock = clock
        self._arriving: dict[Exchange, float] = {}
        self.held = 0

    def begin(self, exchange: Exchange) -> None:
        """Its body is on its way."""
        self._arriving[exchange] = self._clock()

    def end(self, exchange: Exchange) -> None:
        """It has come, or never will."""
        self._arriving.pop(exchange, None)

    def take(self, count: Count) -> None:
        """Room for so many bytes; when there is none, the body that has been on its way for longest is given up. Raises Overloaded."""
        while self.held + count > self._most:
            if not self._give_up_one():
                raise Overloaded("This gateway holds as many request bodies as it may. Try again.", retry_after=1.0)
        self.held += count

    def give(self, count: Count) -> None:
        """They were sent on, or refused."""
        self.held -= count

    def _give_up_one(self) -> bool:
        for exchange, since in self._arriving.items():
            if self._clock() - since < PATIENCE_SECONDS:
                return False  # those behind it came later
            if exchange.run is not None:
                del self._arriving[exchange]
                exchange.run.throw(
                    RequestTimeout(
                        "The body came too slowly while the gateway had no room for others.", extra_headers=_CLOSE
                    )
                )
                return True
        return False


def check_headers(exchange: Exchange, most: Count) -> None:
    """Refuse what can be refused before the body is read; ``most``: bytes that a body may have."""
    encoding = exchange.header("content-encoding")
    if encoding and encoding.lower() != "identity":
        raise UnsupportedMedia(
            f"Bodies with content-encoding `{encoding[:40]}` are not accepted: send JSON as it is.",
            extra_headers=_CLOSE,
        )
    content_type = exchange.header("content-type")
    if content_type is not None and content_type != "application/json" and content_type.startswith("multipart/"):
        raise UnsupportedMedia(f"`{exchange.path}` takes a JSON body, not {content_type[:40]}.", extra_headers=_CLOSE)
    exchange.announced = _announced(exchange.header("content-length"))
    if exchange.announced > most:
        raise _too_large(most)


def _announced(length: str | None) -> Count:
    """Bytes that a body is said to have, -1 for one of which nothing is said."""
    if not length:
        return -1
    count = 0
    for digit in length:
        if not "0" <= digit <= "9":
            return -1
        if count > _MOST_ANNOUNCED // 10:
            return _MOST_ANNOUNCED
        count = count * 10 + (ord(digit) - 48)
    return count


async def read_body(exchange: Exchange, requests: Requests, ledger: BodyLedger) -> None:
    """The whole body, counted. Raises TooLarge, RequestTimeout (from the worker's timer) and Overloaded."""
    length = exchange.announced
    ledger.begin(exchange)
    try:
        if 0 <= length <= LARGEST_WHOLE:
            ledger.take(length)
            try:
                exchange.body = await exchange.protocol()
            finally:
                ledger.give(length - len(exchange.body))
        else:
            await _read_pieces(exchange, length, requests, ledger)
    except (RuntimeError, OSError) as error:
        raise _broke_off() from error
    finally:
        exchange.deadline = 0.0
        ledger.end(exchange)


async def _read_pieces(exchange: Exchange, length: Count, requests: Requests, ledger: BodyLedger) -> None:
    pieces: list[bytes] = []
    taken = empty = 0
    try:
        iterator = aiter(exchange.protocol)
        while True:
            # not `async for`: compiled, it does not take an end that RSGI raises before there is anything to wait for
            try:
                piece = await anext(iterator)
            except StopAsyncIteration:
                break
            empty += not piece
            if taken + len(piece) > requests.body_bytes:
                raise _too_large(requests.body_bytes)
            ledger.take(len(piece))
            taken += len(piece)
            pieces.append(piece)
        # RSGI gives one empty piece for the end, and one more for whatever went wrong before it
        if empty > 1 or (length >= 0 and taken != length):
            raise _broke_off()
    except BaseException:
        ledger.give(taken)
        raise
    exchange.body = b"".join(pieces)


class BodyRules:
    """What a body may look like, and which of its members are taken out or refused."""

    def __init__(self, settings: Settings) -> None:
        requests = settings.requests
        self.depth, self.members, self.digits = requests.json_depth, requests.json_members, requests.json_digits
        salt = [CACHE_SALT] if settings.identity.cache_salt_file else []
        stripped = [one for one in requests.stripped_members.split() if one not in salt]
        self.forbidden = Forbidden([*stripped, *salt])
        """Members that no client may send."""
        self.refused = Forbidden(salt) if salt else None
        """Those of them that are not taken out in silence: tenants' salts, where the gateway says them."""


def scan_body(exchange: Exchange, rules: BodyRules) -> None:
    """Check the body and note what routing, limits and scheduling need, and where members stand that no client may send.

    Raises ClientError that names the member.
    """
    if not exchange.body:
        raise ClientError("The request has no body: send a JSON object.", code="invalid_json")
    try:
        found = scan(exchange.body, rules.depth, rules.members, rules.digits, rules.forbidden)
    except ScanError as error:
        raise ClientError(f"Invalid body: {error.message}.", code=error.code, parameter=error.field) from error
    exchange.scan = found
    if found.forbidden and rules.refused is not None:
        _refuse_members(exchange.body, rules, rules.refused)
    if not found.model:
        raise ClientError("`model` is missing.", code="missing_required_parameter", parameter="model")
    wanted = exchange.operation.prompt
    if wanted is not None and not found.has(wanted):
        raise ClientError(f"`{wanted}` is missing.", code="missing_required_parameter", parameter=wanted)
    if found.prompt_is_tokens:
        exchange.prompt_tokens = found.prompt_tokens
    else:
        exchange.prompt_tokens = max(1, (found.prompt_end - found.prompt_start) // BYTES_PER_TOKEN)


def choices_of(found: Scan) -> Count:
    """Answers that a request asks for at once, within bounds."""
    return max(1, min(found.choices, 128))


def _refuse_members(body: bytes, rules: BodyRules, refused: Forbidden) -> None:
    if scan(body, rules.depth, rules.members, rules.digits, refused).forbidden:
        name = refused.names[0]
        raise ClientError(
            f"`{name}` is not a client's to say here: this gateway says it itself. Leave it out.",
            code="unsupported_parameter",
            parameter=name,
        )


def _broke_off() -> ClientError:
    return ClientError("The body broke off.", code="invalid_body", extra_headers=_CLOSE)


def _too_large(most: Count) -> TooLarge:
    return TooLarge(f"The body is larger than {most} bytes.", extra_headers=_CLOSE)
