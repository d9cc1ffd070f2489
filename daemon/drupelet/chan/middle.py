"""The middle-man: the process between a socket and the process that uses it (lib_chan_mm).

To its owner it sends ``("chan", mm, x)`` for each value that came, and ``("chan_closed", mm)``
once, when the other side is gone. From its owner it takes ``("send", x)``, ``"close"`` and
``("setController", pid)``, which makes `pid` its owner.

Decides when a chan ends: the other side closed, died or fell silent; the owner said "close" or
ended; the chan server ended. Who ends it by its own will is not told, as in lib_chan.

- One task reads and one writes, so a peer's death is seen at once, also by a middle-man that waits
  for its owner's next word, and an owner's death by one that waits for the peer's.
- Both directions push back: a full mailbox stops the reader, TCP then stops the other writer, and
  that one's mailbox its owner.
- What cannot go to a guest (a pid, a function) closes the chan, since a value that is silently
  missing is worse; `client.cast` and `client.rpc` refuse it in the sender.
- After the last word it waits LINGER_S for the other side to close: a close with unread bytes would
  make the kernel throw away what it had not sent yet.

Owns: the link. Cancellation: the link is closed and the owner told.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

import trio

from drupelet.chan.link import Link
from drupelet.chan.loading import ServiceFunction
from drupelet.errors import MailboxFull, NotSendable, ReceiveTimeout
from drupelet.process import (
    Down,
    Mailbox,
    Pid,
    Ref,
    demonitor,
    monitor,
    receive,
    send,
    send_nowait,
    spawn,
)
from drupelet.process import self as process_self
from drupelet.wire import limits
from drupelet.wire.chan import Closed, Event, Value

LINGER_S: Final = 1.0
_log = logging.getLogger("drupelet.chan")


async def guest_side(link: Link, owner: Pid, began: trio.Event) -> None:
    """The middle-man of who called `connect`: a process."""
    began.set()
    try:
        await _Middle(link, owner).run([])
    finally:
        link.close()


async def service_side(
    link: Link, function: ServiceFunction, extra: object, server: Pid, on_end: Callable[[], None]
) -> None:
    """The middle-man of a service: starts it with the first value, its argument. A process."""
    try:
        argument: Value | None = None
        rest: list[Event] = []
        with trio.move_on_after(limits.CHAN_SEND_S):
            argument, rest = await _first_value(link)
        if argument is None:
            return
        mailbox = Mailbox(limit=limits.CHAN_WAITING_MAX, policy="block")
        owner = await spawn(function, process_self(), argument.value, extra, mailbox=mailbox)
        await _Middle(link, owner, monitor(server)).run(rest)
    finally:
        link.close()
        on_end()


async def _first_value(link: Link) -> tuple[Value | None, list[Event]]:
    while True:
        events = await link.receive()
        match events:
            case None | [Closed(), *_]:
                return None, []
            case [Value() as value, *rest]:
                return value, rest


class _Middle:
    def __init__(self, link: Link, owner: Pid, server: Ref | None = None) -> None:
        self._link = link
        self._me = process_self()
        self._owner = owner
        self._watch = monitor(owner)
        self._server = server
        self._silent = False  # the owner ended it: it knows
        self._leaving = False  # nothing is delivered any more

    async def run(self, events: list[Event]) -> None:
        carried = False
        try:
            await self._carry(events)
            carried = True
        finally:
            self._link.close()
            if not carried:  # this process is being ended: no time to wait
                self._tell_nowait()
        if not self._silent:
            await send(self._owner, ("chan_closed", self._me))

    def _tell_nowait(self) -> None:
        if not self._silent:
            try:
                send_nowait(self._owner, ("chan_closed", self._me))
            except MailboxFull:
                _log.warning("a full mailbox misses its chan_closed, ignoring")

    async def _carry(self, events: list[Event]) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read, events, nursery.cancel_scope)
            if await self._write() and await self._link.send_close():
                with trio.move_on_after(LINGER_S):
                    await trio.sleep_forever()  # until the reader sees the end
            nursery.cancel_scope.cancel()

    async def _read(self, events: list[Event] | None, scope: trio.CancelScope) -> None:
        while events is not None:
            for event in events:
                if isinstance(event, Closed):
                    scope.cancel()
                    return
                if not self._leaving:
                    await send(self._owner, ("chan", self._me, event.value))
            events = await self._link.receive()
        scope.cancel()

    async def _write(self) -> bool:
        """Carry what the owner sends until it or the server ends: true; false: the peer is gone."""
        next_ping = trio.current_time() + limits.CHAN_KEEPALIVE_S
        going = True
        while going:
            try:
                message = await receive(timeout=max(0.0, next_ping - trio.current_time()))
            except ReceiveTimeout:
                going = await self._link.send_ping()
                next_ping = trio.current_time() + limits.CHAN_KEEPALIVE_S
                continue
            match message:
                case ("send", value):
                    try:
                        going = await self._link.send_value(value)
                    except NotSendable:
                        _log.warning("a value that is no data for guests; closing the chan")
                        break
                    next_ping = trio.current_time() + limits.CHAN_KEEPALIVE_S
                case "close" | ("close",):
                    self._silent = True
                    break
                case Down(ref=self._watch):
                    self._silent = True
                    break
                case Down(ref=self._server):
                    break
                case ("setController", Pid() as owner):
                    demonitor(self._watch, flush=True)
                    self._owner, self._watch = owner, monitor(owner)
                case _:
                    _log.debug("a middle-man got a message that is none of its own, ignoring")
        self._leaving = going
        return going
