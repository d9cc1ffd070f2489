"""The daemon's end of a worker's channel, in plain blocking calls; the worker runs in a thread."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from drupelet.errors import NotPermitted, error_to_fields
from drupelet.wire import frames
from drupelet.wire.codec import dumps, loads
from drupelet.wire.frames import FrameReader
from drupelet.wire.messages import processes as wire
from drupelet.wire.messages.workers import WorkerHello, WorkerOrder, decode_hello
from drupelet.worker import main
from tests.unit.worker.calls import Answers

SECONDS = 20
ATTACHED = {"node": "alice", "incarnation": 7, "serial": 3, "nodes": ["bob"]}


class Daemon:
    """Says yes to attaching (`cluster`) and to every name; else there is no way to the node."""

    def __init__(self, order: WorkerOrder, *, cluster: bool) -> None:
        self._sock, self._theirs = socket.socketpair()
        self._sock.settimeout(SECONDS)
        self._cluster = cluster
        self._order = order
        self._seen = 0
        self._attached = 0
        self.answers = Answers()
        self.asked: list[object] = []  # of the daemon's table of names
        self.code: int | None = None
        self._thread = threading.Thread(target=self._serve)

    def _serve(self) -> None:
        with self._theirs:
            self.code = main.serve(self._theirs, self._order, FrameReader())

    def start(self) -> WorkerHello:
        """The worker's HELLO."""
        self._thread.start()
        while not self.answers.control:
            self._receive()
        hello = decode_hello(self.answers.control[0][1])
        assert isinstance(hello, WorkerHello)
        return hello

    def ask(self, *sent: bytes, count: int = 0) -> Answers:
        """Send, and wait until `count` calls (each, if 0) have an answer."""
        known = len(self.answers.values) + len(self.answers.errors)
        self._sock.sendall(b"".join(sent))
        while len(self.answers.values) + len(self.answers.errors) - known < (count or len(sent)):
            self._receive()
        return self.answers

    def until_end(self) -> int | None:
        """Let it go on until it ends by itself; the exit code."""
        while self._receive():
            pass
        self._thread.join(SECONDS)
        return self.code

    def close(self) -> int | None:
        """End it as a daemon does; the exit code."""
        self._sock.close()
        self._thread.join(SECONDS)
        assert not self._thread.is_alive()
        return self.code

    def _receive(self) -> bool:
        try:
            data = self._sock.recv(65_536)
        except ConnectionResetError:
            return False
        if not data:
            return False
        self.answers.receive(data)
        while self._seen < len(self.answers.control):
            kind, body = self.answers.control[self._seen]
            self._seen += 1
            if kind == frames.CALL:
                self._attach()
            elif kind == frames.CAST:
                self._take_signals(frames.split_call(body).args)
        return True

    def _attach(self) -> None:
        ident = 2 * self._attached + 1  # it is all that a worker calls here
        self._attached += 1
        if self._cluster:
            answer = frames.frame(frames.REPLY, ident, b"\0" + dumps(ATTACHED))
        else:
            answer = frames.frame(frames.ERROR, ident, dumps(error_to_fields(NotPermitted())))
        self._sock.sendall(answer)

    def _take_signals(self, data: bytes) -> None:
        for signal, _ in wire.split_signals(data):
            if signal.kind == wire.ASK:
                self.asked.append(loads(signal.body))
                reply = wire.encode_signal(
                    wire.REPLY, signal.sender, signal.receiver, signal.ref, dumps(["ok", None])
                )
                body = frames.call_body(b"process/signals", reply)
                self._sock.sendall(frames.frame(frames.CAST, 0, body))


@contextmanager
def serving(order: WorkerOrder, *, cluster: bool = False) -> Iterator[Daemon]:
    """A worker in a thread; ended, if it did not end by itself."""
    daemon = Daemon(order, cluster=cluster)
    try:
        yield daemon
    finally:
        daemon.close()
