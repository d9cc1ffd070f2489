"""Bundled mission `echo`: gives back what it gets, in each of the three ways a function can run."""

from __future__ import annotations

import trio

from drupelet import mission

SECONDS_MAX = 60.0


@mission("echo")
def echo(value: object) -> object:
    """The value, at once."""
    return value


@mission("echo")
async def echo_later(value: object, seconds: float = 0.0) -> object:
    """The value, after waiting `seconds` (at most 60); other calls go on meanwhile."""
    await trio.sleep(max(0.0, min(seconds, SECONDS_MAX)))
    return value


@mission("echo", where="thread")
def echo_in_thread(value: object) -> object:
    """The value, from a thread: the way for work that computes."""
    return value
