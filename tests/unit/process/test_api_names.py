"""Names and what is known of a process, in a program alone."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import trio

from drupelet import process as api
from drupelet.errors import (
    NameTaken,
    ProcessDown,
)
from drupelet.process import (
    Down,
    Mailbox,
    Pid,
    exit,
    flush,
    is_process_alive,
    monitor,
    process_info,
    processes,
    receive,
    register,
    registered,
    self,
    send,
    spawn,
    unregister,
    whereis,
)
from drupelet.process.current import this_runtime
from drupelet.process.nodes import Nodes
from drupelet.wire.limits import NAME_CHARS_MAX
from tests.unit.process.values import alone
from tests.unit.process.wires import settle

PID = Pid("bilbo", 1, 77)


async def echo() -> None:
    while True:
        pid, value = await receive()
        await send(pid, value)


# -- names


def test_names_of_a_program_alone() -> None:
    async def main() -> None:
        me = self()
        await register("b")
        await register("a")
        pid = await spawn(echo)
        await register("oven", pid)
        assert await registered() == ["a", "b", "oven"]
        assert await whereis("a") == me and await whereis("oven", api.node()) == pid
        assert process_info()["names"] == ["b", "a"]
        for holder in (None, pid):
            with pytest.raises(NameTaken, match=f"'a' is the name of {me}"):
                await register("a", holder)
        await unregister("a")
        with pytest.raises(ProcessDown, match="'noproc'"):
            await unregister("a")
        await register("a", pid)
        await send("a", (me, 1))
        assert await receive() == 1
        exit(pid, "kill")
        await settle()
        assert await registered() == ["b"] and await whereis("a") is None
        with pytest.raises(ProcessDown):
            await register("a", pid)
        with pytest.raises(ProcessDown):
            await register("a", PID)

    alone(main)


@pytest.mark.parametrize("name", ["", "-x", "a b", "é", ".", "a.", "x" * (NAME_CHARS_MAX + 1)])
def test_what_is_no_name(name: str) -> None:
    async def main() -> None:
        with pytest.raises(ValueError, match="a name has letters, digits"):
            await register(name)
        if name:
            assert await whereis(name) is None
        assert await registered() == []

    alone(main)


def test_the_longest_name_and_one_that_is_no_text() -> None:
    async def main() -> None:
        await register("x" * NAME_CHARS_MAX)
        for wrong in (5, None, b"x"):
            with pytest.raises(TypeError, match="a name is text, not"):
                await register(wrong)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="that takes a Pid"):
            await register("y", "x")  # type: ignore[arg-type]

    alone(main)


def test_as_many_names_as_may_be_and_one_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[Nodes.__module__], "PROCESS_NAMES_MAX", 2)

    async def main() -> None:
        await register("a")
        await register("b")
        with pytest.raises(NameTaken, match="has 2 names already"):
            await register("c")
        await unregister("a")
        await register("c")

    alone(main)


def test_a_name_at_the_instant_of_its_holder_s_death() -> None:
    """Who hears of the end finds the name free, and no late clean-up takes it away."""

    async def main() -> None:
        async def heir(report: Pid, holder: Pid) -> None:
            monitor(holder)
            down = await receive(Down)
            await register("oven")
            await send(report, down.reason)
            await receive("end")

        pid = await spawn(trio.sleep_forever, name="oven")
        heirs = [await spawn(heir, self(), pid)]
        await settle()
        exit(pid, "kill")
        with pytest.raises(NameTaken):
            await register("oven")  # it unwinds, and has the name
        assert await receive(timeout=1) == "killed"
        await settle()
        assert await whereis("oven") == heirs[0]
        await send("oven", "end")
        await settle()
        await register("oven")

    alone(main)


# -- information


def test_what_is_known_of_a_process() -> None:
    async def main() -> None:
        pid = await spawn(echo, name="oven", mailbox=Mailbox(limit=5))
        await settle()
        info = process_info(pid)
        assert info["pid"] == pid and info["names"] == ["oven"] and info["status"] == "receive"
        assert info["function"] == f"{__name__}.echo" and info["parent"] == self()
        assert is_process_alive(pid) and is_process_alive(self())
        assert [each["pid"] for each in await processes()] == [self(), pid]
        exit(pid, "kill")
        assert process_info(pid)["status"] == "exiting" and not is_process_alive(pid)
        await settle()
        with pytest.raises(ProcessDown, match="'noproc'"):
            process_info(pid)
        assert not is_process_alive(pid)
        for wrong in (5, "oven"):
            with pytest.raises(TypeError, match="that takes a Pid, not"):
                process_info(wrong)  # type: ignore[arg-type]

    alone(main)


def test_one_of_elsewhere_is_not_known_here() -> None:
    async def main() -> None:
        for function in (is_process_alive, process_info):
            with pytest.raises(ValueError, match="a process of elsewhere; this program knows"):
                function(PID)  # type: ignore[operator]

    alone(main)


NO_TEXTS: list[Any] = [5, None, b"oven", [], PID, "", "x" * 256, "\ud800"]


@pytest.mark.parametrize("text", NO_TEXTS)
def test_what_is_no_text_of_a_name(text: Any) -> None:
    async def main() -> None:
        for function in (whereis, unregister, api.monitor_node, api.ping, api.disconnect_node):
            with pytest.raises(TypeError, match="a name is text, not|a name has 1 to 255 bytes"):
                await function(text)
        if text:
            with pytest.raises(TypeError, match="a name is text, not|a name has 1 to 255 bytes"):
                await whereis("oven", text)
        assert not this_runtime().node_watchers and await flush() == []

    alone(main)
