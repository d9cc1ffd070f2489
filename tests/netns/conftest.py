"""Network namespaces: real kernels' networks, joined by a bridge, gone after each test.

`make_lan(3)` gives three namespaces with one interface each, ``eth0``, at 10.231.0.1, .2, .3 and
link-local IPv6, joined by a bridge in a fourth. Everything carries this process's id in its name,
and the teardown removes everything, also after a failure half-way. Needs root and iproute2.

mDNS needs the route to 224.0.0.0/4, and the loopback up, in each namespace.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator

import pytest

from tests.netns.internet import PROGRAMS, Internet, skip_without
from tests.netns.namespaces import COMMAND_S, REPOSITORY
from tests.netns.namespaces import ip as _ip

_serial = itertools.count()


class Lan:
    """Some namespaces on one bridge. `nodes[i]` is a namespace's name, `address(i)` its IPv4."""

    def __init__(self, node_count: int, *, is_up: bool) -> None:
        self._prefix = f"drp{os.getpid()}x{next(_serial)}"
        self._switch = f"{self._prefix}sw"
        self.nodes = [f"{self._prefix}n{index}" for index in range(node_count)]
        self._children: list[subprocess.Popen[str]] = []
        self._is_up = is_up

    def __enter__(self) -> Lan:
        try:
            self._build()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for child in self._children:
            if child.poll() is None:
                child.send_signal(signal.SIGTERM)
        for child in self._children:
            try:
                child.wait(COMMAND_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
            for stream in (child.stdin, child.stdout):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()
        for name in [*self.nodes, self._switch]:
            with contextlib.suppress(subprocess.SubprocessError):
                _ip("netns", "del", name)

    def address(self, node: int, interface: int = 0) -> str:
        """The IPv4 address of an interface of a node."""
        return f"10.231.{interface}.{node + 1}"

    def ip(self, node: int, *arguments: str) -> None:
        """Run ``ip`` in a node's namespace. Raises: `subprocess.CalledProcessError`."""
        _ip("-n", self.nodes[node], *arguments)

    def set_link(self, node: int, *, is_up: bool) -> None:
        """Plug a node's eth0 in, with its address and the multicast route, or pull it out."""
        if not is_up:
            self.ip(node, "link", "set", "eth0", "down")
            return
        self.ip(node, "link", "set", "eth0", "up")
        self.ip(node, "route", "replace", "224.0.0.0/4", "dev", "eth0")

    def add_interface(self, node: int, interface: int) -> None:
        """One more interface, ``ethN``, in the same subnet and on the same bridge."""
        name = f"eth{interface}"
        self._join(node, name)
        self.ip(node, "addr", "add", f"{self.address(node, interface)}/16", "dev", name)
        self.ip(node, "link", "set", name, "up")

    def spawn(self, node: int, *command: str) -> subprocess.Popen[str]:
        """Start a program in a node's namespace; pipes for its input and output, text lines."""
        child = subprocess.Popen(
            ["ip", "netns", "exec", self.nodes[node], *command],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._children.append(child)
        return child

    def _build(self) -> None:
        _ip("netns", "add", self._switch)
        _ip("-n", self._switch, "link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
        _ip("-n", self._switch, "link", "set", "br0", "up")
        for node, name in enumerate(self.nodes):
            _ip("netns", "add", name)
            self.ip(node, "link", "set", "lo", "up")
            self._join(node, "eth0")
            self.ip(node, "addr", "add", f"{self.address(node)}/16", "dev", "eth0")
            if self._is_up:
                self.set_link(node, is_up=True)

    def _join(self, node: int, name: str) -> None:
        port = f"p{node}{name}"
        peer = ("peer", "name", port, "netns", self._switch)
        _ip("link", "add", name, "netns", self.nodes[node], "type", "veth", *peer)
        _ip("-n", self._switch, "link", "set", port, "master", "br0", "up")


@pytest.fixture
def make_lan() -> Iterator[Callable[..., Lan]]:
    """``make_lan(count, is_up=True)`` -> `Lan`; skips without root or iproute2."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    if shutil.which("ip") is None:
        pytest.skip("network namespaces need iproute2 (apt-get install iproute2)")
    with contextlib.ExitStack() as stack:

        def make(node_count: int, *, is_up: bool = True) -> Lan:
            try:
                return stack.enter_context(Lan(node_count, is_up=is_up))
            except subprocess.CalledProcessError as error:
                pytest.skip(f"no network namespaces here: {error.stderr!r}")

        yield make


@pytest.fixture
def make_internet() -> Iterator[Callable[[int], Internet]]:
    """``make_internet(homes)`` -> `Internet`; skips without root, iproute2, nft or openssl."""
    skip_without(*PROGRAMS)
    with contextlib.ExitStack() as stack:
        yield lambda homes: stack.enter_context(Internet(homes))
