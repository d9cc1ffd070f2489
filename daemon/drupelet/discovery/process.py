"""The discovery process once it is confined: the channel to the daemon, and when to rebuild.

Decides when the responder is replaced: when the addresses of this machine change (netlink says so;
SETTLE_S later, since an interface comes up in steps), when forged names fill the cache, and with
back-off when it could not be made. With no network at all it waits for one.

*Owns*: one responder, one rebuilding task, the socket. Ends when the daemon's end closes, when the
daemon breaks the protocol, or on SIGTERM; then it says goodbye to the LAN, once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import signal
import socket
from typing import Final

from drupelet.core.backoff import Backoff
from drupelet.core.candidates import Candidate, CandidateWindow
from drupelet.discovery import interfaces
from drupelet.discovery.responder import GatedLoop, Responder
from drupelet.errors import RemoteProtocolError
from drupelet.wire.frames import FrameReader
from drupelet.wire.messages import discovery as messages

START_S: Final = 30.0  # the daemon answers at once, but a Pi that boots is busy
SETTLE_S: Final = 0.5  # link up, IPv4 by DHCP and IPv6 come one after the other
RETRY_BASE_S: Final = 2.0
RETRY_CAP_S: Final = 60.0
REBUILD_PAUSE_S: Final = 10.0  # a flood must not keep us rebuilding: 60 ms of processor each time
CLOSE_S: Final = 1.0
_READ_BYTES: Final = 4_096

_log = logging.getLogger("drupelet.discovery")


class DaemonChannel:
    """The socket to the daemon. Never blocks: drops whole messages that do not fit."""

    def __init__(self, to_daemon: socket.socket) -> None:
        self._socket = to_daemon
        self._socket.setblocking(False)
        self._reader = FrameReader()
        self._rest = b""  # of one frame that went out in part
        self.dropped_count = 0

    def fileno(self) -> int:
        """For the event loop."""
        return self._socket.fileno()

    def send(self, message: messages.Message) -> None:
        """Send, or drop and count. Raises: `OSError` when the daemon is gone."""
        if self._rest:
            self._rest = self._rest[self._write(self._rest) :]
        if self._rest:
            self.dropped_count += 1
            return
        data = messages.encode(message)
        sent = self._write(data)
        if sent:
            self._rest = data[sent:]
        else:
            self.dropped_count += 1

    def receive(self) -> list[messages.Message] | None:
        """What came; None when the daemon closed. Raises: `OSError`, `RemoteProtocolError`."""
        try:
            data = self._socket.recv(_READ_BYTES)
        except BlockingIOError:
            return []
        if not data:
            return None
        return [messages.decode(frame) for frame in self._reader.receive_data(data)]

    def _write(self, data: bytes) -> int:
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0


class DiscoveryProcess:
    """Everything between the daemon's socket and the LAN. Run `run` on a `GatedLoop`."""

    def __init__(self, channel: DaemonChannel, loop: GatedLoop) -> None:
        self._channel = channel
        self._loop = loop
        self._start: messages.Start | None = None
        self._window: CandidateWindow | None = None
        self._responder: Responder | None = None
        self._stop = asyncio.Event()
        self._changed = asyncio.Event()
        self._settling: asyncio.TimerHandle | None = None
        self._rebuilt_count = 0
        self._refused_count = 0  # by responders that are gone

    async def run(self) -> None:
        """Serve until the daemon goes. Raises: `OSError` when there is no netlink."""
        loop = self._loop
        loop.add_signal_handler(signal.SIGTERM, self._stop.set)
        loop.add_reader(self._channel, self._on_readable)
        too_late = loop.call_later(START_S, self._on_no_start)
        self._send(messages.Hello())
        rebuilding: asyncio.Task[None] | None = None
        with interfaces.watch() as news:
            loop.add_reader(news, self._on_news, news)
            try:
                rebuilding = loop.create_task(self._keep_responder())
                rebuilding.add_done_callback(lambda _: self._stop.set())
                await self._stop.wait()
            finally:
                too_late.cancel()
                loop.remove_reader(news)
                loop.remove_reader(self._channel)
                if rebuilding is not None:
                    await self._end(rebuilding)

    async def _end(self, rebuilding: asyncio.Task[None]) -> None:
        failure = None
        if rebuilding.done():
            failure = rebuilding.exception()
        else:
            rebuilding.cancel()
        if self._responder is not None:
            with contextlib.suppress(OSError):
                await asyncio.wait_for(self._responder.close(goodbye=True), CLOSE_S)
        if failure is not None:
            raise failure

    def _on_no_start(self) -> None:
        if self._start is None:
            _log.warning("the daemon said nothing for %.0f s, ending", START_S)
            self._stop.set()

    def _on_readable(self) -> None:
        try:
            received = self._channel.receive()
            if received is None:
                self._stop.set()
                return
            for message in received:
                self._on_message(message)
        except RemoteProtocolError as error:
            _log.warning("the daemon broke the protocol: %s, ending", error)
            self._stop.set()
        except OSError:
            self._stop.set()

    def _on_message(self, message: messages.Message) -> None:
        match message:
            case messages.Start() if self._start is None:
                self._start = message
                self._window = CandidateWindow(message.key_prefix)
                self._changed.set()
            case messages.Ping(token):
                self._send(self._report())
                self._send(messages.Pong(token))
            case _:
                raise RemoteProtocolError(f"unexpected {type(message).__name__}")

    def _on_news(self, news: socket.socket) -> None:
        interfaces.drain(news)
        if self._settling is None:
            self._settling = self._loop.call_later(SETTLE_S, self._on_settled)

    def _on_settled(self) -> None:
        self._settling = None
        self._changed.set()

    def _on_found(self, sender: str, found: messages.Found) -> None:
        """One address of one service, from the packet that `sender` sent."""
        window = self._window
        assert window is not None
        candidate = Candidate(
            source="mdns",
            host=found.host,
            port=found.port,
            name=found.name,
            key_prefix=found.key_prefix,
        )
        window.receive(sender, candidate, self._loop.time())
        for passed in window.take_effects():
            self._send(
                messages.Found(
                    key_prefix=passed.key_prefix,
                    name=passed.name,
                    host=passed.host,
                    port=passed.port,
                )
            )

    def _send(self, message: messages.Message) -> None:
        try:
            self._channel.send(message)
        except OSError:
            self._stop.set()

    def _lost_count(self) -> int:
        """Packets and hints that the limits have cost: who sent them may have been honest."""
        lost_count = self._loop.gate.statistics().over_rate_count + self._channel.dropped_count
        if self._window is not None:
            counts = self._window.statistics()
            lost_count += counts.over_window_count + counts.over_origin_count
        return lost_count

    def _report(self) -> messages.Report:
        responder = self._responder
        return messages.Report(
            interfaces=responder.plan.interfaces if responder else (),
            packet_count=self._loop.gate.statistics().packet_count,
            dropped_count=self._lost_count(),
            refused_count=self._refused_count + (responder.refused_count if responder else 0),
            rebuilt_count=self._rebuilt_count,
        )

    async def _keep_responder(self) -> None:
        """Replace the responder whenever what it stands on changed; for ever."""
        backoff = Backoff(RETRY_BASE_S, RETRY_CAP_S, random.random)
        while True:
            await self._changed.wait()
            self._changed.clear()
            assert self._start is not None
            try:
                plan = interfaces.current_plan(self._start.addresses, self._start.interfaces)
                was_flooded = await self._rebuild(self._start, plan)
            except (OSError, RuntimeError) as error:
                delay_s = backoff.next_delay_s()
                _log.warning("mDNS does not start: %s, trying again in %.0f s", error, delay_s)
                self._loop.call_later(delay_s, self._changed.set)
                continue
            backoff.reset()
            if was_flooded:
                await asyncio.sleep(REBUILD_PAUSE_S)

    async def _rebuild(self, start: messages.Start, plan: interfaces.Plan) -> bool:
        """Make the responder fit `plan`. Returns whether a flood was the reason."""
        old = self._responder
        is_flooded = old is not None and old.is_flooded
        if old is not None:
            if old.plan == plan and not is_flooded:
                return False
            self._responder = None
            self._refused_count += old.refused_count
            await old.close(goodbye=False)
        if plan.speak:
            new = Responder(
                start,
                plan,
                self._loop.gate,
                on_found=self._on_found,
                on_flood=self._changed.set,
                lost_count=self._lost_count,
            )
            try:
                await new.open()
            except BaseException:
                await new.close(goodbye=False)
                raise
            self._responder = new
            self._rebuilt_count += 1
        self._send(self._report())
        return is_flooded
