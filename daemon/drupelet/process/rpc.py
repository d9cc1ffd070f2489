"""Calling missions from a process: `rpc.call`, `rpc.cast`, `rpc.multicall`, as in OTP.

Decides the shape only; each call goes through the daemon's one door like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import trio

from drupelet.errors import CallError, NoConnection
from drupelet.process.current import this_runtime
from drupelet.process.transport import Transport

TIMEOUT_S: Final = 5.0


async def call(
    node: str,
    mission: str,
    function: str,
    args: Sequence[object] = (),
    *,
    timeout: float = TIMEOUT_S,
) -> Any:
    """``mission.function(*args)`` on `node`; its value. `timeout` in seconds.

    Raises: `RemoteError` (kind "undef" for what is not there), `NoConnection`, `Timeout`,
    `CodeMismatch`, `NotSendable`.
    """
    return await _transport().call(node, mission, function, args, timeout)


async def cast(node: str, mission: str, function: str, args: Sequence[object] = ()) -> None:
    """As `call`, without waiting for it and without its value. Raises: `NoConnection`."""
    await _transport().cast(node, mission, function, args)


async def multicall(
    nodes: Sequence[str] | None,
    mission: str,
    function: str,
    args: Sequence[object] = (),
    *,
    timeout: float = TIMEOUT_S,
) -> dict[str, Any]:
    """The same call on many nodes at once (None: this and all connected), with one timeout.

    Returns node -> value, or the `CallError` that came instead.
    """
    if isinstance(nodes, str):
        raise TypeError(f"multicall takes a list of nodes: [{nodes!r}]")
    runtime = this_runtime()
    wanted = [runtime.node, *sorted(runtime.nodes)] if nodes is None else list(nodes)
    results: dict[str, Any] = dict.fromkeys(wanted)

    async def one(node: str) -> None:
        try:
            results[node] = await call(node, mission, function, args, timeout=timeout)
        except CallError as error:
            results[node] = error

    async with trio.open_nursery() as nursery:
        for node in results:
            nursery.start_soon(one, node)
    return results


def _transport() -> Transport:
    transport = this_runtime().transport
    if transport is None:
        raise NoConnection("alone")
    return transport
