"""How an issuer's keys are fetched: one GET, bounded in time and size, no redirects, no credentials."""

from __future__ import annotations

import aiohttp

SECONDS = 3.0
"""For the whole fetch: what a request may wait for that comes before the first one has ended."""
LARGEST = 1 << 20


async def fetch(address: str) -> bytes:
    """The document at an address. Raises OSError with the reason."""
    timeout = aiohttp.ClientTimeout(total=SECONDS)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(address, allow_redirects=False, headers={"accept": "application/json"}) as response,
        ):
            if response.status != 200:
                raise OSError(f"answered {response.status}, not 200")
            body = b""
            async for piece in response.content.iter_chunked(1 << 16):
                body += piece
                if len(body) > LARGEST:
                    raise OSError(f"answered with more than {LARGEST} bytes")
            return body
    except TimeoutError as error:
        raise OSError(f"did not answer within {SECONDS:g} s") from error
    except (aiohttp.ClientError, ValueError) as error:  # ValueError: a name of a host that is none
        raise OSError(str(error) or type(error).__name__) from error
