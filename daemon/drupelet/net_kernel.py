"""Distribution on and off: make a running program part of this machine's node, and end that.

    from drupelet import is_alive, net_kernel, node, run

    async def main():
        is_alive()                  # False; node() is "nonode@nohost"
        await net_kernel.start()    # "gandalf": the node of the drupeletd on this machine
        ...                         # other nodes reach this program's processes, and it theirs
        await net_kernel.stop()     # False again; the processes here still run and answer

    run(main)

Decides nothing: joins a runtime and a client's connection. Pids that were made while the program
was part of a node stay theirs; for others they are gone when it stops ("noconnection").

References: OTP's `net_kernel:start/1` and `stop/0`, `net_adm`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from os import PathLike

import trio

from drupelet.client import open_client
from drupelet.client.carrier import Carrier
from drupelet.errors import CallError
from drupelet.process.current import this_runtime
from drupelet.process.runtime import Runtime

_log = logging.getLogger("drupelet.net_kernel")
_scopes: dict[Runtime, trio.CancelScope] = {}  # one per runtime, as long as it is part of a node
_joining: set[Runtime] = set()


async def start(socket: str | PathLike[str] | None = None) -> str:
    """Join the node whose daemon listens on `socket` (None: the usual places); its name.

    Raises: `NoConnection` when no daemon answers, `RuntimeError` when the program is part of a
    node already.
    """
    runtime = this_runtime()
    if runtime.transport is not None:
        raise RuntimeError(f"this program is part of {runtime.node} already")
    if runtime in _joining:
        raise RuntimeError("this program is about to be part of a node already")
    former = _scopes.pop(runtime, None)
    if former is not None:
        former.cancel()  # of a daemon that has ended meanwhile
    problems: list[CallError] = []
    _joining.add(runtime)
    try:
        await runtime.nursery.start(_serve, runtime, socket, problems)
    finally:
        _joining.discard(runtime)
    if problems:
        raise problems[0]
    return runtime.node


async def stop() -> bool:
    """Leave the node; False when there was none. What runs here goes on, alone."""
    runtime = this_runtime()
    scope = _scopes.pop(runtime, None)
    if scope is None:
        await trio.lowlevel.checkpoint()
        return False
    joined = runtime.transport is not None  # else its daemon has ended meanwhile
    scope.cancel()
    await trio.lowlevel.checkpoint()
    while runtime.transport is not None:
        await trio.lowlevel.checkpoint()  # it ends within a few passes: nothing there waits
    return joined


class _Joining:
    """A runtime whose signals go to the daemon from the moment when it is part of the node.

    What it sends to elsewhere before is answered as alone: the daemon would not know it.
    """

    def __init__(self, runtime: Runtime, carrier: Carrier) -> None:
        self._runtime = runtime
        self._carrier = carrier

    def receive(self, data: bytes) -> None:
        self._runtime.receive(data)

    def attached(self, node: str, incarnation: int, serial: int, nodes: Sequence[str] = ()) -> None:
        self._runtime.transport = self._carrier
        self._runtime.attached(node, incarnation, serial, nodes)

    def detached(self, reason: str = "noconnection") -> None:
        if self._runtime.transport is self._carrier:
            self._runtime.detached(reason)


async def _serve(
    runtime: Runtime,
    socket: str | PathLike[str] | None,
    problems: list[CallError],
    task_status: trio.TaskStatus[None],
) -> None:
    """Hold the connection. Owns: the client. Cancellation: leaves the node."""
    try:
        async with open_client(socket) as client:
            carrier = Carrier(client)
            joining = _Joining(runtime, carrier)
            try:
                await carrier.attach(joining)
                await _tell_names(runtime)
                with trio.CancelScope() as scope:
                    _scopes[runtime] = scope
                    task_status.started()
                    await trio.sleep_forever()
            finally:
                joining.detached()
    except CallError as error:
        problems.append(error)
        task_status.started()


async def _tell_names(runtime: Runtime) -> None:
    """Names that were registered before hold on the node too, where they are free there."""
    for name, process in list(runtime.names.items()):
        runtime.forget_name(name, process)
        refused = await runtime.register(name, process)
        if refused:
            _log.warning("name_taken %s, going on without it", refused)


__all__ = ["start", "stop"]
