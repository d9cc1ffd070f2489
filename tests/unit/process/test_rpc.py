"""rpc: each call goes to the transport as it is, and comes back as it is."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio

from drupelet.errors import NoConnection, RemoteError, Timeout
from drupelet.process import Pid
from drupelet.process import rpc as rpc_module
from drupelet.process.rpc import TIMEOUT_S, call, cast, multicall
from drupelet.process.running import open_runtime
from drupelet.wire.codec import dumps
from tests.unit.process.values import alone


class Recorder:
    """A transport that answers by node."""

    congested = False

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []
        self.running = self.most = 0
        self.answer: object = None

    def send(self, signal: bytes) -> None: ...

    async def wait_sendable(self) -> None: ...

    async def call(
        self, node: str, mission: str, function: str, args: Sequence[object], timeout: float
    ) -> object:
        self.calls.append((node, mission, function, args, timeout))
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await trio.sleep(1)
        finally:
            self.running -= 1
        if node == "down":
            raise NoConnection("down")
        if node == "broken":
            raise RemoteError("ValueError", "bad")
        if node == "slow":
            raise Timeout(maybe_ran=True)
        if node == "bug":
            raise LookupError("not a CallError")
        return self.answer if self.answer is not None else [node, *args]

    async def cast(self, node: str, mission: str, function: str, args: Sequence[object]) -> None:
        self.calls.append((node, mission, function, args))
        if node == "down":
            raise NoConnection("down")


async def test_a_call(autojump_clock: trio.testing.MockClock) -> None:
    transport = Recorder()
    async with open_runtime(transport):
        assert await call("bob", "kvs", "lookup", ["weather"]) == ["bob", "weather"]
        assert await call("bob", "kvs", "lookup", (1, 2), timeout=7) == ["bob", 1, 2]
        assert transport.calls == [
            ("bob", "kvs", "lookup", ["weather"], TIMEOUT_S),
            ("bob", "kvs", "lookup", (1, 2), 7),
        ]
        for node, error in (("down", NoConnection), ("broken", RemoteError), ("slow", Timeout)):
            with pytest.raises(error):
                await call(node, "kvs", "lookup")


async def test_a_cast() -> None:
    transport = Recorder()
    async with open_runtime(transport):
        await cast("bob", "kvs", "store", ("k", "v"))
        assert transport.calls == [("bob", "kvs", "store", ("k", "v"))]
        with pytest.raises(NoConnection):
            await cast("down", "kvs", "store")


async def test_many_at_once(autojump_clock: trio.testing.MockClock) -> None:
    transport = Recorder()
    async with open_runtime(transport) as runtime:
        runtime.attached("alice", 1, 3)
        runtime.nodes |= {"bob": 1, "carol": 1}
        results = await multicall(["bob", "down", "broken", "slow", "bob"], "kvs", "keys", (1,))
        assert list(results) == ["bob", "down", "broken", "slow"]
        assert results["bob"] == ["bob", 1]
        assert isinstance(results["down"], NoConnection)
        assert isinstance(results["broken"], RemoteError)
        assert isinstance(results["slow"], Timeout)
        assert transport.most == 4 and trio.current_time() == 1
        everywhere = await multicall(None, "kvs", "keys", timeout=3)
        assert everywhere == {"alice": ["alice"], "bob": ["bob"], "carol": ["carol"]}
        assert await multicall([], "kvs", "keys") == {}
        with pytest.raises(TypeError, match=r"takes a list of nodes: \['bob'\]"):
            await multicall("bob", "kvs", "keys")
        with pytest.raises(BaseExceptionGroup):
            await multicall(["bug"], "kvs", "keys")


def test_alone_nobody_can_be_called() -> None:
    async def main() -> None:
        with pytest.raises(NoConnection, match="alone"):
            await call("bob", "kvs", "lookup")
        with pytest.raises(NoConnection, match="alone"):
            await cast("bob", "kvs", "store")
        results = await multicall(["bob"], "kvs", "lookup")
        assert isinstance(results["bob"], NoConnection)

    alone(main)


async def test_outside_of_any_process() -> None:
    for function in (call, cast):
        with pytest.raises(RuntimeError, match="no process runs here"):
            await function("bob", "kvs", "lookup")
    with pytest.raises(RuntimeError, match="no process runs here"):
        await multicall(None, "kvs", "lookup")
    assert (
        rpc_module.TIMEOUT_S == 5 and Pid
    )  # OTP's own is infinity; ours is that of GenServer.call


async def test_idempotency_keys(autojump_clock: trio.testing.MockClock) -> None:
    transport = Recorder()
    transport.answer = dumps(("ok", 1))
    key = b"k" * 16
    async with open_runtime(transport):
        assert await call("bob", "kvs", "store", ["k"], idempotency_key=key, timeout=2) == ("ok", 1)
        await cast("bob", "kvs", "store", ["k"], idempotency_key=key)
    asked = ("bob", "kvs/store", key, dumps(["k"]))
    assert transport.calls == [
        ("", "once", "ask", asked, 2),
        ("", "once", "post", asked, TIMEOUT_S),
    ]
