"""Bodies of HTTP requests: read up to a maximum, within a time."""

from __future__ import annotations

from contextlib import aclosing
from typing import Final

import trio
from starlette.requests import ClientDisconnect, Request

from drupelet.errors import RemoteProtocolError

BODY_S: Final = 30.0  # for a request's body


class TooLarge(RemoteProtocolError):
    """The body is longer than what is read."""


async def read_body(request: Request, most: int) -> bytes:
    """The body. Raises: `TooLarge`, or `RemoteProtocolError` for one that is too slow."""
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length[:19]) > most:
        raise TooLarge(f"at most {most} bytes")
    parts, size = [], 0
    try:
        with trio.fail_after(BODY_S):
            async with aclosing(request.stream()) as stream:
                async for part in stream:
                    size += len(part)
                    if size > most:
                        raise TooLarge(f"at most {most} bytes")
                    parts.append(part)
    except (trio.TooSlowError, ClientDisconnect):
        raise RemoteProtocolError("the body did not come") from None
    return b"".join(parts)
