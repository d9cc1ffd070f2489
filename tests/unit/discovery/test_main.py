"""`drupelet-discovery` as a program: how it starts, what it holds, that it ends."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

from drupelet.errors import EXIT_DONE, EXIT_FAILED, EXIT_USAGE
from drupelet.wire.frames import FrameReader
from drupelet.wire.messages import discovery as messages

PROGRAM = [sys.executable, "-I", "-m", "drupelet.discovery"]
ENDED_S = 20.0
RSS_IDLE_KB_MAX = 30 * 1024
NOWHERE = messages.Start(
    key_prefix="abcdefghij234567", name="gandalf", port=4370, interfaces=("nowhere0",)
)


def receive(ours: socket.socket, reader: FrameReader) -> list[messages.Message]:
    received: list[messages.Message] = []
    while not received:
        data = ours.recv(4_096)
        assert data, "the process closed its end"
        received += [messages.decode(frame) for frame in reader.receive_data(data)]
    return received


def test_without_a_socket_it_says_what_to_do() -> None:
    done = subprocess.run(
        PROGRAM, stdin=subprocess.DEVNULL, capture_output=True, timeout=ENDED_S, check=False
    )
    assert done.returncode == EXIT_USAGE
    assert b"standard input is no socket; drupeletd starts this" in done.stderr


def test_without_a_daemon_it_gives_up_in_the_end(tmp_path: Path) -> None:
    program = (
        "import sys; from drupelet.discovery import main; main.CONNECT_TRIES_MAX = 1;"
        f"sys.exit(main.main(['--socket', '{tmp_path}/none']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=ENDED_S,
        check=False,
    )
    assert done.returncode == EXIT_FAILED
    assert b"start drupeletd" in done.stderr


def test_it_is_small_and_ends_when_the_daemon_closes() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(ENDED_S)
        process = subprocess.Popen(PROGRAM, stdin=theirs.fileno(), env={}, cwd="/")
        try:
            theirs.close()
            reader = FrameReader()
            assert receive(ours, reader) == [messages.Hello()]
            ours.sendall(messages.encode(NOWHERE))
            assert receive(ours, reader) == [messages.Report()]
            status = Path(f"/proc/{process.pid}/status").read_text()
            fields = dict(line.split(":", 1) for line in status.splitlines())
            assert int(fields["VmRSS"].split()[0]) <= RSS_IDLE_KB_MAX
            assert fields["Threads"].strip() == "1"
            assert fields["Name"].strip() == "drupelet-mdns"
            maps = Path(f"/proc/{process.pid}/maps")
            if maps.exists() and not _is_hidden(maps):
                assert "_ssl" not in maps.read_text()
            ours.close()
            assert process.wait(ENDED_S) == EXIT_DONE
        finally:
            process.kill()
            process.wait()


def test_it_imports_neither_trio_nor_keys() -> None:
    program = (
        "import sys; import drupelet.discovery.main, drupelet.discovery.process;"
        "print([m for m in sys.modules if m.split('.')[0] in ('trio', 'nacl', 'psutil')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, timeout=ENDED_S, check=True
    )
    assert done.stdout.strip() == b"[]"


def _is_hidden(maps: Path) -> bool:
    try:
        return not maps.read_text()
    except PermissionError:
        return True
