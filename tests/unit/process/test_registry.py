"""Registries: unique and duplicate keys; entries go with their process."""

from __future__ import annotations

from typing import Any

import pytest
import trio.testing

from drupelet.errors import NameTaken, NotSendable, ProcessDown, Refused
from drupelet.process import (
    Down,
    Pid,
    exit,
    flush,
    process_info,
    receive,
    run,
    self,
    send,
    spawn,
    spawn_monitor,
    trap_exit,
    whereis,
)
from drupelet.process.children import Child
from drupelet.process.gen_server import GenServer
from drupelet.process.registry import Registry
from drupelet.process.supervisor import Supervisor
from drupelet.wire.limits import REGISTRY_ENTRIES_MAX

settled = trio.testing.wait_all_tasks_blocked


async def stands(*keys: Any, registry: str = "reg", value: object = None) -> Pid:
    """A process that stands under these keys, until it gets a message."""
    test = self()

    async def live() -> None:
        for key in keys:
            await Registry.register(registry, key, value)
        await send(test, "registered")
        while True:
            match await receive():
                case ("unregister", key):
                    await Registry.unregister(registry, key)
                case ("update", key, new):
                    await Registry.update_value(registry, key, new)
                case "end":
                    return

    pid = await spawn(live)
    await receive("registered")
    return pid


@pytest.mark.parametrize("key", ["word", 7, ("room", 2), b"\0", None, 1.5])
def test_a_unique_key(key: Any) -> None:
    async def main() -> None:
        await Registry.start_link(name="reg")
        assert await Registry.whereis("reg", key) is None
        assert await Registry.lookup("reg", key) == []
        pid = await stands(key, value={"a": 1})
        assert await Registry.whereis("reg", key) == pid
        assert await Registry.lookup("reg", key) == [(pid, {"a": 1})]
        assert await Registry.keys("reg", pid) == [key]
        with pytest.raises(Refused) as caught:
            await Registry.register("reg", key)
        assert caught.value.reason == ("already_registered", pid)
        await send(pid, ("unregister", key))
        await settled()
        await Registry.register("reg", key)
        assert await Registry.whereis("reg", key) == self()
        with pytest.raises(Refused) as caught:
            await Registry.register("reg", key)
        assert caught.value.reason == ("already_registered", self())

    run(main)


def test_duplicate_keys() -> None:
    async def main() -> None:
        await Registry.start_link("duplicate", name="reg")
        first = await stands("a", value=1)
        second = await stands("a", "a", "b", value=2)
        assert await Registry.lookup("reg", "a") == [(first, 1), (second, 2), (second, 2)]
        assert await Registry.keys("reg", second) == ["a", "a", "b"]
        assert await Registry.count("reg") == 4
        await send(second, ("unregister", "a"))
        await settled()
        assert await Registry.lookup("reg", "a") == [(first, 1)]
        with pytest.raises(Refused) as caught:
            await Registry.whereis("reg", "a")
        assert caught.value.reason == "duplicate"

    run(main)


@pytest.mark.parametrize("keys", ["unique", "duplicate"])
def test_entries_go_with_their_process(keys: str) -> None:
    async def main() -> None:
        registry = await Registry.start_link(keys, name="reg")
        one, other = await stands("a", "b"), await stands("c")
        assert process_info(registry)["state"] == {
            "unique": keys == "unique",
            "entries": 3,
            "processes": 2,
        }
        exit(one, "kill")
        await settled()
        assert await Registry.lookup("reg", "a") == []
        assert await Registry.keys("reg", one) == []
        assert await Registry.count("reg") == 1
        await send(other, ("unregister", "c"))
        await settled()
        assert process_info(registry)["monitors"] == 0
        assert process_info(registry)["state"]["processes"] == 0

    run(main)


def test_values_are_changed_by_their_process_only() -> None:
    async def main() -> None:
        await Registry.start_link("duplicate", name="reg")
        pid = await stands("a", value=1)
        await Registry.register("reg", "a", 2)
        await send(pid, ("update", "a", 3))
        await settled()
        assert await Registry.lookup("reg", "a") == [(pid, 3), (self(), 2)]
        with pytest.raises(Refused) as caught:
            await Registry.update_value("reg", "b", 3)
        assert caught.value.reason == "not_registered"
        await Registry.unregister("reg", "b")  # it does not stand there

    run(main)


def test_dispatch_calls_here_with_the_entries() -> None:
    async def main() -> None:
        await Registry.start_link("duplicate", name="reg")
        for number in range(2):
            await Registry.register("reg", "topic", number)
        seen: list[Any] = []

        async def tell(entries: list[Any]) -> None:
            for pid, number in entries:
                await send(pid, ("weather", number))

        await Registry.dispatch("reg", "topic", tell)
        await Registry.dispatch("reg", "topic", seen.append)
        await Registry.dispatch("reg", "nobody", seen.append)
        assert await flush() == [("weather", 0), ("weather", 1)]
        assert seen == [[(self(), 0), (self(), 1)]]

    run(main)


def test_a_server_stands_under_a_key_from_its_start() -> None:
    class Room(GenServer):
        async def init(self, name: str) -> None:
            await Registry.register("reg", name)

        def hello(self) -> str:
            return "hi"

    async def main() -> None:
        await Registry.start_link(name="reg")
        await Room.start("kitchen")
        pid = await Registry.whereis("reg", "kitchen")
        assert pid is not None
        assert await GenServer.call(pid, "hello") == "hi"
        with pytest.raises(ProcessDown, match="already_registered"):
            await Room.start("kitchen")

    run(main)


def test_keys_that_cannot_be() -> None:
    async def main() -> None:
        await Registry.start_link(name="reg")
        for key in (["list"], {"a": 1}, (["list"],)):
            with pytest.raises(Refused) as caught:
                await Registry.register("reg", key)
            assert caught.value.kind == "badarg"
            assert await Registry.lookup("reg", key) == []
            assert await Registry.whereis("reg", key) is None
            await Registry.unregister("reg", key)
        with pytest.raises(NotSendable):
            await Registry.register("reg", object())
        assert await Registry.keys("reg", "no pid") == []  # type: ignore[arg-type]

    run(main)


def test_entries_at_the_maximum_and_one_above(monkeypatch: pytest.MonkeyPatch) -> None:
    assert REGISTRY_ENTRIES_MAX == 65_536
    monkeypatch.setattr("drupelet.process.registry.REGISTRY_ENTRIES_MAX", 2)

    async def main() -> None:
        await Registry.start_link("duplicate", name="reg")
        pid = await stands("a", "a")
        with pytest.raises(Refused) as caught:
            await Registry.register("reg", "b")
        assert caught.value.reason == "system_limit"
        exit(pid, "kill")
        await settled()
        await Registry.register("reg", "b")

    run(main)


def test_starting_and_stopping() -> None:
    async def main() -> None:
        pid = await Registry.start("duplicate", name="reg")
        assert process_info(pid)["links"] == []
        with pytest.raises(NameTaken):
            await Registry.start(name="reg")
        await Registry.stop("reg")
        with pytest.raises(ProcessDown):
            await Registry.count("reg")
        trap_exit()
        with pytest.raises(ProcessDown, match="use 'unique' or 'duplicate'"):
            await Registry.start_link("twice")
        top = await Supervisor.start_link([Child("reg", (Registry, ("duplicate",)), name="reg")])
        await Registry.register("reg", "a")
        exit(await whereis("reg"), "kill")  # type: ignore[arg-type]
        await settled()
        assert await Registry.count("reg") == 0  # who stood there registers again
        await Supervisor.stop(top)

    run(main)


def test_other_messages_do_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        pid = await Registry.start_link(name="reg")
        await send(pid, "hello")
        gone, ref = await spawn_monitor(Registry.register, "reg", "a")
        await receive(Down)
        await send(pid, Down(ref, gone, "boom"))  # not its own
        await Registry.register("reg", "a")
        assert await Registry.count("reg") == 1

    run(main)
    assert "unexpected_message" in caplog.text
