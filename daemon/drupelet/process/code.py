"""Shipping code from a program: Erlang's ``nl(Module)``.

    from drupelet import code
    import kitchen

    answers = await code.nl(kitchen)       # {"pi1": "loaded", "pi2": RemoteError(...)}

Decides what is sent to this node's daemon, which builds, signs and ships (`services/code.py`): a
module's name, and its source where this process can read the file. Code without a file (it was
shipped itself) is the daemon's own copy.
"""

from __future__ import annotations

import types
from pathlib import Path
from typing import Final

from drupelet.errors import CallError, NoConnection, RemoteError, RemoteProtocolError
from drupelet.process.current import this_runtime

TIMEOUT_S: Final = 120.0  # the daemon loads it here (30 s), then on all members at once (60 s)


async def nl(
    *modules: types.ModuleType | str, mission: str | None = None, timeout: float = TIMEOUT_S
) -> dict[str, str | CallError]:
    """Ship modules to this node and all connected members, as the new code of one mission.

    A module, or the name of a module or mission that this node has. `mission`: when it is not the
    one that has the first module. Returns for each node "loaded", "known" (it runs already), or why
    not. Raises: `CallError` when nothing was shipped, also since it does not load on this node.
    """
    if not modules:
        raise TypeError("nl(module): name at least one module")
    transport = this_runtime().transport
    if transport is None:
        raise NoConnection("alone")
    named = [_named(module) for module in modules]
    answer = await transport.call("", "code", "ship", (named, mission), timeout)
    match answer:
        case {"nodes": dict(nodes)}:
            return {str(node): _outcome(outcome) for node, outcome in nodes.items()}
    raise RemoteProtocolError("malformed answer of code/ship")


def _named(module: types.ModuleType | str) -> list[object]:
    if isinstance(module, str):
        return [module, None]
    if not isinstance(module, types.ModuleType):
        raise TypeError(f"nl takes modules or their names, not {type(module).__name__}")
    file = getattr(module, "__file__", None)
    name = Path(file).stem if file else module.__name__
    try:
        return [name, Path(file).read_bytes() if file else None]
    except OSError:
        return [name, None]


def _outcome(outcome: object) -> str | CallError:
    match outcome:
        case {"ok": True, "state": str(state)}:
            return state
        case {"error": {"kind": str(kind), "message": str(message)}}:
            return RemoteError(kind, message)
    raise RemoteProtocolError("malformed answer of code/ship")
