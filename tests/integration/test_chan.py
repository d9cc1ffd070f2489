"""S001-10 word by word: `drupelet chan` as a process, guests as processes, sockets of loopback."""

from __future__ import annotations

import base64
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
import trio

from drupelet import chan
from drupelet.errors import EXIT_BAD_CONFIGURATION
from drupelet.process import receive
from drupelet.process.running import open_runtime
from tests.integration.cluster import free_port

pytestmark = pytest.mark.timeout(60)

PASSWORD = "ABXy45"
SOON_S = 0.1  # chan_closed after either side's death
CONF = """\
{{port,{port}}}.
{{service, nameServer, password, "ABXy45", mfa, mod_name_server, start_me_up, notUsed}}.
{{service, watcher, password, "other", mfa, watcher, start, notUsed}}.
"""
# A service of the operator's own, beside the conf: it tells another guest when a chan closed.
WATCHER = """\
import time
from drupelet import receive, send

closed = []

async def start(mm, argument, extra):
    await send(mm, ("send", "here"))
    while True:
        match await receive():
            case ("chan", _, "when"):
                await send(mm, ("send", list(closed)))
            case ("chan", _, "close"):
                await send(mm, "close")
            case ("chan", _, "die"):
                raise SystemExit
            case ("chan_closed", pid):
                if argument == "watched":
                    closed.append([pid == mm, time.monotonic()])
                return
"""
GUEST = """\
import sys
from drupelet import chan, receive, run

async def main():
    mm = await chan.connect("127.0.0.1", int(sys.argv[1]), "watcher", "other", "watched")
    await receive()
    print("in", flush=True)
    await receive("for ever")

run(main)
"""


@contextmanager
def server(directory: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """`drupelet chan` with the conf of the seed, and its port."""
    port = free_port()
    (directory / "watcher.py").write_text(WATCHER)
    conf = directory / "chan.conf"
    conf.write_text(CONF.format(port=port))
    conf.chmod(0o600)
    program = Path(sys.executable).parent / "drupelet"
    with (directory / "log").open("w") as log:
        process = subprocess.Popen(
            [program, "chan", conf], stdout=subprocess.PIPE, stderr=log, text=True
        )
        try:
            assert process.stdout is not None
            assert "serving nameServer, watcher" in process.stdout.readline()
            assert "Ctrl-C" in process.stdout.readline()
            yield process, port
        finally:
            process.kill()
            process.communicate()


@contextmanager
def guest(directory: Path, port: int) -> Iterator[subprocess.Popen[str]]:
    """A guest of the watcher in a process of its own."""
    program = directory / "guest.py"
    program.write_text(GUEST)
    process = subprocess.Popen(
        [sys.executable, program, str(port)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "in\n"
        yield process
    finally:
        process.kill()
        process.communicate()


class Wire:
    """A proxy that keeps every byte that goes through it, as who listens would."""

    def __init__(self, port: int) -> None:
        self.server_port = port
        self.port = 0
        self.bytes = bytearray()

    async def _carry(self, one: trio.SocketStream, two: trio.SocketStream) -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for data in one:
                self.bytes += data
                await two.send_all(data)
            await two.send_eof()

    async def _serve(self, guest: trio.SocketStream) -> None:
        async with guest, await trio.open_tcp_stream("127.0.0.1", self.server_port) as server:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._carry, guest, server)
                nursery.start_soon(self._carry, server, guest)


@asynccontextmanager
async def listening_in(port: int) -> AsyncIterator[Wire]:
    wire = Wire(port)
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    wire.port = listener.socket.getsockname()[1]
    async with listener, trio.open_nursery() as nursery:

        async def accept() -> None:
            while True:
                nursery.start_soon(wire._serve, await listener.accept())

        nursery.start_soon(accept)
        yield wire
        nursery.cancel_scope.cancel()


async def test_s001_10(tmp_path: Path) -> None:
    with server(tmp_path) as (_, port):
        async with open_runtime(), listening_in(port) as wire:
            mm = await chan.connect("localhost", wire.port, "nameServer", PASSWORD, "")
            await chan.cast(mm, ("store", "joe", "writing a book"))
            assert await chan.rpc(mm, ("lookup", "joe")) == ("ok", "writing a book")
            assert await chan.rpc(mm, ("lookup", "jim")) is None
            with pytest.raises(chan.AuthFail, match="^authFail: "):
                await chan.connect("localhost", wire.port, "nameServer", "abxy45", "")
            with pytest.raises(chan.BadService, match="^badService: "):
                await chan.connect("localhost", wire.port, "noServer", PASSWORD, "")
            await chan.close(mm)
    assert len(wire.bytes) > 1_000
    seen = bytes(wire.bytes) + (tmp_path / "log").read_bytes()
    for text in (PASSWORD, "abxy45", "writing a book", "noServer"):
        for form in (text.encode(), text.encode("utf-16-le"), base64.b64encode(text.encode())):
            assert form not in seen
    assert b"nameServer" not in wire.bytes


async def test_the_server_closes(tmp_path: Path) -> None:
    with server(tmp_path) as (_, port):
        async with open_runtime():
            mm = await chan.connect("localhost", port, "watcher", "other", "")
            assert await receive(timeout=5) == ("chan", mm, "here")
            started = time.monotonic()
            await chan.cast(mm, "close")
            assert await receive(timeout=5) == ("chan_closed", mm)
            assert time.monotonic() - started < SOON_S


async def when_closed(port: int) -> list[tuple[bool, float]]:
    """What the watcher noted, as soon as it noted something."""
    mm = await chan.connect("127.0.0.1", port, "watcher", "other", "asking")
    assert await receive(timeout=5) == ("chan", mm, "here")
    with trio.fail_after(5):
        while not (noted := await chan.rpc(mm, "when")):
            pass
    return [(ours, when) for ours, when in noted]


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
async def test_a_guest_that_dies_is_noticed_by_its_service(
    tmp_path: Path, sign: signal.Signals
) -> None:
    with server(tmp_path) as (_, port), guest(tmp_path, port) as dying:
        started = time.monotonic()
        os.kill(dying.pid, sign)
        async with open_runtime():
            [(ours, when)] = await when_closed(port)
        assert ours, '("chan_closed", mm) with the pid that the service was started with'
        assert when - started < (SOON_S if sign == signal.SIGKILL else 1.0)


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
async def test_a_server_that_dies_is_noticed_by_its_guests(
    tmp_path: Path, sign: signal.Signals
) -> None:
    with server(tmp_path) as (process, port):
        async with open_runtime():
            mm = await chan.connect("localhost", port, "watcher", "other", "")
            assert await receive(timeout=5) == ("chan", mm, "here")
            started = time.monotonic()
            process.send_signal(sign)
            assert await receive(timeout=5) == ("chan_closed", mm)
            assert time.monotonic() - started < (SOON_S if sign == signal.SIGKILL else 1.0)
        code = process.wait(10)
        assert code == {signal.SIGKILL: -9, signal.SIGTERM: 0, signal.SIGINT: 130}[sign]


async def test_three_wrong_tries(tmp_path: Path) -> None:
    with server(tmp_path) as (_, port):
        async with open_runtime():
            mm = await chan.connect("127.0.0.1", port, "nameServer", PASSWORD, "")
            for _ in range(3):
                with pytest.raises(chan.AuthFail):
                    await chan.connect("127.0.0.1", port, "nameServer", "guess", "")
            with pytest.raises(chan.AuthFail, match="too many") as caught:
                await chan.connect("127.0.0.1", port, "nameServer", PASSWORD, "")
            assert 55 < caught.value.retry_after_s <= 60
            assert await chan.rpc(mm, ("lookup", "joe")) is None, "who is inside stays"
    log = (tmp_path / "log").read_text()
    assert log.count("wrong password at=127.0.0.1") == 3
    assert "guess" not in log


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{service, broken, password, "p4ss", mfa, mod_name_server}.', ":2: "),
        ("{service broken}.", ":2: "),
        ('{service, x, password, "p4ss", mfa, nowhere, start, []}.', ":2: "),
    ],
)
def test_a_malformed_line_fails_the_start_and_is_named(
    tmp_path: Path, line: str, words: str
) -> None:
    conf = tmp_path / "chan.conf"
    conf.write_text(f"{{port,{free_port()}}}.\n{line}\n")
    conf.chmod(0o600)
    done = subprocess.run(
        [Path(sys.executable).parent / "drupelet", "chan", conf],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == EXIT_BAD_CONFIGURATION
    assert f"chan.conf{words}" in done.stderr
    assert "p4ss" not in done.stderr
