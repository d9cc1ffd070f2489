"""dist_demo: Armstrong's first distributed program (half of S001-3), between simulated nodes."""

from __future__ import annotations

import os
import sys
from typing import Any

import pytest
import trio
import trio.testing

from drupelet.bundled import dist_demo
from drupelet.errors import ProcessDown
from drupelet.ladder import simulate
from drupelet.process import exit, flush, node, processes, send
from drupelet.process.running import open_runtime


@pytest.fixture(autouse=True)
def as_in_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """The module has the name that workers load it by."""
    monkeypatch.setitem(sys.modules, "dist_demo", dist_demo)


def test_start_elsewhere_and_call() -> None:
    async def run() -> None:
        pid = await dist_demo.start("bilbo")
        assert (node(), pid.node) == ("gandalf", "bilbo")
        assert await dist_demo.rpc(pid, "os", "getpid", []) == os.getpid()  # one simulator
        assert await dist_demo.rpc(pid, "operator", "add", [2, 3]) == 5
        assert await dist_demo.demo("bilbo", "math", "sqrt", [4]) == 2.0

    async def main(cluster: Any) -> None:
        await cluster.wait_connected()
        await cluster.on("gandalf", run)

    simulate(main, ("gandalf", "bilbo"), modules=["dist_demo"])


@pytest.mark.parametrize(
    ("module", "function", "args", "kind"),
    [
        ("no_such_module", "f", [], "ModuleNotFoundError"),
        ("os", "no_such_function", [], "AttributeError"),
        ("math", "sqrt", [-1], "ValueError"),
        ("math", "sqrt", ["x"], "TypeError"),
        ("threading", "Lock", [], "NotSendable"),
    ],
)
async def test_what_goes_wrong_there_is_an_answer(
    module: str, function: str, args: list[object], kind: str
) -> None:
    async with open_runtime():
        pid = await dist_demo.start(node())
        match await dist_demo.rpc(pid, module, function, args):
            case ("EXIT", (word, str())):
                assert word == kind
            case other:
                pytest.fail(f"{other}")
        assert await dist_demo.rpc(pid, "math", "floor", [1.5]) == 1
        assert await flush() == []


async def test_it_does_not_wait_for_the_dead() -> None:
    async with open_runtime():
        pid = await dist_demo.start(node())
        with pytest.raises(ProcessDown) as caught:
            await dist_demo.rpc(pid, "sys", "exit", [3])
        assert caught.value.reason == ("SystemExit", "3")
        with pytest.raises(ProcessDown, match="noproc"):
            await dist_demo.rpc(pid, "os", "getpid", [])
        pid = await dist_demo.start(node())
        exit(pid, "bang")
        with pytest.raises(ProcessDown, match="bang"):
            await dist_demo.rpc(pid, "os", "getpid", [])


async def test_other_messages_do_not_disturb() -> None:
    async with open_runtime():
        pid = await dist_demo.start(node())
        for message in (None, ("rpc", 1), ("rpc", pid, "os"), [], ("rpc", pid, "os", 1, [])):
            await send(pid, message)
        assert await dist_demo.rpc(pid, "math", "floor", [1.5]) == 1


async def test_a_demo_leaves_nothing() -> None:
    async with open_runtime():
        await dist_demo.demo(node(), "os", "getpid", [])
        await trio.testing.wait_all_tasks_blocked()
        assert len(await processes()) == 1
