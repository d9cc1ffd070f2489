"""Behaviours whose users are on another node: names, calls, code by name, lifetimes. Simulated."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from drupelet.errors import NoConnection, NotSendable, ProcessDown, Refused
from drupelet.ladder import simulate
from drupelet.process import (
    Down,
    Exit,
    Pid,
    disconnect_node,
    exit,
    link,
    monitor,
    node,
    receive,
    self,
    send,
    spawn,
    trap_exit,
)
from drupelet.process.children import Child
from drupelet.process.dynamic_supervisor import DynamicSupervisor
from drupelet.process.gen_event import GenEvent
from drupelet.process.gen_server import NOREPLY, GenServer
from drupelet.process.gen_statem import GenStatem
from drupelet.process.registry import Registry
from drupelet.process.supervisor import Supervisor
from drupelet.process.task import Task, TaskSupervisor

NODES = ("gandalf", "bilbo")
Body = Callable[[], Awaitable[Any]]


def on_two_nodes(there: Body, here: Body) -> None:
    """`there` sets something up on bilbo, and `here` uses it on gandalf."""

    async def main(cluster: Any) -> None:
        await cluster.on("bilbo", there)
        await cluster.on("gandalf", here)

    simulate(main, nodes=NODES)


class Counter(GenServer):
    def init(self) -> None:
        self.count = 0
        self.waiting: list[Any] = []

    def add(self, number: int) -> object:
        self.count += number
        return (node(), self.count)

    def later(self) -> object:
        assert self.caller is not None
        self.waiting.append(self.caller)
        return NOREPLY

    def crash(self) -> None:
        raise ValueError("bad")


class Door(GenStatem):
    def init(self) -> str:
        return "shut"

    def shut(self, kind: Any, content: Any) -> Any:
        match kind, content:
            case "cast", "open":
                return "open"
            case "call", _:
                self.postpone()
        return None

    def open(self, kind: Any, content: Any) -> None:
        if kind == "call":
            self.reply((node(), content))


class Teller(GenEvent):
    def init(self, listener: Pid) -> None:
        self.listener = listener

    async def handle_event(self, event: Any) -> None:
        await send(self.listener, (node(), event))
        if event == "crash":
            raise ValueError("bad")

    async def terminate(self, reason: Any) -> str:
        await send(self.listener, ("terminate", reason))
        return "left"


async def wait() -> None:
    await receive("for ever")


async def work(value: Any) -> Any:
    if value == "crash":
        raise ValueError("bad")
    return (node(), value)


def test_servers_and_machines() -> None:
    async def there() -> None:
        await Counter.start(name="counter")
        await Door.start(name="door")

    async def here() -> None:
        counter, door = ("counter", "bilbo"), ("door", "bilbo")
        assert await GenServer.call(counter, "add", 2) == ("bilbo", 2)
        assert await GenServer.call(counter, "add", 2) == ("bilbo", 4)
        await GenStatem.cast(door, "open")
        assert await GenStatem.call(door, "hello") == ("bilbo", "hello")
        monitor(counter)
        with pytest.raises(ProcessDown) as caught:
            await GenServer.call(counter, "crash")
        assert caught.value.reason == ("ValueError", "bad")
        assert (await receive(Down)).reason == ("ValueError", "bad")
        with pytest.raises(ProcessDown):
            await GenServer.call(counter, "add", 1)
        await GenStatem.stop(door)

    on_two_nodes(there, here)


def test_a_call_whose_node_goes_out_of_sight() -> None:
    async def there() -> None:
        await Counter.start(name="counter")

    async def cut() -> None:
        await disconnect_node("bilbo")

    async def here() -> None:
        assert await GenServer.call(("counter", "bilbo"), "add", 1) == ("bilbo", 1)
        await spawn(cut)
        with pytest.raises(NoConnection):
            await GenServer.call(("counter", "bilbo"), "later")

    on_two_nodes(there, here)


def test_children_are_started_elsewhere_by_name() -> None:
    async def there() -> None:
        await spawn(supervise, self())
        await receive("ready")

    async def here() -> None:
        kitchen, guests = ("kitchen", "bilbo"), ("guests", "bilbo")
        pid = await Supervisor.start_child(kitchen, Child("counter", Counter))
        assert pid.node == "bilbo"
        assert await GenServer.call(pid, "add", 1) == ("bilbo", 1)
        with pytest.raises(Refused) as caught:
            await Supervisor.start_child(kitchen, Child("counter", Counter))
        assert caught.value.reason == ("already_started", pid)
        await Supervisor.terminate_child(kitchen, "counter")
        await Supervisor.delete_child(kitchen, "counter")
        guest = await DynamicSupervisor.start_child(guests)
        assert await GenServer.call(guest, "add", 1) == ("bilbo", 1)
        await DynamicSupervisor.terminate_child(guests, guest)
        with pytest.raises(NotSendable):  # code does not travel
            await Supervisor.start_child(kitchen, Child("local", lambda: None))

    on_two_nodes(there, here)


async def supervise(starter: Pid) -> None:
    await DynamicSupervisor.start_link(Counter, name="guests")
    await Supervisor.start_link([], name="kitchen")
    await send(starter, "ready")
    await receive("for ever")


def test_handlers_are_added_from_elsewhere() -> None:
    async def there() -> None:
        await GenEvent.start(name="alarms")

    async def here() -> None:
        alarms = ("alarms", "bilbo")
        await GenEvent.add_sup_handler(alarms, Teller, self())
        assert await GenEvent.which_handlers(alarms) == [f"{__name__}.Teller"]
        await GenEvent.notify(alarms, "smoke")
        assert await receive() == ("bilbo", "smoke")
        await GenEvent.sync_notify(alarms, "crash")
        assert [await receive() for _ in range(3)] == [
            ("bilbo", "crash"),
            ("terminate", ("error", ("ValueError", "bad"))),
            ("gen_event_EXIT", f"{__name__}.Teller", ("ValueError", "bad")),
        ]
        await GenEvent.add_handler(alarms, (Teller, 1), self())
        assert await GenEvent.delete_handler(alarms, (Teller, 1)) == "left"

    on_two_nodes(there, here)


def test_a_supervised_handler_goes_with_its_owner_elsewhere() -> None:
    async def there() -> None:
        await GenEvent.start(name="alarms")

    async def here() -> None:
        owner = await spawn(own_a_handler, self())
        assert await receive() == "added"
        exit(owner, "boom")
        assert await receive() == ("terminate", ("stop", "boom"))

    on_two_nodes(there, here)


async def own_a_handler(listener: Pid) -> None:
    await GenEvent.add_sup_handler(("alarms", "bilbo"), Teller, listener)
    await send(listener, "added")
    await receive("for ever")


def test_tasks_below_a_supervisor_elsewhere() -> None:
    async def there() -> None:
        await spawn(supervise_tasks, self())
        await receive("ready")

    async def here() -> None:
        tasks = ("tasks", "bilbo")
        assert await TaskSupervisor.children(tasks) == []
        task = await TaskSupervisor.async_nolink(tasks, work, "tea")
        assert task.pid.node == "bilbo"
        assert await task == ("bilbo", "tea")
        bad = await TaskSupervisor.async_nolink(tasks, work, "crash")
        assert await Task.yield_(bad) == ("exit", ("ValueError", "bad"))
        trap_exit()
        linked = await TaskSupervisor.async_(tasks, work, "crash")
        with pytest.raises(ProcessDown):
            await linked
        assert (await receive(Exit)).reason == ("ValueError", "bad")
        slow = await TaskSupervisor.async_(tasks, wait)
        assert await Task.shutdown(slow) is None
        assert await TaskSupervisor.children(tasks) == []

    on_two_nodes(there, here)


async def supervise_tasks(starter: Pid) -> None:
    await TaskSupervisor.start_link(name="tasks")
    await send(starter, "ready")
    await receive("for ever")


def test_a_task_whose_node_goes_out_of_sight() -> None:
    async def there() -> None:
        await spawn(supervise_tasks, self())
        await receive("ready")

    async def cut() -> None:
        await receive("cut")
        await disconnect_node("bilbo")

    async def here() -> None:
        tasks = ("tasks", "bilbo")
        task = await TaskSupervisor.async_nolink(tasks, wait)
        await send(await spawn(cut), "cut")
        assert await Task.yield_(task, timeout=60) == ("exit", "noconnection")

    on_two_nodes(there, here)


def test_a_registry_is_used_from_elsewhere_and_forgets_who_ended() -> None:
    async def there() -> None:
        await Registry.start("duplicate", name="topics")

    async def here() -> None:
        topics = ("topics", "bilbo")
        await Registry.register(topics, "weather", 1)
        other = await spawn(stand, topics, self())
        assert await receive() == "stands"
        assert await Registry.lookup(topics, "weather") == [(self(), 1), (other, 2)]
        link(other)
        trap_exit()
        exit(other, "boom")
        await receive(Exit)
        assert await Registry.count(topics) == 1  # its Down took the same way, before this
        assert await Registry.keys(topics, self()) == ["weather"]

    on_two_nodes(there, here)


async def stand(topics: Any, listener: Pid) -> None:
    await Registry.register(topics, "weather", 2)
    await send(listener, "stands")
    await receive("for ever")
