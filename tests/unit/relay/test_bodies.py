from __future__ import annotations

from typing import Any

import pytest
import trio
from starlette.requests import Request
from trio.testing import MockClock

from drupelet.errors import RemoteProtocolError
from drupelet.relay.bodies import BODY_S, TooLarge, read_body


def request(*parts: bytes, length: str = "", end: str = "http.request") -> Request:
    """One whose body comes in these parts; `end`: what comes then."""
    left = list(parts)

    async def receive() -> dict[str, Any]:
        if left:
            return {"type": "http.request", "body": left.pop(0), "more_body": True}
        if end == "nothing":
            await trio.sleep_forever()
        return {"type": end, "body": b"", "more_body": False}

    headers = [(b"content-length", length.encode())] if length else []
    return Request({"type": "http", "method": "PUT", "path": "/", "headers": headers}, receive)


async def test_a_body_at_the_maximum_and_one_above() -> None:
    assert await read_body(request(b"ab", b"cd"), 4) == b"abcd"
    assert await read_body(request(), 0) == b""
    with pytest.raises(TooLarge, match="at most 3"):
        await read_body(request(b"ab", b"cd"), 3)


async def test_what_says_that_it_is_too_long_is_not_read() -> None:
    assert await read_body(request(b"abcd", length="4"), 4) == b"abcd"
    with pytest.raises(TooLarge):
        await read_body(request(end="nothing", length="5"), 4)
    with pytest.raises(TooLarge):
        await read_body(request(end="nothing", length="9" * 30), 4)


async def test_one_that_does_not_come(autojump_clock: MockClock) -> None:
    before = trio.current_time()
    with pytest.raises(RemoteProtocolError, match="did not come"):
        await read_body(request(b"a", end="nothing"), 4)
    assert trio.current_time() - before == pytest.approx(BODY_S)
    with pytest.raises(RemoteProtocolError, match="did not come"):
        await read_body(request(b"a", end="http.disconnect"), 4)
