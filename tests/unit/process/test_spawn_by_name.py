"""``spawn("module:function")``, here and elsewhere; a trace of elsewhere that holds at once."""

from __future__ import annotations

import types

import pytest

from drupelet.errors import NotSendable, RemoteError
from drupelet.process import Pid, receive, run, self, send, spawn, spawn_link, spawn_monitor
from drupelet.process.nodes import PROMPT, function_address
from drupelet.process.tracing import trace
from tests.unit.process.wires import on, open_wires, serve, start, virtual


async def greet(to: Pid, word: str) -> None:
    await send(to, (word, self()))


NAME = f"{__name__}:greet"


def test_by_name_here() -> None:
    async def main() -> None:
        me = self()
        for pid in (
            await spawn(NAME, me, "a"),
            await spawn_link(NAME, me, "a"),
            (await spawn_monitor(NAME, me, "a"))[0],
        ):
            assert await receive(("a", pid), timeout=1) == ("a", pid)
        with pytest.raises(RemoteError, match="no module 'nowhere'"):
            await spawn("nowhere:greet", me)
        with pytest.raises(RemoteError, match="no function hello"):
            await spawn(f"{__name__}:hello", me)
        for text in ("greet", "tests:", ":greet", ""):
            with pytest.raises(ValueError, match="module:function"):
                await spawn(text, me)

    run(main)


def test_by_name_elsewhere() -> None:
    async def main() -> None:
        async with open_wires() as wires:
            alice, _ = await wires.attach("alice"), await wires.attach("bob")

            async def client() -> None:
                pid = await spawn_link(NAME, self(), "there", node="bob")
                assert pid.node == "bob"
                assert await receive(timeout=1) == ("there", pid)
                assert (await spawn(NAME, self(), "here", node="alice")).node == "alice"
                with pytest.raises(RemoteError, match="no function hello"):
                    await spawn(f"{__name__}:hello", node="bob")
                with pytest.raises(ValueError, match="of this node"):
                    await spawn(NAME, where="thread", node="bob")

            await on(alice, client)

    virtual(main)


def test_bundled_missions_are_known_by_their_own_name() -> None:
    """A program imports ``drupelet.bundled.dist_demo``; workers announce ``dist_demo``."""

    async def main() -> None:
        async with open_wires() as wires:
            alice, bob = await wires.attach("alice"), await wires.attach("bob")
            bundled = types.FunctionType(greet.__code__, greet.__globals__, "greet")
            bundled.__module__ = "drupelet.bundled.demo"
            asked = []

            def resolve(module: str, name: str, digest: bytes) -> object:
                asked.append((module, name, digest))
                return greet

            bob.resolve = resolve  # type: ignore[assignment]

            async def client() -> None:
                await spawn(bundled, self(), "x", node="bob")

            await on(alice, client)
            assert asked == [("demo", "greet", b"")]

    virtual(main)


def test_what_was_typed_at_a_prompt_is_told_so() -> None:
    typed = types.FunctionType(greet.__code__, greet.__globals__, "typed")
    typed.__module__ = PROMPT
    with pytest.raises(NotSendable, match="nl FILE.py"):
        function_address(typed)


@pytest.mark.parametrize("seed", range(5))
def test_a_trace_of_a_process_elsewhere_holds_when_it_is_opened(seed: int) -> None:
    async def main() -> None:
        async with open_wires(seed) as wires:
            alice, bob = await wires.attach("alice"), await wires.attach("bob")
            pid = await start(bob, serve)

            async def client() -> None:
                async with trace(pid) as events:
                    bob.start(send, (pid, ("end", "bang")))  # over no wire: at once
                    seen = [(event.kind, event.message) async for event in events]
                    assert seen == [("receive", ("end", "bang")), ("exit", "bang")]

            await on(alice, client)

    virtual(main)
