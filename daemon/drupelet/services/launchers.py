"""Launchers: how a mission worker's process comes to be.

Decides how a process is started, watched and killed; when is `core/missions.py`'s business.

The interface is shaped for two ways. `SubprocessLauncher` starts a child of this process
(development, containers). The systemd one comes later: it connects to the socket of
``drupelet-mission@NAME.service`` and passes `sock` over it (SCM_RIGHTS); its `output` is None since
the journal has the prints. Both leave everything else to the worker's order (`wire/messages/
workers.py`), which travels on `sock`.

What a child gets: `sock` and nothing else of our descriptors, stdin from /dev/null, its prints in a
pipe, a stripped environment, its own session. It limits its own memory and core dumps, and dies
with this process (`worker/sandbox.py`). Network and file system are as ours until the systemd
launcher; that is why `launcher = "subprocess"` is for development.

No fork in this process and no thread: `subprocess.Popen` in trio's own thread uses vfork and takes
1 to 2 ms. A thread would be wrong besides: PR_SET_PDEATHSIG fires when the *thread* that started
the child ends, and trio's worker threads end after 10 s (`trio.run_process` has this trap).
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Final, Protocol

import trio

from drupelet.core.missions import MissionSpec
from drupelet.wire.messages.workers import WorkerOrder

OUTPUT_PIPE_BYTES: Final = 65_536  # Linux's default: a mission that prints more waits


class WorkerProcess(Protocol):
    """One running worker."""

    @property
    def pid(self) -> int: ...

    @property
    def output(self) -> trio.abc.ReceiveStream | None:
        """What it prints; None when somebody else keeps that. The caller closes it."""
        ...

    async def wait(self) -> int:
        """Its exit code, below 0 for a signal. Whatever it left behind is killed then.

        Cancellation: nothing happens to the process; wait again or `kill`.
        """
        ...

    def kill(self) -> None:
        """End it and all that it started, at once. Harmless when it ended already."""
        ...


class Launcher(Protocol):
    """Starts workers."""

    async def start(self, spec: MissionSpec, sock: socket.socket) -> WorkerProcess:
        """Start one that speaks on `sock`, which this call takes over and closes here.

        Raises: `OSError` when it cannot be started.
        """
        ...


class SubprocessLauncher:
    """Workers as child processes."""

    def __init__(self, python: str = sys.executable) -> None:
        self._python = python

    async def start(self, spec: MissionSpec, sock: socket.socket) -> ChildProcess:
        """See `Launcher`."""
        with sock:
            number = sock.fileno()
            sock.setblocking(True)  # the worker's end only: its loop sleeps in recv
            popen = subprocess.Popen(  # noqa: ASYNC220  vfork, 1 to 2 ms; see above
                [
                    self._python,
                    "-I",  # no PYTHON* variables, no user site, no current directory
                    "-c",  # -m would cost runpy: 0.6 MB in each worker
                    "from drupelet.worker.main import main; main()",
                    f"--fd={number}",
                    f"--parent={os.getpid()}",
                    f"--label={spec.label}",
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(number,),
                start_new_session=True,
                cwd="/",
                env=environment(),
            )
        await trio.lowlevel.checkpoint()
        return ChildProcess(popen)


class ChildProcess:
    """One child. Holds a pidfd: no signal handler, no thread, no polling."""

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        assert popen.stdout is not None
        self._popen = popen
        self._pidfd = os.pidfd_open(popen.pid)
        self.pid = popen.pid
        self.output: trio.abc.ReceiveStream | None = trio.lowlevel.FdStream(
            os.dup(popen.stdout.fileno())
        )
        popen.stdout.close()

    async def wait(self) -> int:
        """See `WorkerProcess`."""
        if self._popen.returncode is None:
            if self._pidfd >= 0:
                await trio.lowlevel.wait_readable(self._pidfd)
            self._reap()
        else:
            await trio.lowlevel.checkpoint()
        code = self._popen.returncode
        assert code is not None
        return code

    def kill(self) -> None:
        """See `WorkerProcess`."""
        if self._popen.returncode is None:
            _kill_group(self.pid)

    def _reap(self) -> None:
        """Not before what it left in its group is dead: until it is reaped the number is ours."""
        _kill_group(self.pid)
        self._popen.wait()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)  # it may not have got as far as its own session


def make_order(spec: MissionSpec, shipped: str, state_dir: Path | None) -> WorkerOrder:
    """What the worker of `spec` is told first; its working directory is there then.

    Raises: `OSError` when that cannot be made.
    """
    directory = spec.directory
    if directory == "/" and state_dir is not None:
        directory = str((state_dir / "missions" / spec.label).absolute())
        os.makedirs(directory, mode=0o700, exist_ok=True)
    return WorkerOrder(
        mission=spec.name,
        modules=spec.modules,
        exports=spec.exports,
        memory_bytes=spec.memory_mb * 1024 * 1024,
        directory=directory,
        shipped=shipped,
    )


def environment() -> dict[str, str]:
    """What a worker is told of this machine: where programs are, and that text is UTF-8."""
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": "/nonexistent",
        "MALLOC_ARENA_MAX": "2",  # an arena reserves 64 MiB of the address space that is limited
    }


class FakeProcess:
    """A worker for tests: ends when told to."""

    def __init__(self, pid: int, sock: socket.socket) -> None:
        self.pid = pid
        self.sock = sock
        self.output: trio.abc.ReceiveStream | None = None
        self.killed = False
        self._code: int | None = None
        self._ended = trio.Event()

    async def wait(self) -> int:
        """See `WorkerProcess`."""
        await self._ended.wait()
        assert self._code is not None
        return self._code

    def kill(self) -> None:
        """See `WorkerProcess`."""
        if self._code is None:
            self.killed = True
            self.exit(-signal.SIGKILL)

    def exit(self, code: int) -> None:
        """End it, as a crash would."""
        if self._code is None:
            self._code = code
            self.sock.close()
            self._ended.set()


class FakeLauncher:
    """Launcher for tests: keeps what it started; `failures` next starts raise `OSError`."""

    def __init__(self) -> None:
        self.started: list[tuple[MissionSpec, FakeProcess]] = []
        self.failures = 0
        self.started_one = trio.Event()

    async def start(self, spec: MissionSpec, sock: socket.socket) -> FakeProcess:
        """See `Launcher`."""
        await trio.lowlevel.checkpoint()
        if self.failures:
            self.failures -= 1
            sock.close()
            raise OSError("no process for you")
        process = FakeProcess(1_000 + len(self.started), sock)
        self.started.append((spec, process))
        self.started_one.set()
        self.started_one = trio.Event()
        return process
