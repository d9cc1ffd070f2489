"""The functions as a beginner meets them: what they take, give back, and say when they refuse."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

from drupelet import process as api
from drupelet.errors import (
    MailboxFull,
    NameTaken,
    NoConnection,
    NotSendable,
    ProcessDown,
    ReceiveTimeout,
)
from drupelet.process import (
    Down,
    Exit,
    Mailbox,
    NodeDown,
    Pid,
    Ref,
    ask,
    demonitor,
    exit,
    flush,
    is_process_alive,
    link,
    monitor,
    open_scope,
    process_info,
    receive,
    reply,
    self,
    send,
    send_nowait,
    spawn,
    spawn_link,
    spawn_monitor,
    trap_exit,
    unlink,
    whereis,
)
from drupelet.process.current import this_process, this_runtime
from drupelet.wire.limits import NAME_CHARS_MAX, PROCESS_NAME_BYTES_MAX
from tests.unit.process.values import alone
from tests.unit.process.wires import on, open_wires, settle, virtual

PID = Pid("bilbo", 1, 77)
REF = Ref("bilbo", 1, 78)


async def nothing() -> None:
    pass


async def echo() -> None:
    while True:
        pid, value = await receive()
        await send(pid, value)


# -- outside of any process

CALLS: list[tuple[str, Callable[[], Any]]] = [
    ("spawn", lambda: api.spawn(nothing)),
    ("spawn_link", lambda: api.spawn_link(nothing)),
    ("spawn_monitor", lambda: api.spawn_monitor(nothing)),
    ("self", api.self),
    ("node", api.node),
    ("nodes", api.nodes),
    ("is_alive", api.is_alive),
    ("send", lambda: api.send(PID, 1)),
    ("send_nowait", lambda: api.send_nowait(PID, 1)),
    ("receive", api.receive),
    ("flush", api.flush),
    ("ask", lambda: api.ask(PID, 1)),
    ("reply", lambda: api.reply((PID, REF), 1)),
    ("link", lambda: api.link(PID)),
    ("unlink", lambda: api.unlink(PID)),
    ("monitor", lambda: api.monitor(PID)),
    ("demonitor", lambda: api.demonitor(REF)),
    ("trap_exit", api.trap_exit),
    ("exit", lambda: api.exit(PID, "reason")),
    ("register", lambda: api.register("oven")),
    ("unregister", lambda: api.unregister("oven")),
    ("whereis", lambda: api.whereis("oven")),
    ("registered", api.registered),
    ("send_after", lambda: api.send_after(1, PID, 1)),
    ("cancel_timer", lambda: api.cancel_timer(REF)),
    ("read_timer", lambda: api.read_timer(REF)),
    ("is_process_alive", lambda: api.is_process_alive(PID)),
    ("process_info", api.process_info),
    ("processes", api.processes),
    ("monitor_node", lambda: api.monitor_node("bilbo")),
    ("monitor_nodes", api.monitor_nodes),
    ("disconnect_node", lambda: api.disconnect_node("bilbo")),
    ("ping", lambda: api.ping("bilbo")),
]


@pytest.mark.parametrize(("name", "call"), CALLS)
async def test_outside_of_any_process_it_says_how_to_start(
    name: str, call: Callable[[], Any]
) -> None:
    with pytest.raises(RuntimeError, match=r"no process runs here; start with run\(main\)"):
        result = call()
        if inspect.isawaitable(result):
            await result


def test_every_function_is_in_that_list() -> None:
    functions = {name for name in api.__all__ if inspect.isfunction(getattr(api, name))}
    assert functions - {name for name, _ in CALLS} == {"become", "open_scope", "run", "trace"}


# -- spawn

WRONG_SPAWNS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"function": 5}, TypeError, "spawn takes a function, not 5"),
    ({"function": None}, TypeError, "spawn takes a function, not None; write spawn.f, x."),
    ({"function": "no colon"}, ValueError, 'write "module:function"'),
    ({"scope": 5}, TypeError, r"a scope is what open_scope\(\) or open_nursery\(\) gave, not 5"),
    ({"mailbox": 5}, TypeError, r"a mailbox is Mailbox\(limit=..., policy=...\), not 5"),
    ({"name": 5}, TypeError, "a name is text, not 5"),
    ({"name": ""}, ValueError, "'' is not a name; a name has letters"),
    ({"name": "-x"}, ValueError, "'-x' is not a name"),
    ({"name": "x" * (NAME_CHARS_MAX + 1)}, ValueError, f"has {NAME_CHARS_MAX + 1} characters"),
    ({"where": "here"}, ValueError, "where='here' is not known"),
    ({"node": "bilbo"}, NoConnection, "alone: this program is on no node;"),
    ({"node": "bilbo", "name": "x"}, ValueError, "are for processes of this node"),
    ({"node": "bilbo", "mailbox": Mailbox(limit=5)}, ValueError, "are for processes of this node"),
    ({"node": "bilbo", "where": "thread"}, ValueError, "are for processes of this node"),
]


@pytest.mark.parametrize(("options", "error", "text"), WRONG_SPAWNS)
@pytest.mark.parametrize("start", [spawn, spawn_link, spawn_monitor])
def test_a_spawn_that_is_refused_leaves_nothing(
    start: Callable[..., Any], options: dict[str, Any], error: type[Exception], text: str
) -> None:
    async def main() -> None:
        count = len(this_runtime().processes)
        function = options.get("function", lambda: None)
        others = {key: value for key, value in options.items() if key != "function"}
        with pytest.raises(error, match=text):
            await start(function, **others)
        assert len(this_runtime().processes) == count
        assert this_process().relations == 1  # who waits for the first process

    alone(main)


def test_a_function_that_was_called_already() -> None:
    async def main() -> None:
        with pytest.raises(TypeError, match=r"write spawn\(f, x\) and not spawn\(f\(x\)\)"):
            await spawn(nothing())  # type: ignore[arg-type]

    alone(main)  # and no "was never awaited"


@pytest.mark.parametrize("trapping", [False, True])
@pytest.mark.parametrize("start", [spawn, spawn_link, spawn_monitor])
def test_a_name_that_is_taken_is_told_by_the_error_alone(
    start: Callable[..., Any], trapping: bool
) -> None:
    """And not by an exit signal or a Down too: the spawner could not go on."""

    async def main() -> None:
        trap_exit(trapping)
        holder = await spawn(trio.sleep_forever, name="oven")
        ran: list[int] = []
        with pytest.raises(NameTaken, match=f"'oven' is the name of {holder}"):
            await start(ran.append, 1, name="oven")
        await settle()
        with pytest.raises(ReceiveTimeout):
            await receive(timeout=10)
        assert not ran and await whereis("oven") == holder
        assert len(this_runtime().processes) == 2

    alone(main)


@pytest.mark.parametrize("start", [spawn_link, spawn_monitor])
def test_one_more_than_a_process_may_have(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("drupelet.process.kernel.RELATIONS_MAX", 2)

    async def main() -> None:
        await start(trio.sleep_forever)  # the other one is with who waits for the first process
        ran: list[int] = []
        with pytest.raises(ValueError, match="a process has at most 2 links and monitors"):
            await start(ran.append, 1)
        await settle()
        assert not ran and len(this_runtime().processes) == 2

    alone(main)


def test_spawn_link_and_spawn_monitor_hold_from_the_first_moment() -> None:
    async def main() -> None:
        trap_exit(True)
        pid = await spawn_link(exit, "at once")
        assert await receive() == Exit(pid, "at once")
        pid, ref = await spawn_monitor(exit, "at once")
        assert await receive() == Down(ref, pid, "at once")
        assert process_info()["links"] == [] and process_info()["monitors"] == 0

    alone(main)


# -- who and where


def test_alone() -> None:
    async def main() -> None:
        assert api.node() == "nonode@nohost" and api.nodes() == [] and not api.is_alive()
        assert self().node == api.node()
        assert await api.ping("bilbo") == "pang"
        with trio.testing.assert_checkpoints():
            assert await api.ping(api.node()) == "pong"
        assert not await api.disconnect_node("bilbo")
        await api.monitor_node("bilbo")
        down = await receive(timeout=0)
        assert isinstance(down, NodeDown) and down.node == "bilbo"
        with pytest.raises(NoConnection, match="alone"):
            await whereis("oven", "bilbo")

    alone(main)


# -- addresses

NO_ADDRESS: list[object] = [5, None, b"oven", ["oven", "node"], ("a", "b", "c"), ("a", 5), (), REF]


@pytest.mark.parametrize("to", NO_ADDRESS)
def test_what_is_no_address(to: Any) -> None:
    async def main() -> None:
        text = r"a process is a Pid, a name or \(name, node\), not"
        with pytest.raises(TypeError, match=text):
            await send(to, 1)
        with pytest.raises(TypeError, match=text):
            send_nowait(to, 1)
        with pytest.raises(TypeError, match=text):
            await ask(to, 1)
        with pytest.raises(TypeError, match=text):
            api.send_after(1, to, 1)
        with pytest.raises(TypeError, match=text):
            monitor(to)
        if not isinstance(to, Pid):
            for function in (link, unlink, is_process_alive):
                with pytest.raises(TypeError, match="that takes a Pid, not"):
                    function(to)

    alone(main)


@pytest.mark.parametrize("text", ["", "x" * (PROCESS_NAME_BYTES_MAX + 1), "é" * 128, "\ud800"])
def test_names_at_the_bound_of_a_signal(text: str) -> None:
    async def main() -> None:
        async with open_wires() as wires:
            alice = await wires.attach("alice")

            async def client() -> None:
                for to in (text, (text, "bob"), ("oven", text)):
                    with pytest.raises(TypeError, match="a name has 1 to 255 bytes, not"):
                        await send(to, 1)
                    with pytest.raises(TypeError, match="a name has 1 to 255 bytes, not"):
                        monitor(to)
                with pytest.raises(TypeError, match="a name has 1 to 255 bytes, not"):
                    await spawn(nothing, node=text)
                longest = "x" * PROCESS_NAME_BYTES_MAX
                ref = monitor((longest, "bob"))
                assert await receive() == Down(ref, (longest, "bob"), "noconnection")
                assert not process_info()["monitors"]

            await on(alice, client)

    virtual(main)


# -- messages


def test_a_name_that_nobody_has() -> None:
    async def main() -> None:
        for call in (send, ask):
            with pytest.raises(ProcessDown, match="'noproc'"):
                await call("nobody", 1)
        with pytest.raises(ProcessDown, match="'noproc'"):
            send_nowait("nobody", 1)
        await send(("nobody", api.node()), 1)  # as in OTP: nothing
        await send(("nobody", "bilbo"), 1)
        await send(PID, 1)
        send_nowait(PID, 1)

    alone(main)


def test_what_is_no_data_is_refused_before_anything_is_sent() -> None:
    async def main() -> None:
        me = self()
        for to in (me, PID, ("oven", "bilbo")):
            with pytest.raises(NotSendable, match=r'\["call"\]: a function is code'):
                await send(to, {"call": nothing})
            with pytest.raises(NotSendable, match="a set has no order"):
                send_nowait(to, {1, 2})
        for to in (me, PID):
            with pytest.raises(NotSendable, match="an integer beyond 64 bits"):
                api.send_after(1, to, 2**63)
            with pytest.raises(NotSendable, match="this list contains itself"):
                value: list[Any] = []
                value.append(value)
                api.send_after(1, to, value)
        with pytest.raises(NotSendable):
            exit(me, nothing)
        with pytest.raises(NotSendable):
            exit(nothing)
        with pytest.raises(NotSendable):
            await reply((me, REF), nothing)
        assert await flush() == []

    alone(main)


def test_a_message_is_a_copy() -> None:
    async def main() -> None:
        message: dict[str, list[object]] = {"items": [1]}
        await send(self(), message)
        send_nowait(self(), message)
        api.send_after(0, self(), message)
        message["items"].append(2)
        for _ in range(3):
            received = await receive(timeout=1)
            assert received == {"items": [1]}
            received["items"].append(3)

    alone(main)


@pytest.mark.parametrize("caller", [None, PID, (PID,), (PID, 5), (REF, PID), "pid", [PID]])
def test_a_caller_that_is_none(caller: Any) -> None:
    async def main() -> None:
        with pytest.raises(TypeError, match="reply to the `caller` of a Request, not to"):
            await reply(caller, 1)

    alone(main)


def test_flush_takes_what_is_there_and_makes_room() -> None:
    async def main() -> None:
        async def sender(to: Pid) -> None:
            for number in range(6):
                await send(to, number)

        async def small(report: Pid) -> None:
            await spawn(sender, self())
            await settle()
            first = await flush()
            await settle()
            await send(report, first + await flush())

        assert await flush() == []
        await spawn(small, self(), mailbox=Mailbox(limit=2))
        assert await receive(timeout=5) == [0, 1, 2, 3, 4, 5]

    alone(main)


# -- links, monitors, exits


def test_demonitor_and_its_flush() -> None:
    async def main() -> None:
        pid = await spawn(receive)
        ref, other = monitor(pid), monitor(pid)
        assert demonitor(ref) and not demonitor(ref)
        await send(self(), "before")
        await send(pid, "end")
        await settle()
        await send(self(), "after")
        assert not demonitor(other)
        assert not demonitor(other, flush=True)
        assert await flush() == ["before", "after"]
        ref = monitor(await spawn(trio.sleep_forever))
        down = Down(Ref("gandalf", 1, 5), PID, "of another")
        await send(self(), down)
        assert demonitor(ref, flush=True)
        assert not demonitor(Ref("gandalf", 1, 6), flush=True)
        assert await flush() == [down]
        for wrong in (None, 5, PID):
            with pytest.raises(TypeError, match="that takes a Ref, not"):
                demonitor(wrong)  # type: ignore[arg-type]

    alone(main)


def test_who_is_monitored_twice_ends_twice_for_its_watcher() -> None:
    async def main() -> None:
        await spawn(echo, name="oven")
        pid = await whereis("oven")
        assert pid is not None
        refs = [monitor(pid), monitor(pid), monitor("oven"), monitor(("oven", api.node()))]
        exit(pid, "over")
        by_name = ("oven", api.node())
        assert [await receive() for _ in range(4)] == [
            Down(refs[0], pid, "over"),
            Down(refs[1], pid, "over"),
            Down(refs[2], by_name, "over"),
            Down(refs[3], by_name, "over"),
        ]
        ref = monitor("oven")
        assert await receive() == Down(ref, by_name, "noproc")

    alone(main)


def test_trap_exit_says_what_it_was() -> None:
    async def main() -> None:
        assert trap_exit() is False
        assert trap_exit(False) is True
        assert trap_exit("yes") is False  # type: ignore[arg-type]
        assert trap_exit() is True

    alone(main)


def test_unlink_comes_before_an_exit() -> None:
    async def main() -> None:
        pid = await spawn_link(trio.sleep_forever)
        unlink(pid)
        unlink(pid)
        exit(pid, "kill")
        await settle()
        pid = await spawn_link(trio.sleep_forever)
        link(pid)  # again is once
        assert process_info()["links"] == [pid]
        assert process_info(pid)["links"] == [self()]
        trap_exit(True)
        exit(pid, "over")
        assert await receive() == Exit(pid, "over")
        unlink(pid)
        assert await flush() == []

    alone(main)


@pytest.mark.parametrize("args", [(), (1, 2), ("oven", "reason"), (PID, 1, 2), (None, "kill")])
def test_an_exit_that_is_none(args: tuple[object, ...]) -> None:
    async def main() -> None:
        with pytest.raises(TypeError, match=r"write exit\(reason\), or exit\(pid, reason\)"):
            exit(*args)  # type: ignore[call-overload]

    alone(main)


def test_an_exit_to_one_that_is_not_there_is_nothing() -> None:
    async def main() -> None:
        pid = await spawn(nothing)
        await settle()
        exit(pid, "kill")
        exit(PID, "kill")

    alone(main)


def test_sends_to_the_full() -> None:
    async def main() -> None:
        async with open_scope() as scope:
            pid = await spawn(trio.sleep_forever, scope=scope, mailbox=Mailbox(limit=2))
            await send(pid, 1)
            send_nowait(pid, 2)
            with pytest.raises(MailboxFull, match=f"{pid} has 2 messages"):
                send_nowait(pid, 3)
            with pytest.raises(trio.TooSlowError), trio.fail_after(5):
                await send(pid, 3)
            assert process_info(pid)["messages"] == 2
            scope.cancel()

    alone(main)
