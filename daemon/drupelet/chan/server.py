"""A chan server: takes guests in, one service process and one middle-man for each.

Decides what a guest is told, with `core/guests` for who has to wait and for whom there is room:

| the guest | gets | counted |
|---|---|---|
| has to wait, or too many shake hands | turned away at the door, 4 bytes | turned away |
| breaks the protocol, or is slow | a close | nothing: it learned nothing |
| proves no password | "authFail", whether there is such a service or not | a wrong try |
| proves the password of no service that is there | "badService" | no |
| proves the password | "welcome", or "full" | a guest |

It is a process like any other: `exit(server, "shutdown")` or `stop_server` ends it, and its guests'
chans with it. It runs in a program of its own (`drupelet chan CONF`), which has no keys; where a
program starts it inside its own runtime, the services run there too.

Owns: the listening sockets, one task for each guest that has not proved itself. Cancellation: the
sockets are closed, and each middle-man closes when it sees its server gone.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
from collections.abc import Callable
from functools import partial

import trio

from drupelet.chan.conf import Conf, read_conf
from drupelet.chan.link import READ_BYTES, Link, fresh_secrets, stream_of
from drupelet.chan.loading import ServiceFunction, find_function
from drupelet.chan.middle import service_side
from drupelet.core.guests import Guests, Turned
from drupelet.errors import ConfigError, RemoteProtocolError
from drupelet.net.listener import Listener
from drupelet.net.ports import BoundPort, open_on_all
from drupelet.process import (
    Down,
    Pid,
    Request,
    ask,
    exit,
    monitor,
    receive,
    reply,
    spawn,
)
from drupelet.process import self as process_self
from drupelet.wire import guests as wire
from drupelet.wire import limits

_log = logging.getLogger("drupelet.chan")


async def start_server(
    conf: Conf | str | os.PathLike[str], *, clock: Callable[[], float] = trio.current_time
) -> Pid:
    """Serve what a conf (or the file that has it) lists; the server's pid.

    `clock`: monotonic seconds, for the back-off. Raises: `ConfigError`.
    """
    if not isinstance(conf, Conf):
        conf = read_conf(conf)
    functions = {service.name: find_function(conf, service) for service in conf.services}
    server = _Server(conf, functions, _listen(conf), clock)
    return await spawn(server.run)


async def stop_server(server: Pid) -> None:
    """End a server and all its chans, and wait until it has ended."""
    ref = monitor(server)
    exit(server, "shutdown")
    await receive(lambda message: isinstance(message, Down) and message.ref == ref)


async def port(server: Pid) -> int:
    """The port on which a server listens; for a conf with port 0."""
    found: int = await ask(server, "port")
    return found


def _listen(conf: Conf) -> BoundPort:
    try:
        return open_on_all(conf.listen, conf.port)
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        raise ConfigError(
            f"cannot listen on port {conf.port} of {error.filename}: {error.strerror}",
            mend="stop what listens there, or take another port"
            if taken
            else "give an address of this machine, and a port from 1024 up",
            file=conf.file,
            key="port",
        ) from None


class _Server:
    def __init__(
        self,
        conf: Conf,
        functions: dict[str, ServiceFunction],
        bound: BoundPort,
        clock: Callable[[], float],
    ) -> None:
        self._services = {service.name: service for service in conf.services}
        self._passwords = {service.name: service.password for service in conf.services}
        # What a service that is not there pretends to have: the first one's, so that who has it
        # and mistypes the name is told so.
        self._decoy = conf.services[0].password
        self._functions = functions
        self._bound = bound
        self._clock = clock
        self._guests = Guests()

    async def run(self) -> None:
        """Until it is told to end: a process."""
        try:
            async with trio.open_nursery() as nursery:
                accept = partial(self._accept, nursery, process_self())
                nursery.start_soon(Listener(list(self._bound.sockets), accept).run)
                while True:
                    match await receive():
                        case Request(caller, "port"):
                            await reply(caller, self._bound.port)
                        case _:
                            _log.debug("a chan server got a message, ignoring")
        finally:
            self._bound.close()

    def _accept(self, nursery: trio.Nursery, me: Pid, sock: socket.socket, address: str) -> None:
        now = self._clock()
        turned = self._guests.knock(address, now)
        if turned is None:
            nursery.start_soon(self._meet, me, sock, address)
            return
        if turned is Turned.WAIT:
            data = wire.turn_away(wire.AUTH_FAIL, self._guests.wait_s(address, now))
        else:
            data = wire.turn_away(wire.FULL)
        with contextlib.suppress(OSError):
            sock.send(data, socket.MSG_DONTWAIT)
        sock.close()

    async def _meet(self, me: Pid, sock: socket.socket, address: str) -> None:
        """One connection until its guest has entered, or is gone."""
        stream = stream_of(sock)
        visit = _Visit(self._guests, address)
        handed_over = False
        try:
            with trio.move_on_after(limits.HANDSHAKE_S):
                machine = await self._hear(stream, visit)
                if machine.admitted is not None:
                    service = self._services[machine.service]
                    _log.info("guest at=%s service=%r", address, service.name)
                    link = Link(stream, machine.admitted, stream.socket.close)
                    function = self._functions[service.name]
                    await spawn(service_side, link, function, service.extra, me, visit.end)
                    handed_over = True
        except (RemoteProtocolError, trio.BrokenResourceError) as error:
            _log.debug("a guest at=%s is gone: %s", address, error)
        finally:
            if not handed_over:
                stream.socket.close()
                visit.end()

    async def _hear(self, stream: trio.SocketStream, visit: _Visit) -> wire.GuestServer:
        """Let a guest prove a password, and answer."""
        machine = wire.GuestServer(self._passwords, self._decoy, fresh_secrets())
        while not machine.tried:
            data = await stream.receive_some(READ_BYTES)
            if not data:
                return machine
            await stream.send_all(machine.receive_data(data))
        await stream.send_all(self._judge(machine, visit))
        return machine

    def _judge(self, machine: wire.GuestServer, visit: _Visit) -> bytes:
        """The answer to a proof. No await between the look at the count and the count."""
        now, address = self._clock(), visit.address
        wait_s = self._guests.wait_s(address, now)
        if wait_s > 0.0:
            return machine.answer(wire.AUTH_FAIL, wait_s)
        if not machine.proof_holds():
            self._guests.wrong(address, now)
            # Not the name of a service that is not there: it may be a password in the wrong place.
            named = repr(machine.service) if machine.known else "that is not there"
            _log.warning("wrong password at=%s for a service %s, refusing", address, named)
            return machine.answer(wire.AUTH_FAIL, self._guests.wait_s(address, now))
        if not machine.known:
            return machine.answer(wire.BAD_SERVICE)
        if not visit.enter():
            _log.warning("too many guests, refusing at=%s", address)
            return machine.answer(wire.FULL)
        return machine.answer(wire.WELCOME)


class _Visit:
    """A connection as `Guests` counts it: ended once, whatever it had become."""

    def __init__(self, guests: Guests, address: str) -> None:
        self.address = address
        self._guests = guests
        self._entered = False

    def enter(self) -> bool:
        self._entered = self._guests.enter(self.address)
        return self._entered

    def end(self) -> None:
        if self._entered:
            self._guests.close(self.address)
        else:
            self._guests.leave(self.address)
