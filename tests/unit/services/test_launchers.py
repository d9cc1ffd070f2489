"""One contract for every launcher; what only a real process can show is in tests/integration."""

from __future__ import annotations

import os
import signal
import socket

import pytest
import trio

from drupelet.core.missions import MissionSpec
from drupelet.services.launchers import (
    ChildProcess,
    FakeLauncher,
    FakeProcess,
    SubprocessLauncher,
    WorkerProcess,
    environment,
)

SPEC = MissionSpec(name="kvs", modules=("kvs",), exports=("store",))

Launchers = SubprocessLauncher | FakeLauncher


@pytest.fixture(params=["subprocess", "fake"])
def launcher(request: pytest.FixtureRequest) -> Launchers:
    return SubprocessLauncher() if request.param == "subprocess" else FakeLauncher()


async def finish(process: WorkerProcess) -> int:
    with trio.fail_after(10):
        code = await process.wait()
    if process.output is not None:
        await process.output.aclose()
    return code


async def test_start_takes_the_socket_over_and_kill_ends_it(launcher: Launchers) -> None:
    ours, theirs = socket.socketpair()
    with ours:
        process = await launcher.start(SPEC, theirs)
        assert process.pid > 0
        if isinstance(process, ChildProcess):
            assert theirs.fileno() == -1
        process.kill()
        process.kill()
        assert await finish(process) == -signal.SIGKILL
        assert await process.wait() == -signal.SIGKILL  # asking again is fine
        process.kill()
        assert ours.recv(1) == b""


async def test_wait_can_be_cancelled_and_asked_again(launcher: Launchers) -> None:
    ours, theirs = socket.socketpair()
    with ours:
        process = await launcher.start(SPEC, theirs)
        with trio.CancelScope() as scope:
            scope.cancel()
            await process.wait()
        assert scope.cancelled_caught
        process.kill()
        assert await finish(process) == -signal.SIGKILL


async def test_a_worker_whose_channel_closes_ends_well() -> None:
    ours, theirs = socket.socketpair()
    process = await SubprocessLauncher().start(SPEC, theirs)
    ours.close()
    assert await finish(process) == 0


async def test_a_program_that_is_not_there() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        with pytest.raises(OSError):
            await SubprocessLauncher("/no/such/python").start(SPEC, theirs)
        assert theirs.fileno() == -1


async def test_the_fake_fails_and_crashes_on_demand() -> None:
    launcher = FakeLauncher()
    launcher.failures = 1
    ours, theirs = socket.socketpair()
    with ours, pytest.raises(OSError):
        await launcher.start(SPEC, theirs)
    ours, theirs = socket.socketpair()
    with ours:
        process = await launcher.start(SPEC, theirs)
        assert isinstance(process, FakeProcess)
        process.exit(7)
        process.exit(8)
        assert await process.wait() == 7


def test_the_environment_is_stripped() -> None:
    assert len(environment()) <= 5
    assert not set(environment()) & ({"USER", "SSH_AUTH_SOCK"} & set(os.environ))
