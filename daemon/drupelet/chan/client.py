"""A guest's side: reach a service of a chan server and talk to it.

Decides what a program sees: one pid for each connection, its middle-man's. Everything it says comes
as messages (`middle.py`); `rpc` and `cast` are for those who would rather call. The password goes
into one hash and is in no message, log record or error.
"""

from __future__ import annotations

from typing import Any

import trio

from drupelet.chan import middle
from drupelet.chan.conf import normal
from drupelet.chan.link import come_in
from drupelet.errors import NoConnection, ReceiveTimeout, Timeout
from drupelet.net.dialer import dial
from drupelet.process import Down, Pid, demonitor, monitor, receive, self, send, spawn
from drupelet.wire import chan as wire
from drupelet.wire.limits import NAME_CHARS_MAX

CONNECT_S = 5.0


async def connect(
    host: str,
    port: int,
    service: str,
    password: str,
    argument: object = None,
    *,
    timeout: float = CONNECT_S,
) -> Pid:
    """Start a service on a chan server; the pid of the middle-man, which belongs to this process.

    `argument` is what the service is started with: any data.
    Raises: `AuthFail`, `BadService`, `NoConnection`, `Timeout`, `NotSendable`.
    """
    owner = self()
    name = normal(service)
    if not 0 < len(name) <= NAME_CHARS_MAX:
        raise ValueError(f"a service's name has 1 to {NAME_CHARS_MAX} characters")
    secret = normal(password).encode()
    wire.dump(argument)  # what cannot go is refused before anything does
    with trio.move_on_after(timeout):
        link = await come_in(await dial(host, port, timeout_s=timeout), name, secret)
        try:
            if not await link.send_value(argument):
                raise NoConnection("closed")
            began = trio.Event()
            mm = await spawn(middle.guest_side, link, owner, began)
            await began.wait()  # a process that is ended before it began would leave the link open
            return mm
        except BaseException:
            link.close()
            raise
    raise Timeout(False)


async def cast(mm: Pid, value: object) -> None:
    """Send `value` to the other side. Raises: `NotSendable`."""
    wire.dump(value)
    await send(mm, ("send", value))


async def rpc(mm: Pid, value: object, *, timeout: float = 5.0) -> Any:
    """Send `value` and wait for the next value that comes over this chan.

    Raises: `NotSendable`, `Timeout`; `NoConnection` when the chan is closed, and its
    ``("chan_closed", mm)`` then does not come any more.
    """
    ref = monitor(mm)
    try:
        await cast(mm, value)
        message = await receive(lambda message: _concerns(message, mm, ref), timeout=timeout)
    except ReceiveTimeout:
        raise Timeout(True) from None
    finally:
        demonitor(ref, flush=True)
    match message:
        case ("chan", _, answer):
            return answer
    raise NoConnection("closed", maybe_ran=True)


def _concerns(message: object, mm: Pid, ref: object) -> bool:
    match message:
        case ("chan", pid, _) | ("chan_closed", pid):
            return pid == mm
        case Down():
            return message.ref == ref
    return False


async def close(mm: Pid) -> None:
    """End the conversation; the other side gets ``("chan_closed", mm)``."""
    await send(mm, "close")
