"""Child daemons of a foreground command: started, their log shown by name, stopped in order.

*Owns* the processes and a datagram socket each, on which the child says that it is ready
(sd_notify(3), as it would tell systemd). A child is its own session, so that Ctrl-C in the terminal
reaches only the command, which stops the children in order. A child that the command cannot stop
any more (kill -9) is killed by the kernel (`drupeletd --parent`).

*Cancellation*: `Child.run` leaves the process alone; `stop` it.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Final

import trio

from drupelet.cli import output

READY_S: Final = 15.0  # 0.6 s on a PC, some 5 s on a Pi Zero 2 W with 3 nodes at once
STOP_S: Final = 5.0  # the daemon's own drain takes at most 2.5 s
LAST_WORDS_S: Final = 0.5  # for the end of the log; a mission worker may hold the pipe open
_LINE_BYTES_MAX: Final = 65_536  # a log line; a longer one is shown in pieces


class Child:
    """One `drupeletd`."""

    def __init__(self, name: str, config: Path, run_directory: Path, width: int) -> None:
        self.name = name
        self._prefix = f"{name.ljust(width)} | "
        self._ready = trio.Event()
        self._log_ended = trio.Event()
        self.ended = trio.Event()
        self._notify_file = run_directory / f"{name}.notify"
        self._notify_file.unlink(missing_ok=True)
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.setblocking(False)
        self._notify.bind(str(self._notify_file))
        command = [sys.executable, "-m", "drupelet.cli.daemon"]
        self._process = subprocess.Popen(  # in trio's own thread: PR_SET_PDEATHSIG follows a thread
            [*command, "--config", str(config), "--parent", str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ | {"NOTIFY_SOCKET": str(self._notify_file), "PYTHONUNBUFFERED": "1"},
        )
        self._pidfd = os.pidfd_open(self._process.pid)

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    async def run(self) -> None:
        """Show the log, notice readiness and the end; returns when the process has ended."""
        assert self._process.stdout is not None
        with self._process.stdout, self._notify:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._wait_notified)
                async with trio.lowlevel.FdStream(os.dup(self._process.stdout.fileno())) as log:
                    nursery.start_soon(self._show_log, log)
                    await trio.lowlevel.wait_readable(self._pidfd)
                    self._process.wait()
                    with trio.move_on_after(LAST_WORDS_S):
                        await self._log_ended.wait()
                    nursery.cancel_scope.cancel()
        self._notify_file.unlink(missing_ok=True)
        self.ended.set()

    async def wait_ready(self) -> bool:
        """Wait until it serves; False when it ended or took longer than READY_S."""
        with trio.move_on_after(READY_S):
            async with trio.open_nursery() as nursery:

                async def first(event: trio.Event) -> None:
                    await event.wait()
                    nursery.cancel_scope.cancel()

                nursery.start_soon(first, self._ready)
                nursery.start_soon(first, self.ended)
        return self._ready.is_set() and not self.ended.is_set()

    async def stop(self) -> None:
        """SIGTERM, STOP_S of patience, SIGKILL."""
        pidfd = os.dup(self._pidfd)  # `run` may wait on the other one, or may have been cancelled
        try:
            for number in (signal.SIGTERM, signal.SIGKILL):
                if self._process.poll() is None:
                    self._process.send_signal(number)
                    with trio.move_on_after(STOP_S):
                        await trio.lowlevel.wait_readable(pidfd)
        finally:
            self._process.poll()
            os.close(pidfd)
            self._notify_file.unlink(missing_ok=True)

    def how_it_ended(self) -> str:
        """``was killed by SIGKILL``, ``ended with exit code 78``."""
        code = self._process.returncode
        if code is None:
            return "runs"
        if code < 0:
            return f"was killed by {signal.Signals(-code).name}"
        return f"ended with exit code {code}"

    async def _wait_notified(self) -> None:
        while True:
            await trio.lowlevel.wait_readable(self._notify.fileno())
            message = self._notify.recv(4_096)
            if b"READY=1" in message.split(b"\n"):
                self._ready.set()

    async def _show_log(self, log: trio.lowlevel.FdStream) -> None:
        rest = b""
        async for data in log:
            *lines, rest = (rest + data).split(b"\n")
            if len(rest) > _LINE_BYTES_MAX:
                lines, rest = [*lines, rest], b""
            for line in lines:
                self.say(line.decode(errors="replace"))
        if rest:
            self.say(rest.decode(errors="replace"))
        self._log_ended.set()

    def say(self, text: str) -> None:
        """One line under the node's name."""
        output.line(self._prefix + output.plain(text, None))
