"""The internet in namespaces: a public network, homes behind NAT, and a relay that all can reach.

    web  203.0.113.1           the relay, and whoever else is outside
     |-- router 203.0.113.11 -- home 0: 192.168.1.2
     |-- router 203.0.113.12 -- home 1: 192.168.2.2 ...

Each home's router hides it behind its own address (masquerade) and drops what begins outside, as
routers that people buy do. `forward` opens a port; `cut` takes a home's way to somebody away, and
`heal` gives it back. `probe` tells what a TCP connection meets.

A relay (`Relay`) is the real program with a certificate of a test's own authority; nodes
(`at_home`) are real daemons that name it. Needs root, iproute2, nft and openssl.
"""

from __future__ import annotations

import copy
import ctypes
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import IO

import pytest

from drupelet.wire.grant_files import decode_grant_file, encode_grant_file
from tests.integration.cluster import Cluster, RealNode
from tests.netns.namespaces import COMMAND_S, REPOSITORY, ip

WEB = "203.0.113.1"
WEB2 = "203.0.113.2"  # a second relay's
LINK_PORT = 4370
RELAY_PORT = 8443
LIMIT_S = 60.0  # for what takes a second or two on a machine that does nothing else
PROBE_S = 0.7  # a neighbour that is there answers in a millisecond
PROGRAMS = ("ip", "nft", "openssl")
DEBUGGED = ("-m", "drupelet.cli.daemon", "--log-level", "debug")
_CLONE_NEWNET = 0x40000000  # sched.h
_serial = itertools.count()
_RULES = """
table inet filter {
  chain cuts { }
  chain opened { }
  chain forward {
    type filter hook forward priority 0; policy drop;
    jump cuts
    ct state established,related accept
    iifname "inside" accept
    jump opened
  }
  chain input {
    type filter hook input priority 0; policy drop;
    ct state established,related accept
    iifname { "lo", "inside" } accept
    ip protocol icmp accept
  }
}
table ip nat {
  chain opened { }
  chain prerouting { type nat hook prerouting priority -100; jump opened; }
  chain postrouting { type nat hook postrouting priority 100; oifname "outside" masquerade; }
}
"""
_PROBE = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), float(sys.argv[3])).close()
    print("open")
except TimeoutError:
    print("silence")
except OSError as error:
    print(type(error).__name__)
"""


def run(*command: str, given: str | None = None) -> str:
    """A command's output. Raises: `subprocess.CalledProcessError`."""
    done = subprocess.run(
        command, input=given, check=True, timeout=COMMAND_S, capture_output=True, text=True
    )
    return done.stdout


class Internet:
    """A public network and `homes` homes. `with` it."""

    def __init__(self, homes: int) -> None:
        prefix = f"dri{os.getpid()}x{next(_serial)}"
        self.web = f"{prefix}w"
        self.routers = [f"{prefix}r{home}" for home in range(homes)]
        self.homes = [f"{prefix}h{home}" for home in range(homes)]

    def __enter__(self) -> Internet:
        try:
            self._build()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for name in [*self.homes, *self.routers, self.web]:
            with suppress(subprocess.SubprocessError):
                ip("netns", "del", name)

    def public(self, home: int) -> str:
        """The address that the others see of a home."""
        return f"203.0.113.{home + 11}"

    def private(self, home: int) -> str:
        """The address that its node has."""
        return f"192.168.{home + 1}.2"

    def within(self, namespace: str) -> tuple[str, ...]:
        """What runs a command in a namespace."""
        return ("ip", "netns", "exec", namespace)

    def probe(self, namespace: str, host: str, port: int) -> str:
        """What a TCP connection from there meets: "open", "silence" or an error's name."""
        words = (sys.executable, "-c", _PROBE, host, str(port), str(PROBE_S))
        return run(*self.within(namespace), *words).strip()

    def cut(self, home: int, host: str, *, silently: bool = False) -> None:
        """Nothing passes between a home and a host. Not `silently`: connections end at once."""
        rules = []
        for side in ("saddr", "daddr"):
            rule = f"add rule inet filter cuts ip {side} {host}"
            if not silently:
                rules.append(f"{rule} meta l4proto tcp reject with tcp reset")
            rules.append(f"{rule} drop")
        self._nft(home, *rules)
        if not silently:  # a reset goes to who sends next; the one who waits shall hear of it too
            with suppress(subprocess.CalledProcessError):  # a kernel that cannot: it takes longer
                run(*self.within(self.homes[home]), "ss", "-K", "dst", host)

    def heal(self, home: int) -> None:
        """Take every cut of a home back."""
        self._nft(home, "flush chain inet filter cuts")

    def forward(self, home: int, port: int = LINK_PORT) -> None:
        """Open a port of a home's router to its node, as its owner can."""
        to = self.private(home)
        self._nft(
            home,
            f'add rule ip nat opened iifname "outside" tcp dport {port} dnat to {to}:{port}',
            f"add rule inet filter opened ip daddr {to} tcp dport {port} accept",
        )

    def close(self, home: int, *, host: str) -> None:
        """Shut what `forward` opened; what a host has open through it is cut, as by a reboot."""
        self._nft(home, "flush chain ip nat opened", "flush chain inet filter opened")
        self.cut(home, host, silently=True)

    def _nft(self, home: int, *rules: str) -> None:
        run(*self.within(self.routers[home]), "nft", "-f", "-", given="\n".join(rules) + "\n")

    def _build(self) -> None:
        ip("netns", "add", self.web)
        ip("-n", self.web, "link", "set", "lo", "up")
        ip("-n", self.web, "link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
        for host in (WEB, WEB2):
            ip("-n", self.web, "addr", "add", f"{host}/24", "dev", "br0")
        ip("-n", self.web, "link", "set", "br0", "up")
        for home, (router, inside) in enumerate(zip(self.routers, self.homes, strict=True)):
            for name in (router, inside):
                ip("netns", "add", name)
                ip("-n", name, "link", "set", "lo", "up")
            self._join(router, "outside", self.web, f"p{home}", f"{self.public(home)}/24")
            ip("-n", self.web, "link", "set", f"p{home}", "master", "br0", "up")
            gateway = f"192.168.{home + 1}.1"
            self._join(router, "inside", inside, "eth0", f"{gateway}/24")
            ip("-n", inside, "addr", "add", f"{self.private(home)}/24", "dev", "eth0")
            ip("-n", inside, "link", "set", "eth0", "up")
            ip("-n", inside, "route", "add", "default", "via", gateway)
            forwarding = "echo 1 > /proc/sys/net/ipv4/ip_forward"
            run(*self.within(router), "sh", "-c", forwarding)
            self._nft(home, _RULES)

    @staticmethod
    def _join(here: str, name: str, there: str, other: str, address: str) -> None:
        peer = ("peer", "name", other, "netns", there)
        ip("link", "add", name, "netns", here, "type", "veth", *peer)
        ip("-n", here, "addr", "add", address, "dev", name)
        ip("-n", here, "link", "set", name, "up")


def authority(directory: Path, *hosts: str) -> Path:
    """A new authority's certificate, and `cert.pem`, `key.pem` of it for `hosts`, beside."""
    directory.mkdir(parents=True, exist_ok=True)
    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    names = ",".join(f"IP:{host}" for host in hosts)
    (directory / "names").write_text(
        f"subjectAltName={names}\nkeyUsage=digitalSignature\nauthorityKeyIdentifier=keyid\n"
    )
    (directory / "ca.cnf").write_text(
        "[req]\ndistinguished_name=dn\nx509_extensions=ca\nprompt=no\n[dn]\nCN=test\n"
        "[ca]\nbasicConstraints=critical,CA:true\nkeyUsage=keyCertSign\n"
        "subjectKeyIdentifier=hash\n"
    )

    def openssl(*words: str) -> None:
        subprocess.run(
            ["openssl", *words], cwd=directory, check=True, timeout=COMMAND_S, capture_output=True
        )

    config = ("-config", "ca.cnf")
    openssl("req", "-x509", *config, *new, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2")
    openssl("req", *config, *new, "-keyout", "key.pem", "-out", "request")
    signing = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "names")
    openssl("x509", "-req", "-in", "request", "-out", "cert.pem", "-days", "2", *signing)
    return directory / "ca.pem"


class Relay:
    """`drupelet-relay` outside, with TLS. `url` and `ca_file` are for nodes."""

    def __init__(self, internet: Internet, directory: Path, *lines: str, host: str = WEB) -> None:
        self.host, self.port = host, RELAY_PORT
        self.url = f"https://{host}:{self.port}"
        self.directory = directory
        self.ca_file = authority(directory, host)
        self.file = directory / "relay.toml"
        self.configure(*lines)
        self._prefix = internet.within(internet.web)
        self.process: subprocess.Popen[str] | None = None

    def configure(self, *lines: str) -> None:
        """Its file, with `lines` in the section [relay] and behind it."""
        settings = [
            f'names = ["{self.host}"]',
            f'listen = ["{self.host}:{self.port}"]',
            'state_dir = "state"',
            'tls_certificate = "cert.pem"',
            'tls_key = "key.pem"',
            *lines,
        ]
        self.file.write_text("\n".join(["[relay]", *settings, ""]))

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text(errors="replace")

    @property
    def state(self) -> bytes:
        """All that it has on its disk."""
        return b"".join(path.read_bytes() for path in sorted((self.directory / "state").iterdir()))

    def start(self) -> None:
        """Start it, and wait until it listens."""
        command = [sys.executable, "-m", "drupelet.relay.main", "--config", str(self.file)]
        with open(self.directory / "log", "a") as log:
            self.process = subprocess.Popen(
                [*self._prefix, *command, "--log-level", "debug"],
                cwd=REPOSITORY,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.process.stdout is not None
        assert "listening" in self.process.stdout.readline(), self.log

    def kill(self, number: int = signal.SIGKILL) -> None:
        """End it."""
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(COMMAND_S)
            if self.process.stdout is not None:
                self.process.stdout.close()
            self.process = None

    def own(self, *words: str) -> str:
        """A verb of its owner's; what it prints."""
        command = [sys.executable, "-m", "drupelet.relay.main", "--config", str(self.file)]
        return run(*command, *words).strip()

    @contextmanager
    def behind_middlebox(self) -> Iterator[Relay]:
        """The same relay for nodes that reach it through a proxy which WebSockets do not pass."""
        shown = copy.copy(self)
        shown.port = self.port + 1
        shown.url = f"https://{self.host}:{shown.port}"
        files = (str(self.directory / name) for name in ("cert.pem", "key.pem"))
        words = (self.host, str(shown.port), str(self.port), *files)
        with subprocess.Popen(
            [*self._prefix, sys.executable, "-m", "tests.netns.middlebox", *words],
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None and process.stdout.readline()
            try:
                yield shown
            finally:
                process.kill()

    def memory(self) -> bytes:
        """All that it has in its memory now, as far as it may be written."""
        assert self.process is not None
        return memory_of(self.process.pid)

    def metrics(self) -> dict[str, float]:
        """What a monitor reads."""
        found = self.curl("/metrics")
        lines = [line for line in found.splitlines() if line and not line.startswith("#")]
        return {name: float(value) for name, _, value in (line.partition(" ") for line in lines)}

    def curl(self, path: str, *words: str) -> str:
        """One request from outside."""
        command = ("curl", "-sS", "--max-time", "10", "--cacert", str(self.ca_file))
        return run(*self._prefix, *command, *words, self.url + path)


def connect_from(namespace: str, host: str, port: int, timeout_s: float) -> socket.socket:
    """A TCP connection out of a namespace, for this process. Raises: `OSError`."""
    libc = ctypes.CDLL(None, use_errno=True)

    def connect() -> socket.socket:  # a thread has a namespace of its own, and so has a socket
        with open(f"/run/netns/{namespace}") as there:
            if libc.setns(there.fileno(), _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
        return socket.create_connection((host, port), timeout_s)

    with ThreadPoolExecutor(1) as threads:
        return threads.submit(connect).result()


def memory_of(pid: int) -> bytes:
    """The private, writable memory of a process of ours."""
    parts = []
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in maps:
            span, rights, *_ = line.split()
            if not rights.startswith("rw") or rights[3] != "p":
                continue
            start, end = (int(each, 16) for each in span.split("-"))
            parts.append(_read(memory, start, end))
    return b"\0".join(parts)


def _read(memory: IO[bytes], start: int, end: int) -> bytes:
    found = bytearray()
    with suppress(OSError, OverflowError):  # it went meanwhile, or cannot be read
        memory.seek(start)
        while start + len(found) < end:
            part = memory.read(end - start - len(found))
            if not part:
                break
            found += part
    return bytes(found)


def at_home(
    cluster: Cluster,
    internet: Internet,
    relays: Sequence[Relay],
    name: str,
    home: int,
    *,
    missions: dict[str, tuple[str, Sequence[str]]] | None = None,
    cookie: str = "",
    port: int = LINK_PORT,
    lines: Sequence[str] = (),
    **fields: object,
) -> RealNode:
    """A node at home, not started yet. `missions`: name -> (source, exports)."""
    node = cluster.add(
        name,
        missions={},
        prefix=internet.within(internet.homes[home]),
        listen=internet.private(home),
        port=port,
        cookie_file=cluster.directory / f"cookie-{cookie or name}",
        **{"program": DEBUGGED, **fields},
    )
    folder = node.directory / "missions.d"
    folder.mkdir()
    for mission, (source, exports) in (missions or {}).items():
        (folder / f"{mission}.toml").write_text(
            f'module = "{mission}.py"\nexports = {json.dumps(list(exports))}\n'
        )
        (folder / f"{mission}.py").write_text(source)
    if relays:
        authorities = node.directory / "ca.pem"
        authorities.write_text("".join(relay.ca_file.read_text() for relay in relays))
        urls = json.dumps([relay.url for relay in relays])
        text = [f"url = {urls}", f'ca_file = "{authorities}"', *lines]
        (node.directory / "conf.d").mkdir()
        (node.directory / "conf.d" / "relay.toml").write_text("\n".join(["[relay]", *text, ""]))
    return node


def start_all(*nodes: RealNode) -> None:
    """Start them, some at the same time."""
    with ThreadPoolExecutor(3) as threads:
        for started in [threads.submit(node.start) for node in nodes]:
            started.result()


def until(what: Callable[[], object], limit_s: float = LIMIT_S, *, why: str = "") -> object:
    """Ask again until it is true; what it was. Fails after `limit_s`."""
    deadline = time.monotonic() + limit_s
    while True:
        found = what()
        if found:
            return found
        assert time.monotonic() < deadline, why or "it did not come"
        time.sleep(0.05)


def logged(node: RealNode | Relay, words: str, count: int = 1) -> None:
    """Wait until a log has `words` so many times."""
    until(lambda: node.log.count(words) >= count, why=f"{words!r} is not in the log:\n{node.log}")


def at_public_address(file: str, host: str, port: int = LINK_PORT) -> str:
    """The same grant with the address that its node has outside, which the node cannot know."""
    path = Path(file)
    made = decode_grant_file(path.read_text())
    path.write_text(encode_grant_file(replace(made, addresses=((host, port),))))
    return file


def skip_without(*programs: str) -> None:
    """Skip the test where it cannot run."""
    import shutil

    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"needs {program} (apt-get install iproute2 nftables openssl curl)")
