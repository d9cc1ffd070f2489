"""What the cases of several nodes share: what runs on the others, and how it is started there.

`gandalf` stays up, `bilbo` is killed, `nobody` is not there.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

from drupelet import Pid, rpc, self, spawn, spawn_monitor
from drupelet.errors import NoConnection, RemoteError, Timeout
from tests.oracle.helpers import down, next_message
from tests.oracle.normal import role

FAR = Path(__file__).parent / "far.py"


def _load() -> Any:
    """far.py as a worker loads it: a function's module is what the other node calls it."""
    spec = importlib.util.spec_from_file_location("mission_far", FAR)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


far = _load()

GANDALF, BILBO, NOBODY = "gandalf", "bilbo", "nobody"


async def there() -> Pid:
    return role(await spawn(far.answers, node=GANDALF), "child")


async def dead_there() -> Pid:
    pid, ref = await spawn_monitor(far.ends, node=GANDALF)
    await down(ref)
    return role(pid, "child")


async def named(name: str, where: str = GANDALF) -> Pid:
    pid = await rpc.call(where, "far", "named", (name,))
    assert isinstance(pid, Pid)
    return role(pid, "child")


async def trapping_there() -> Pid:
    pid = await spawn(far.traps, self(), node=GANDALF)
    await next_message(("ready", pid))
    return pid


async def failed(awaitable: Awaitable[object]) -> object:
    """What `rpc:call` gives for an exception: ``{badrpc, Reason}``."""
    try:
        return await awaitable
    except Timeout:
        return ("badrpc", "timeout")
    except NoConnection:
        return ("badrpc", "nodedown")
    except RemoteError as error:
        return ("badrpc", error.kind)
