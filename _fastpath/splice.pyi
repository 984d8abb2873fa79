"""Changes to a body's top-level members, without parsing it again or touching its other bytes."""

from collections.abc import Mapping

from _fastpath.scanner import Scan

def splice(body: bytes, found: Scan, changes: Mapping[str, bytes | None]) -> bytes:
    """The body without its forbidden members and with these changes; the same object when that changes nothing.

    ``found``: the scan of this body (ValueError when it is of another). ``changes``: by a member's name its new value as JSON, or None to
    take it out. A value stands in its member's place when the scanner looks for the member and the body has it, and at the object's
    end otherwise; so what is put in under a name that the scanner does not look for should be forbidden as well, or it may stand
    twice. ValueError for None under such a name.
    """

def with_usage(body: bytes, found: Scan) -> bytes:
    """The value of ``stream_options`` that is the client's own with ``include_usage`` true."""
