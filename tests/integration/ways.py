"""Ways to a relay: with TLS of its own, and through proxies that do not let WebSockets pass."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.cluster import RealNode

LIMIT_S = 60.0


class TlsRelay:
    """A relay called localhost, whose certificate is in `ca_file`; started and killed at will."""

    def __init__(self, directory: Path, port: int) -> None:
        if shutil.which("openssl") is None:
            pytest.skip("openssl makes the certificate")
        directory.mkdir(exist_ok=True)
        self.directory, self.port = directory, port
        self.ca_file = certificate(directory, "localhost")
        lines = [
            'names = ["localhost"]',
            'state_dir = "state"',
            f'listen = ["127.0.0.1:{port}"]',
            'tls_certificate = "cert.pem"',
            'tls_key = "key.pem"',
        ]
        (directory / "r.toml").write_text("\n".join(["[relay]", *lines, ""]))
        self._process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    def own(self, *words: str) -> str:
        """What the owner's verb prints."""
        done = subprocess.run([*self._command, *words], capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    @property
    def _command(self) -> list[str]:
        file = str(self.directory / "r.toml")
        return [sys.executable, "-m", "drupelet.relay.main", "--config", file]

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None and self._process.stdout.readline()

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None


@contextmanager
def tls_relay(directory: Path, port: int) -> Iterator[TlsRelay]:
    """It runs, and is killed in the end."""
    relay = TlsRelay(directory, port)
    try:
        relay.start()
        yield relay
    finally:
        relay.kill()


def certificate(directory: Path, name: str) -> Path:
    """`cert.pem`, its own authority, and `key.pem`."""
    made = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"
    names = f"-subj /CN={name} -addext subjectAltName=DNS:{name}"
    command = ["openssl", *made.split(), *names.split(), "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run(command, cwd=directory, check=True, capture_output=True)
    return directory / "cert.pem"


class Proxy:
    """Plain HTTP to `port`. `refuses`: answers 403 to an upgrade; else it cuts what is upgraded
    without a word after `cut_s`.
    """

    def __init__(self, port: int, *, refuses: bool, cut_s: float = 0.3) -> None:
        self._to = port
        self._refuses = refuses
        self._cut_s = cut_s
        self.upgrades = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._sockets: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._serve)]
        self._threads[0].start()

    def close(self) -> None:
        """End it, and all that goes through it."""
        for each in (self._listener, *list(self._sockets)):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for thread in self._threads:
            thread.join(10)

    def _start(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._sockets.add(client)
            self._start(self._carry, client)

    def _carry(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            head = client.recv(65_536)
            upgrade = b"upgrade: websocket" in head.lower()
            self.upgrades += upgrade
            if upgrade and self._refuses:
                client.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
            else:
                server = socket.create_connection(("127.0.0.1", self._to))
                self._sockets.add(server)
                server.sendall(head)
                self._start(self._copy, server, client)
                if upgrade:
                    timer = threading.Timer(self._cut_s, self._cut, (client, server))
                    self._threads.append(timer)
                    timer.start()
                self._copy(client, server)
                return
        client.close()

    @staticmethod
    def _copy(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                sink.sendall(data)
        Proxy._cut(source, sink)

    @staticmethod
    def _cut(*sockets: socket.socket) -> None:
        for each in sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


def at_relay(node: RealNode, *lines: str) -> None:
    """Start it again with these lines under [relay]."""
    node.stop()
    folder = node.directory / "conf.d"
    folder.mkdir(exist_ok=True)
    (folder / "relay.toml").write_text("\n".join(["[relay]", *lines, ""]))
    node.start()


def told(node: RealNode) -> dict[str, object]:
    """`drupelet relay`; its exit code is right."""
    result = node.run("--json", "relay")
    found: dict[str, object] = json.loads(result.stdout)
    assert result.returncode == (0 if found["state"] == "up" else 5), result.stdout
    return found


def until(node: RealNode, limit_s: float = LIMIT_S, **wanted: object) -> dict[str, object]:
    """Until `drupelet relay` tells that."""
    give_up = time.monotonic() + limit_s
    while True:
        found = told(node)
        if all(found.get(name) == value for name, value in wanted.items()):
            return found
        assert time.monotonic() < give_up, f"{found}\n{node.log[-3_000:]}"
