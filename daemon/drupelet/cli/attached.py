"""A program of the command line as a part of the local node: a client and a runtime, joined.

Decides nothing: `client/carrier.py` joins them; this opens and closes both in order.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from drupelet.client import Client, open_client
from drupelet.client.carrier import Carrier
from drupelet.process.running import open_runtime
from drupelet.process.runtime import Runtime


@asynccontextmanager
async def open_attached(socket: str | None) -> AsyncIterator[tuple[Client, Runtime]]:
    """A client of the local node, and a runtime whose processes are processes of that node.

    Raises: `NoConnection` ("no_daemon") and other `CallError`s; what the block raises, as it is.
    """
    failure: Exception | None = None
    async with open_client(socket) as client:
        carrier = Carrier(client)
        async with open_runtime(carrier) as runtime:
            try:
                await carrier.attach(runtime)
                yield client, runtime
            except Exception as error:  # a nursery would make a group of it
                failure = error
    if failure is not None:
        raise failure
