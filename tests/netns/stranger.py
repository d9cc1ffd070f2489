"""Strangers with grants, without a node: raw links, for what a good node would never send.

    python -m tests.netns.stranger calls ADDRESS PORT CALLS_PER_TICK TICKS RECONNECT FILE...
    python -m tests.netns.stranger attack ADDRESS PORT FILE NODE PID

`calls`: one link for each grant's file, the holder of file N has `seed_of(N)`. On each of TICKS
ticks of 0.1 s each link calls light/on CALLS_PER_TICK times; every RECONNECT ticks (0: never) all
links are made anew. Prints how many were answered with what.

`attack`: presents the grant, then tries what only members may, on its own link: calls, streams, and
signals to the process PID and to the names of NODE. Prints what became of each.

Blocking sockets and the sans-IO machines of `wire`: nothing of the daemon's own code for links.
"""

from __future__ import annotations

import hashlib
import json
import os
import select
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from drupelet.errors import error_from_fields
from drupelet.wire import frames, sodium
from drupelet.wire.codec import dumps, loads
from drupelet.wire.frames import Frame, call_body, frame, split_record
from drupelet.wire.grant_files import decode_grant_file
from drupelet.wire.handshake import ROLE_STRANGER, Initiator, make_credentials
from drupelet.wire.ids import Pid
from drupelet.wire.keys import key_to_text
from drupelet.wire.messages import processes
from drupelet.wire.records import RecordOpener, RecordSealer

WAIT_S = 10.0
TICK_S = 0.1


def seed_of(number: int) -> bytes:
    """The Ed25519 seed of the holder with that number."""
    return hashlib.blake2b(b"stranger %d" % number, digest_size=32).digest()


def key_of(number: int) -> str:
    """Its key, for `drupelet grant --to`."""
    return key_to_text(sodium.ed25519_public(seed_of(number)))


class Link:
    """One link as a stranger, blocking."""

    def __init__(self, address: tuple[str, int], seed: bytes) -> None:
        credentials = make_credentials(
            seed,
            os.urandom(32),
            name="mallory",
            incarnation=time.time_ns(),
            port=4370,
            software="x",
        )
        machine = Initiator(credentials, role=ROLE_STRANGER, ephemeral=os.urandom(32))
        self.sock = socket.create_connection(address, WAIT_S)
        self.sock.sendall(machine.start())
        while machine.established is None:
            data = self.sock.recv(4_096)
            if not data:
                raise ConnectionError("turned away")
            self.sock.sendall(machine.receive_data(data))
        established = machine.established
        self._sealer, self._opener = (
            RecordSealer(established.send),
            RecordOpener(established.receive),
        )
        self._rest = established.rest
        self._ident = 0
        self.answers: dict[int, str] = {}
        self.values: dict[int, object] = {}
        self.closed = False

    def send(self, *parts: bytes) -> None:
        self.sock.sendall(self._sealer.seal(b"".join(parts)))

    def call(self, target: str, *args: object) -> int:
        """Send a CALL; its id."""
        self._ident += 2
        self.send(frame(frames.CALL, self._ident, call_body(target.encode(), dumps(list(args)))))
        return self._ident

    def present(self, file: Path) -> str:
        """Show the grant of a file."""
        grant = decode_grant_file(file.read_text()).grant
        return self.outcome(self.call("grants/present", grant.data, grant.holder, b""))

    def outcome(self, ident: int) -> str:
        """Wait for the answer of one call: "ok", the error's class, or "closed"."""
        deadline = time.monotonic() + WAIT_S
        while ident not in self.answers and not self.closed:
            self.read(max(0.0, deadline - time.monotonic()))
            if time.monotonic() > deadline:
                return "silence"
        return self.answers.get(ident, "closed")

    def read(self, wait_s: float) -> None:
        """Take what has come, within that time; pings are answered."""
        data, self._rest = self._rest, b""
        while data or select.select([self.sock], [], [], wait_s)[0]:
            try:
                data = data or self.sock.recv(65_536)
            except OSError:
                data = b""
            if not data:
                self.closed = True
                return
            for record in self._opener.receive_data(data):
                for each in split_record(record):
                    self._take(each)
            data, wait_s = b"", 0.0

    def _take(self, each: Frame) -> None:
        if each.kind == frames.PING:
            self.send(frame(frames.PONG, each.ident, each.body))
        elif each.kind == frames.REPLY:
            self.answers[each.ident] = "ok"
            self.values[each.ident] = loads(each.body[1:])
        elif each.kind == frames.ERROR:
            error = error_from_fields(loads(each.body))
            self.answers[each.ident] = type(error).__name__
            self.values[each.ident] = str(error)
        elif each.kind == frames.CLOSE:
            self.answers[each.ident] = "closed"


def calls(
    address: tuple[str, int], count: int, ticks: int, reconnect: int, files: list[str]
) -> None:
    """Call at a pace, whatever is answered."""

    def connect() -> list[Link]:
        links = [Link(address, seed_of(number)) for number in range(len(files))]
        for link, file in zip(links, files, strict=True):
            shown = link.present(Path(file))
            assert shown == "ok", shown
        return links

    links = connect()
    outcomes: Counter[str] = Counter()
    idents: list[tuple[Link, int]] = []
    reconnects = 0
    began = time.monotonic()
    for tick in range(ticks):
        if reconnect and tick and tick % reconnect == 0:
            outcomes.update(link.outcome(ident) for link, ident in idents)
            idents.clear()
            for link in links:
                link.sock.close()
            links = connect()
            reconnects += 1
        for link in links:
            idents += [(link, link.call("light/on")) for _ in range(count)]
        while (left := began + (tick + 1) * TICK_S - time.monotonic()) > 0:
            for link in links:
                link.read(left / len(links))
    outcomes.update(link.outcome(ident) for link, ident in idents)
    span_s = time.monotonic() - began
    print(json.dumps({"outcomes": outcomes, "span_s": span_s, "reconnects": reconnects}))


# -- what only members may

CALLS = (
    "node/nodes", "node/status", "node/info", "node/set_cookie", "names/register", "names/whereis",
    "code/load", "code/list", "code/ship", "process/list", "process/attach", "process/signals",
    "process/segment", "grants/issue", "grants/list", "grants/revoke", "grants/merge", "audit/read",
    "light/on", "light/wipe", "alice/light/temp", "bob/light/temp", "/light/temp", "light/temp/",
)  # fmt: skip
STREAMS = ("node/events", "node/nodes", "chan", "process/signals", "process/segment")


def signals(node: str, pid: Pid) -> Iterator[tuple[str, bytes]]:
    """What a process of a member could send."""
    us = Pid("bob", pid.incarnation, (1 << 40) | 1)
    daemon = Pid(node, pid.incarnation, 0)
    spawn = dumps(["wipe", [], b"", {}])
    yield "send", processes.encode_signal(processes.SEND, pid, us, 0, dumps("hello"))
    yield (
        "send by name",
        processes.encode_signal(processes.SEND, daemon, us, 0, dumps("hello"), name="light.Keeper"),
    )
    yield "kill", processes.encode_signal(processes.EXIT_SENT, pid, us, 0, dumps("kill"))
    yield "link", processes.encode_signal(processes.LINK, pid, us)
    yield "exit", processes.encode_signal(processes.EXIT, pid, us, 0, dumps("boom"))
    yield "monitor", processes.encode_signal(processes.MONITOR, pid, us, 4)
    yield "trace", processes.encode_signal(processes.TRACE, pid, us, 0, dumps(True))
    yield "spawn", processes.encode_signal(processes.SPAWN, daemon, us, 6, spawn, name="light")
    register = dumps(["register", "taken", us])
    yield "register", processes.encode_signal(processes.ASK, daemon, us, 8, register)
    yield "gone", processes.encode_signal(processes.GONE, daemon, pid, 0, dumps(["crashed", []]))


def attack(address: tuple[str, int], file: str, node: str, pid: Pid) -> None:
    """Try everything, then call what is granted."""
    link = Link(address, seed_of(0))
    found: dict[str, object] = {"present": link.present(Path(file))}
    answers = {}
    for target in CALLS:
        ident = link.call(target)
        answers[target] = [link.outcome(ident), link.values.get(ident)]
    found["calls"] = answers
    for _, signal in signals(node, pid):
        for cast in (b"process/signals", b"process/segment"):
            for body in (signal, bytes(16) + signal):
                link.send(frame(frames.CAST, 0, call_body(cast, body)))
    found["after signals"] = link.outcome(link.call("light/temp"))
    streams = {}
    for number, name in enumerate(STREAMS):
        ident = 100_000 + 2 * number
        link.send(frame(frames.OPEN, ident, name.encode()))
        streams[name] = link.outcome(ident)
    found["streams"] = streams
    found["at the end"] = link.outcome(link.call("light/temp"))
    print(json.dumps(found))


def main(argv: list[str]) -> None:
    """See above."""
    what, host, port, *rest = argv
    address = (host, int(port))
    if what == "calls":
        count, ticks, reconnect, *files = rest
        calls(address, int(count), int(ticks), int(reconnect), files)
    else:
        file, node, incarnation, number = rest
        attack(address, file, node, Pid(node, int(incarnation), int(number)))


if __name__ == "__main__":
    main(sys.argv[1:])
