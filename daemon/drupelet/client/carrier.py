"""A client's way to the daemon for processes: a shell, a script or a test is part of the node.

Decides how a runtime (`drupelet.process`) is joined to a trio client: it is the `Transport` of
`process/transport.py`. The daemon takes the client for one more runtime of its node: its processes
have pids, names and links like those of missions, and end for others when the connection does.

    async with open_client() as client:
        carrier = Carrier(client)
        async with open_runtime(carrier) as runtime:
            await carrier.attach(runtime)

Rules: as in `worker/carrier.py`: what is sent in one scheduler pass goes in one CAST; what waits
for the socket waits here, and from CONGESTED_BYTES on senders wait too. Nothing that comes before
the attachment is answered reaches the runtime before it.

Owns: nothing; the client's reader and writer carry it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Protocol

import trio

from drupelet.client.asynchronous import Client
from drupelet.errors import RemoteProtocolError
from drupelet.wire import frames
from drupelet.wire.frames import CAST, frame
from drupelet.wire.limits import FRAGMENT_BYTES_MAX, HELD_BYTES_MAX

CONGESTED_BYTES: Final = 1024 * 1024
PIECE_BYTES_MAX: Final = FRAGMENT_BYTES_MAX - 64
ATTACH_S: Final = 5.0
_SIGNALS_PREFIX: Final = frames.call_body(b"process/signals", b"")


class RuntimeLike(Protocol):
    """What this needs of `process/runtime.py`."""

    def receive(self, data: bytes) -> None: ...

    def attached(
        self, node: str, incarnation: int, serial: int, nodes: Sequence[str] = ()
    ) -> None: ...

    def detached(self, reason: str = "noconnection") -> None: ...


class Carrier:
    """The transport of a client's runtime."""

    def __init__(self, client: Client) -> None:
        self.dropped_count = 0
        self._client = client
        self._runtime: RuntimeLike | None = None
        self._signals: list[bytes] = []
        self._signal_bytes = 0
        self._early: list[bytes] | None = []
        self._drained: trio.Event | None = None
        self._ended = False

    async def attach(
        self, runtime: RuntimeLike, modules: Mapping[str, bytes] | None = None
    ) -> None:
        """Make `runtime` a part of the client's node. `modules`: what it can start for others,
        with digests. Raises: `CallError`."""
        self._runtime = runtime
        self._client.carry(self._receive_signals, self._collect, self._on_end)
        value = await self._client.call(
            "", "process", "attach", dict(modules or {}), timeout=ATTACH_S
        )
        match value:
            case {
                "node": str(node),
                "incarnation": int(incarnation),
                "serial": int(serial),
                "nodes": list(nodes),
            }:
                runtime.attached(node, incarnation, serial, [str(each) for each in nodes])
            case _:
                raise RemoteProtocolError("malformed answer of process/attach")
        early, self._early = self._early, None
        for data in early or ():
            runtime.receive(data)

    # -- what a runtime needs

    @property
    def congested(self) -> bool:
        """Whether so much waits that senders are to wait too."""
        return self._signal_bytes > CONGESTED_BYTES

    def send(self, signal: bytes) -> None:
        """Queue one signal for the next pass."""
        if self._ended or self._signal_bytes + len(signal) > HELD_BYTES_MAX:
            self.dropped_count += 1  # of a runtime that did not heed `congested`
            return
        if not self._signals:
            self._client.wake_writer()
        self._signals.append(signal)
        self._signal_bytes += len(signal)

    async def wait_sendable(self) -> None:
        """Until the socket took what waited, or the connection is gone."""
        while self.congested:
            if self._drained is None:
                self._drained = trio.Event()
            await self._drained.wait()

    async def call(
        self, node: str, mission: str, function: str, args: Sequence[object], timeout: float
    ) -> object:
        """Call a mission's function; its value. Raises: `CallError`, `NotSendable`."""
        return await self._client.call(node, mission, function, *args, timeout=timeout)

    async def cast(self, node: str, mission: str, function: str, args: Sequence[object]) -> None:
        """Call without an answer. Raises: `NotSendable`."""
        await self._client.cast(node, mission, function, *args)

    # -- what the client calls

    def _receive_signals(self, data: bytes) -> None:
        if self._early is not None:
            self._early.append(data)
        elif self._runtime is not None:
            self._runtime.receive(data)

    def _collect(self) -> bytes:
        """The writer is about to send."""
        if not self._signals:
            return b""
        data = b"".join(self._signals)
        self._signals.clear()
        self._signal_bytes = 0
        self._release()
        pieces = range(0, len(data), PIECE_BYTES_MAX)
        return b"".join(
            frame(CAST, 0, _SIGNALS_PREFIX + data[start : start + PIECE_BYTES_MAX])
            for start in pieces
        )

    def _on_end(self) -> None:
        self._ended = True
        self._signals.clear()
        self._signal_bytes = 0
        self._release()
        if self._runtime is not None and self._early is None:
            self._runtime.detached()

    def _release(self) -> None:
        if self._drained is not None:
            self._drained.set()
            self._drained = None


__all__ = ["Carrier"]
