"""A daemon's side of the Unix socket, in a thread: answers from a table, and can misbehave."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from drupelet.errors import CallError, RemoteError, error_to_fields
from drupelet.wire.bodies import Incoming, Outgoing, first_fragment
from drupelet.wire.codec import dumps, loads
from drupelet.wire.frames import (
    CALL,
    CAST,
    CREDIT,
    DATA,
    ERROR,
    FLAG_MORE,
    HELLO,
    OPEN,
    REPLY,
    U32,
    Frame,
    FrameReader,
    frame,
    split_call,
)

WAIT_S = 10.0  # no test waits as long; a hang fails instead of lasting for ever
HELLO_FIELDS = {"role": "daemon", "version": 1, "name": "gandalf", "key": "k1", "software": "0"}
Function = Callable[..., object]


class Silence(Exception):
    """Raised by a function of the table: no answer is sent."""


class Hangup(Exception):
    """Raised by a function of the table: the connection is closed."""


class FakeDaemon:
    """``with FakeDaemon(path, {"//kvs/store": f})``: keys are targets as the client sends them.

    `frames` gets every frame that came, for `wait_frame`. `hello` None: the daemon says nothing.
    """

    def __init__(
        self,
        path: Path,
        functions: dict[str, Function] | None = None,
        hello: dict[str, object] | None = HELLO_FIELDS,
    ) -> None:
        self.path = path
        self.functions = functions or {}
        self.hello = hello
        self.frames: queue.Queue[Frame] = queue.Queue()
        self.connections: list[socket.socket] = []
        self.events_ident = 0
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listening.bind(str(path))
        self._listening.listen()
        self._threads = [threading.Thread(target=self._accept, name="fake daemon")]

    def __enter__(self) -> FakeDaemon:
        self._threads[0].start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self.hang_up()
        for thread in self._threads:
            thread.join(WAIT_S)
            assert not thread.is_alive()

    def hang_up(self) -> None:
        """Close every connection."""
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def send(self, data: bytes) -> None:
        """Bytes of the test's choice to the latest client."""
        self.connections[-1].sendall(data)

    def wait_frame(self, kind: int) -> Frame:
        """The next frame of this kind; others are passed over."""
        while True:
            one = self.frames.get(timeout=WAIT_S)
            if one.kind == kind:
                return one

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            self.connections.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection,), name="fake client")
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError, Hangup):
            if self.hello is not None:
                connection.sendall(frame(HELLO, 0, dumps(self.hello)))
            reader = FrameReader()
            bodies: dict[int, tuple[str, Incoming]] = {}
            replies: dict[int, Outgoing] = {}
            while data := connection.recv(65_536):
                answers: list[bytes] = []
                for one in reader.receive_data(data):
                    self.frames.put(one)
                    answers += self._receive(one, bodies, replies)
                if answers:  # even nothing cannot be sent to a client that went, but it can be read
                    connection.sendall(b"".join(answers))

    def _receive(
        self,
        one: Frame,
        bodies: dict[int, tuple[str, Incoming]],
        replies: dict[int, Outgoing],
    ) -> list[bytes]:
        if one.kind in (CALL, CAST):
            call = split_call(one.body)
            if call.flags & FLAG_MORE:
                bodies[one.ident] = (call.target.decode(), Incoming(call.args))
                return []
            answer = self._run(one.ident, call.target.decode(), call.args, replies)
            return answer if one.kind == CALL else []
        if one.kind == DATA and one.ident in bodies:
            target, incoming = bodies[one.ident]
            whole, credit = incoming.receive(one.ident, one.body)
            if whole is not None:
                del bodies[one.ident]
                return self._run(one.ident, target, whole, replies)
            return [credit] if credit else []
        if one.kind == CREDIT and one.ident in replies:
            replies[one.ident].add_credit(U32.unpack(one.body)[0])
            return list(replies[one.ident].take())
        if one.kind == OPEN:
            self.events_ident = one.ident
        return []

    def _run(
        self, ident: int, target: str, args: bytes, replies: dict[int, Outgoing]
    ) -> list[bytes]:
        function = self.functions.get(target)
        try:
            if function is None:
                raise RemoteError("undef", f"{target} is not exported")
            body = dumps(function(*loads(args)))
        except Silence:
            return []
        except CallError as error:
            return [frame(ERROR, ident, dumps(error_to_fields(error)))]
        flags, fragment = first_fragment(body)
        parts = [frame(REPLY, ident, bytes((flags,)) + fragment)]
        if flags:
            replies[ident] = Outgoing(ident, body)
            parts += replies[ident].take()
        return parts
