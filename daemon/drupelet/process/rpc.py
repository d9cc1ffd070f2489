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
from drupelet.wire.idempotency import ASK, MISSION, POST, IdempotencyKey, question, value_of

TIMEOUT_S: Final = 5.0


async def call(
    node: str,
    mission: str,
    function: str,
    args: Sequence[object] = (),
    *,
    timeout: float = TIMEOUT_S,
    idempotency_key: IdempotencyKey | None = None,
) -> Any:
    """``mission.function(*args)`` on `node`; its value. `timeout` in seconds.

    Of the calls with one `idempotency_key` one runs, and all get its outcome, for seven days.

    Raises: `RemoteError` (kind "undef" for what is not there), `NoConnection`, `Timeout`,
    `CodeMismatch`, `NotSendable`.
    """
    if idempotency_key is not None:
        asked = question(node, mission, function, args, idempotency_key)
        return value_of(await _transport().call("", MISSION, ASK, asked, timeout))
    return await _transport().call(node, mission, function, args, timeout)


async def cast(
    node: str,
    mission: str,
    function: str,
    args: Sequence[object] = (),
    *,
    idempotency_key: IdempotencyKey | None = None,
) -> None:
    """As `call`, without waiting for it and without its value. Raises: `NoConnection`.

    With an `idempotency_key` it is on disk when this returns, and runs once, within seven days,
    also when `node` is away now.
    """
    if idempotency_key is not None:
        asked = question(node, mission, function, args, idempotency_key)
        await _transport().call("", MISSION, POST, asked, TIMEOUT_S)
        return
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
