"""Calls of missions on simulated nodes: their values, their failures, and what a lost link says."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from drupelet import disconnect_node, ping, processes, rpc, self
from drupelet.errors import NoConnection, NotSendable, RemoteError, Timeout
from drupelet.ladder import Cluster, simulate

done: list[object] = []


async def slowly(seconds: float) -> str:
    await trio.sleep(seconds)
    done.append(seconds)
    return "done"


def fails() -> None:
    raise ValueError("bad")


def refuses() -> None:
    raise RemoteError("full", "no room")


def missions(node: str) -> dict[str, dict[str, Any]]:
    return {
        "kitchen": {
            "where": lambda: node,
            "add": lambda one, other: (one, other),
            "slowly": slowly,
            "fails": fails,
            "refuses": refuses,
            "who": lambda: self().node,
            "code": lambda: print,
            "note": done.append,
        }
    }


def at(node: str, program: Any, *args: object) -> Any:
    async def main(cluster: Cluster) -> Any:
        return await cluster.on(node, program, cluster, *args)

    return simulate(main, missions=missions)


@pytest.mark.parametrize("node", ["gandalf", "bilbo"])
def test_values_and_failures_here_and_elsewhere(node: str) -> None:
    async def program(cluster: Cluster) -> None:
        assert await rpc.call(node, "kitchen", "where") == node
        assert await rpc.call(node, "kitchen", "add", [1, (2,)]) == (1, (2,))
        assert await rpc.call(node, "kitchen", "slowly", [1.0]) == "done"
        assert await rpc.call(node, "kitchen", "who") == node
        assert await ping(node) == "pong"
        for function, kind in (
            ("fails", "ValueError: bad"),
            ("refuses", "full: no room"),
            ("missing", f"undef: {node} has no kitchen.missing"),
        ):
            with pytest.raises(RemoteError, match=kind):
                await rpc.call(node, "kitchen", function)
        with pytest.raises((NotSendable, RemoteError), match="function"):
            await rpc.call(node, "kitchen", "code")
        with pytest.raises(NotSendable):
            await rpc.call(node, "kitchen", "add", [print, 1])
        with pytest.raises(Timeout):
            await rpc.call(node, "kitchen", "slowly", [9.0], timeout=0.5)
        assert any("program" in each["function"] for each in await processes("gandalf"))
        assert await processes("bilbo") == []

    at("gandalf", program)


def test_a_cast_has_no_answer() -> None:
    done.clear()

    async def program(cluster: Cluster) -> None:
        for node in ("gandalf", "bilbo", "nobody"):
            await rpc.cast(node, "kitchen", "note", [node])
        await trio.sleep(1)

    at("gandalf", program)
    assert done == ["gandalf", "bilbo"]


def test_a_call_of_nobody_and_over_a_link_that_is_lost() -> None:
    async def program(cluster: Cluster) -> None:
        with pytest.raises(NoConnection):
            await rpc.call("nobody", "kitchen", "where")
        async with trio.open_nursery() as nursery:

            async def lose() -> None:
                await trio.sleep(0.5)
                cluster.drop_links("gandalf", "bilbo")

            nursery.start_soon(lose)
            with pytest.raises(NoConnection) as caught:
                await rpc.call("bilbo", "kitchen", "slowly", [9.0], timeout=60)
            assert caught.value.maybe_ran
        await cluster.wait_connected()
        results = await rpc.multicall(["gandalf", "bilbo", "nobody"], "kitchen", "where")
        assert isinstance(results.pop("nobody"), NoConnection)
        assert results == {"gandalf": "gandalf", "bilbo": "bilbo"}
        assert await disconnect_node("bilbo")

    at("gandalf", program)
