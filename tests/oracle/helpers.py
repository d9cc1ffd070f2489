"""What the cases are made of; each has its twin in erlang/oracle.erl.

`NEXT_S` is how long a case waits for something that must come, `QUIET_S` for something that must
not. Erlang's half waits as long.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from drupelet import (
    Down,
    Pid,
    ReceiveTimeout,
    Ref,
    flush,
    link,
    monitor,
    receive,
    self,
    send,
    spawn,
    spawn_monitor,
)

NEXT_S = 20.0
QUIET_S = 0.03
SOON_S, OVER_S = 0.15, 0.2  # as in erlang/oracle.hrl


async def dead() -> Pid:
    """A process that has ended."""
    pid, ref = await spawn_monitor(return_at_once)
    await receive(lambda m: isinstance(m, Down) and m.ref == ref, timeout=NEXT_S)
    return pid


def return_at_once() -> None:
    pass


async def next_message(pattern: object = None) -> Any:
    """The next message; it must come."""
    try:
        return await receive(pattern, timeout=NEXT_S)
    except ReceiveTimeout:
        return "silence"


async def rest() -> list[object]:
    """All that waits now."""
    return await flush()


async def nothing() -> object:
    """That nothing waits."""
    return await _unexpected(0)


async def quiet(seconds: float = QUIET_S) -> object:
    """That nothing comes for a while."""
    return await _unexpected(seconds)


async def _unexpected(timeout: float) -> object:
    try:
        return ("unexpected", await receive(timeout=timeout))
    except ReceiveTimeout:
        return "nothing"


async def collect(count: int) -> list[Any]:
    """So many messages."""
    return [await next_message() for _ in range(count)]


async def down(ref: Ref) -> object:
    """The reason for which a monitored process ends."""
    message = await next_message(lambda m: isinstance(m, Down) and m.ref == ref)
    return message.reason if isinstance(message, Down) else "alive"


async def died(function: Callable[..., Any], *args: object) -> object:
    """The reason for which a process that is started with this function ends."""
    _, ref = await spawn_monitor(function, *args)
    return await down(ref)


async def is_gone(pid: Pid) -> bool:
    """That a process ends, or has ended."""
    return await down(monitor(pid)) != "alive"


async def answers() -> None:
    """Answers questions: ``("ask", from, question)`` by the same."""
    while True:
        match await receive():
            case ("ask", sender, question):
                await send(sender, ("answer", question))


async def answering() -> Pid:
    return await spawn(answers)


async def ask_it(to: Any, question: object) -> object:
    """Ask an `answering` process."""
    await send(to, ("ask", self(), question))
    match await next_message(("answer", question)):
        case ("answer", answer):
            return answer
    return "silence"


async def forever() -> None:
    """Wait for what never comes."""
    await receive("never")


async def links(pid: Pid) -> None:
    """Link to a process, and wait for what never comes."""
    link(pid)
    await forever()
