"""Two `drupelet-relay` processes that keep in step, each to be killed and started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.integration.cluster import free_port
from tests.unit.relay.nodes import NAME, certificate


class RealRelay:
    """One of them: its directory, its port, its process."""

    def __init__(self, directory: Path, *, tls: bool = False) -> None:
        directory.mkdir()
        self.directory = directory
        self.port = free_port()
        self._process: subprocess.Popen[str] | None = None
        self._tls = tls
        if tls:
            certificate(directory, "IP:127.0.0.1")
        self.configure("")
        self.key = self.run("key").strip()

    def configure(self, more: str) -> None:
        """Write its configuration."""
        (self.directory / "r.toml").write_text(
            f'[relay]\nnames = ["{NAME}", "127.0.0.1"]\nstate_dir = "state"\n'
            f'listen = ["127.0.0.1:{self.port}"]\nsends_per_second = 10000\n'
            + ('tls_certificate = "cert.pem"\ntls_key = "key.pem"\n' if self._tls else "")
            + more
        )

    def follow(self, other: RealRelay, more: str = "") -> None:
        """Keep in step with the other."""
        if other._tls:
            more = f'ca_file = "{other.directory / "cert.pem"}"\n{more}'
        self.configure(f'[[relay.peers]]\nurl = "{other.url}"\nkey = "{other.key}"\n{more}')

    @property
    def url(self) -> str:
        return f"http{'s' * self._tls}://127.0.0.1:{self.port}"

    @property
    def _command(self) -> list[str]:
        file = str(self.directory / "r.toml")
        return [sys.executable, "-m", "drupelet.relay.main", "--config", file]

    def run(self, *words: str) -> str:
        """What the owner's verb prints."""
        done = subprocess.run([*self._command, *words], capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self) -> None:
        """Serve."""
        with (self.directory / "log").open("a") as log:
            self._process = subprocess.Popen(
                self._command, stdout=subprocess.PIPE, stderr=log, text=True
            )
        assert self._process.stdout is not None
        assert self._process.stdout.readline().startswith("listening on")

    def kill(self) -> None:
        """As a power cut would, for the process."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process = None

    def stop(self) -> None:
        """End it if it runs."""
        if self._process is not None:
            self.kill()


@contextmanager
def two_relays(directory: Path, *, tls: bool = False) -> Iterator[tuple[RealRelay, RealRelay]]:
    """Configured for each other, and started."""
    first, second = (RealRelay(directory / name, tls=tls) for name in ("a", "b"))
    first.follow(second)
    second.follow(first)
    try:
        first.start()
        second.start()
        yield first, second
    finally:
        for relay in (first, second):
            relay.stop()
            if os.environ.get("SHOW_RELAYS"):
                print((relay.directory / "log").read_text())
