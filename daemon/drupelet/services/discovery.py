"""The daemon's end of discovery: keeps the mDNS process running and takes its hints.

Decides when the process is started, trusted with what, and given up: it is told a key prefix, a
name and a port, which it shouts over the LAN anyway, and nothing else. What it says is checked
(`wire/messages/discovery.py`) and limited again (`core/candidates.py`): it hears every stranger on
the LAN and may be under another's control. A process that breaks the protocol or does not answer
within ANSWER_S is killed; whatever ended, the next one comes with back-off, for ever.

Two ways to get one, told apart by `socket_path`:
- development: started here, with one end of a socket pair as standard input and no environment.
  From the main thread, and not by trio: PR_SET_PDEATHSIG fires when the *thread* that started the
  process ends, and trio starts processes from threads that end when idle. Takes 1 to 2 ms.
- production: systemd starts it with ``--socket PATH``; one at a time is accepted there.

Registering a service takes zeroconf 1.6 s of probing elsewhere; here nothing waits for it: `run`
reports itself started before the process exists.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import random
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import trio

from drupelet.core.backoff import Backoff
from drupelet.core.candidates import Candidate, CandidateStatistics, CandidateWindow
from drupelet.errors import LocalProtocolError, RemoteProtocolError
from drupelet.wire import limits
from drupelet.wire.frames import U64, FrameReader
from drupelet.wire.messages import discovery as messages

HELLO_S: Final = 30.0  # a Pi Zero that boots takes 5 s to import zeroconf
PING_INTERVAL_S: Final = 60.0  # one wake-up a minute on both sides
ANSWER_S: Final = 30.0  # the process has the lowest priority
SEND_S: Final = 5.0  # a few bytes into an empty socket
RESTART_BASE_S: Final = 1.0
RESTART_CAP_S: Final = 60.0
STEADY_S: Final = 120.0  # a process that lived this long was well: back-off begins anew
EXIT_S: Final = 1.0  # from a closed socket to the end: it sends one goodbye
# 64 candidates by its clock can be 128 by ours, plus reports
MESSAGES_PER_WINDOW_MAX: Final = 4 * limits.CANDIDATES_PER_WINDOW_MAX
SOCKET_MODE: Final = 0o660  # the process runs as another user of the same group
_READ_BYTES: Final = 16_384  # a window of candidates is 6 KB

_log = logging.getLogger("drupelet.discovery")


class MdnsSettings(Protocol):
    """The part of `config.MdnsConfig` that is used here."""

    @property
    def enabled(self) -> bool:
        """Whether to use mDNS at all."""

    @property
    def interfaces(self) -> tuple[str, ...]:
        """Names or addresses of the interfaces to speak on; none means all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscoveryStatistics:
    """How discovery does. `process_id` is 0 while there is none (or systemd's is connected)."""

    connected: bool
    process_id: int
    start_count: int
    candidates: CandidateStatistics
    report: messages.Report


class Discovery:
    """The mDNS process's keeper.

    *Owns*: the process, its socket, one pinging task. *Cancellation* of `run` closes the socket and
    waits at most EXIT_S for the process, then kills it.
    """

    def __init__(
        self,
        config: MdnsSettings,
        *,
        key_prefix: str,
        name: str,
        port: int,
        on_candidate: Callable[[Candidate], None],
        addresses: Sequence[str] = ("0.0.0.0", "::"),
        socket_path: Path | None = None,
    ) -> None:
        """`addresses`: what the links listen on. `socket_path`: where systemd's process connects;
        None starts one. `on_candidate` must not block. Raises: `LocalProtocolError`."""
        if not messages.is_key_prefix(key_prefix):
            raise LocalProtocolError(f"{key_prefix!r} is no key prefix")
        self._enabled = config.enabled
        self._start = messages.Start(
            key_prefix=key_prefix,
            name=name if messages.is_name(name) else "",  # only a label: the key is what counts
            port=port,
            addresses=tuple(addresses),
            interfaces=config.interfaces,
        )
        self._on_candidate = on_candidate
        self._socket_path = socket_path
        self._window = CandidateWindow(key_prefix)
        self._report = messages.Report()
        self._connected = False
        self._process_id = 0
        self._start_count = 0
        self._answer_due_s = math.inf
        self._messages_end_s = 0.0
        self._message_count = 0

    def statistics(self) -> DiscoveryStatistics:
        """Counts since the start, and the last report of the process."""
        return DiscoveryStatistics(
            connected=self._connected,
            process_id=self._process_id,
            start_count=self._start_count,
            candidates=self._window.statistics(),
            report=self._report,
        )

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; returns at once when mDNS is off. Raises: nothing expected."""
        task_status.started()
        if not self._enabled:
            return
        backoff = Backoff(RESTART_BASE_S, RESTART_CAP_S, random.random)
        serve = self._serve_child if self._socket_path is None else self._serve_socket
        while True:
            began_s = trio.current_time()
            try:
                await serve()
                reason = "it closed the socket"
            except RemoteProtocolError as error:
                reason = f"it broke the protocol: {error}"
            except trio.TooSlowError:
                reason = "it did not answer"
            except OSError as error:
                reason = str(error)
            if trio.current_time() - began_s >= STEADY_S:
                backoff.reset()
            delay_s = backoff.next_delay_s()
            _log.warning("discovery process lost: %s, starting it again in %.1f s", reason, delay_s)
            await trio.sleep(delay_s)

    async def _serve_child(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with ours:
            with theirs:
                process = _spawn(theirs)
            self._start_count += 1
            self._process_id = process.pid
            try:
                await self._converse(ours)
            finally:
                ours.close()
                self._process_id = 0
                await _reap(process)

    async def _serve_socket(self) -> None:
        assert self._socket_path is not None
        with _listen(self._socket_path) as listener:
            theirs, _ = await trio.socket.from_stdlib_socket(listener).accept()
        # One at a time: nobody else can connect until this one is gone.
        with theirs:
            self._start_count += 1
            await self._converse(socket.socket(fileno=theirs.detach()))

    async def _converse(self, raw: socket.socket) -> None:
        """One process from HELLO to its end. Raises: `RemoteProtocolError`, `OSError`, TooSlow."""
        with raw:
            stream = trio.socket.from_stdlib_socket(raw)
            reader = FrameReader()
            pending: list[messages.Message] = []
            with trio.fail_after(HELLO_S):
                while not pending:
                    pending = await _receive(stream, reader)
            if pending.pop(0) != messages.Hello():
                raise RemoteProtocolError("no hello")
            await _send(stream, self._start)
            self._connected = True
            try:
                await self._take_hints(stream, reader, pending)
            finally:
                self._connected = False

    async def _take_hints(
        self,
        stream: trio.socket.SocketType,
        reader: FrameReader,
        pending: list[messages.Message],
    ) -> None:
        """Take what comes, ping between; one loop, so that a failure is not wrapped in a group."""
        ping_due_s = trio.current_time() + PING_INTERVAL_S
        self._answer_due_s = math.inf
        while True:
            for message in pending:
                self._on_message(message)
            pending = []
            is_asked = self._answer_due_s < math.inf
            with trio.move_on_at(self._answer_due_s if is_asked else ping_due_s) as waiting:
                pending = await _receive(stream, reader)
            if not waiting.cancelled_caught:
                continue
            if is_asked:
                raise trio.TooSlowError
            now = trio.current_time()
            await _send(stream, messages.Ping(U64.pack(self._start_count)))
            self._answer_due_s = now + ANSWER_S
            ping_due_s = now + PING_INTERVAL_S

    def _on_message(self, message: messages.Message) -> None:
        self._count_message(trio.current_time())
        match message:
            case messages.Found():
                candidate = Candidate(
                    source="mdns",
                    host=message.host,
                    port=message.port,
                    name=message.name,
                    key_prefix=message.key_prefix,
                )
                self._window.receive("", candidate, trio.current_time())
                for passed in self._window.take_effects():
                    self._on_candidate(passed)
            case messages.Report():
                self._report = message
            case messages.Pong():
                self._answer_due_s = math.inf
            case _:
                raise RemoteProtocolError(f"unexpected {type(message).__name__}")

    def _count_message(self, now: float) -> None:
        """Raises: `RemoteProtocolError` for a process that ignores its own limits."""
        if now >= self._messages_end_s:
            self._messages_end_s = now + limits.CANDIDATE_WINDOW_S
            self._message_count = 0
        self._message_count += 1
        if self._message_count > MESSAGES_PER_WINDOW_MAX:
            raise RemoteProtocolError("it sent more than its limits allow")


async def _receive(stream: trio.socket.SocketType, reader: FrameReader) -> list[messages.Message]:
    """The messages of one read. Raises: `RemoteProtocolError`, `OSError`; EOF is one of these."""
    data = await stream.recv(_READ_BYTES)
    if not data:
        raise ConnectionError("it closed its end")
    return [messages.decode(frame) for frame in reader.receive_data(data)]


async def _send(stream: trio.socket.SocketType, message: messages.Message) -> None:
    data = messages.encode(message)
    with trio.fail_after(SEND_S):
        while data:
            data = data[await stream.send(data) :]


def _spawn(theirs: socket.socket) -> subprocess.Popen[bytes]:
    """Start the process; see the module's docstring for why not through trio. Raises: `OSError`."""
    return subprocess.Popen(
        [sys.executable, "-I", "-m", "drupelet.discovery"],
        stdin=theirs.fileno(),
        stdout=subprocess.DEVNULL,
        env={"LANG": "C.UTF-8"},
        cwd="/",
    )


async def _reap(process: subprocess.Popen[bytes]) -> None:
    """Wait for a process whose socket is closed; kill it when it takes longer than EXIT_S."""
    descriptor = os.pidfd_open(process.pid)
    try:
        deadline_s = trio.current_time() + EXIT_S
        with trio.CancelScope(deadline=deadline_s, shield=True) as waiting:
            await trio.lowlevel.wait_readable(descriptor)
        if waiting.cancelled_caught:
            process.kill()
    finally:
        os.close(descriptor)
        process.wait()  # it is dead or gets SIGKILL now: this does not block for long


def _listen(path: Path) -> socket.socket:
    """A listening socket at `path`, for the group of the directory. Raises: `OSError`."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise OSError(f"{path} is no socket; remove it")
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(path))
        path.chmod(SOCKET_MODE)
        listener.listen(1)
    except OSError:
        listener.close()
        raise
    return listener
