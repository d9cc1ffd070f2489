"""The client library: programs outside the daemon call functions anywhere in the cluster.

Two clients, one protocol (`drupelet.client.protocol`):

- ``async with open_client() as node: await node.call("bilbo", "kvs", "store", "weather", "fine")``
  in a trio program;
- ``with connect() as node: node.call(...)`` in a script: plain blocking sockets. It never imports
  trio, starts in a few milliseconds, and is the faster one for one call at a time.

asyncio programs: call `connect` in a thread. An asyncio `open_client` through anyio was rejected:
the hot path waits on trio's lowest level (`wait_task_rescheduled`), and anyio's portable primitives
cost more than a whole call.

Names are loaded on first use, so that `import drupelet.client` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from drupelet.client.asynchronous import Client, NodeEvents, open_client
    from drupelet.client.blocking import BlockingClient, connect
    from drupelet.client.protocol import NodeDown, NodeEvent, NodeUp

_HOMES = {
    "BlockingClient": "drupelet.client.blocking",
    "Client": "drupelet.client.asynchronous",
    "NodeDown": "drupelet.client.protocol",
    "NodeEvent": "drupelet.client.protocol",
    "NodeEvents": "drupelet.client.asynchronous",
    "NodeUp": "drupelet.client.protocol",
    "connect": "drupelet.client.blocking",
    "open_client": "drupelet.client.asynchronous",
}

__all__ = [
    "BlockingClient",
    "Client",
    "NodeDown",
    "NodeEvent",
    "NodeEvents",
    "NodeUp",
    "connect",
    "open_client",
]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'drupelet.client' has no attribute {name!r}")
    return getattr(importlib.import_module(home), name)
