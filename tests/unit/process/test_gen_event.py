"""MODEL-6: event managers and their handlers, one feature of OTP's gen_event after the other."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import trio
import trio.testing

from drupelet.errors import (
    NameTaken,
    NotSendable,
    ProcessDown,
    Refused,
    RemoteError,
    Timeout,
)
from drupelet.process import (
    Down,
    Pid,
    ask,
    exit,
    flush,
    is_process_alive,
    monitor,
    process_info,
    receive,
    run,
    self,
    send,
    spawn_monitor,
    whereis,
)
from drupelet.process.children import Child
from drupelet.process.current import this_runtime
from drupelet.process.gen_event import GenEvent, name_of
from drupelet.process.gen_server import Stop
from drupelet.process.supervisor import Supervisor
from drupelet.wire.limits import EVENT_HANDLERS_MAX
from tests.unit.process.servers import virtual

settled = trio.testing.wait_all_tasks_blocked
NAME = f"{__name__}.Teller"


class Teller(GenEvent):
    """Tells `listener` what happens to it."""

    def init(self, listener: Pid, id: object = 0, handed: object = None) -> None:
        self.listener, self.id = listener, id
        if handed is not None:
            this_runtime().send_or_raise(None, listener, (id, "handed", handed))

    async def handle_event(self, event: Any) -> None:
        await send(self.listener, (self.id, event))
        match event:
            case "remove":
                self.remove()
            case ("swap", *args):
                self.swap((Teller, "other"), self.listener, *args, why="a reason")
            case "swap for what fails":
                self.swap(Failing)
            case "crash":
                raise ValueError("bad")
            case "exit":
                exit("gone")
            case "stop":
                raise Stop("stopped")
            case list():
                event.append(self.id)

    def handle_call(self, request: Any) -> Any:
        match request:
            case "crash":
                raise ValueError("bad")
            case "crash of another":
                raise ProcessDown("noproc")
            case "refuse":
                raise RemoteError("no_water", "the kettle is empty")
            case "improper":
                return object()
            case "remove":
                self.remove()
        return (self.id, request)

    async def terminate(self, reason: Any) -> Any:
        await send(self.listener, (self.id, "terminate", reason))
        if reason == "crash":
            raise ValueError("badly ended")
        return ("left by", self.id)


class Informed(Teller):
    async def handle_info(self, message: Any) -> None:
        await send(self.listener, (self.id, "info", message))


class Failing(GenEvent):
    def init(self, how: object = None, *handed: object) -> None:
        match how:
            case "stop":
                raise Stop("no_luck")
            case "exit":
                exit("no_luck")
        raise ValueError("bad")


async def manager(*ids: object) -> Pid:
    """A manager with tellers of these ids."""
    pid = await GenEvent.start()
    for id in ids:
        await GenEvent.add_handler(pid, (Teller, id), self(), id)
    return pid


async def ids(pid: Pid) -> list[object]:
    return [
        name[1] if isinstance(name, tuple) else 0 for name in await GenEvent.which_handlers(pid)
    ]


async def told(pid: Pid) -> list[object]:
    """What was told until the manager waits again."""
    await settled()
    del pid
    return await flush()


# -- handlers come and go


def test_the_newest_handler_is_first() -> None:
    async def main() -> None:
        pid = await manager("a", "b")
        assert await GenEvent.which_handlers(pid) == [(NAME, "b"), (NAME, "a")]
        await GenEvent.notify(pid, 1)
        await GenEvent.notify(pid, 2)
        assert await told(pid) == [("b", 1), ("a", 1), ("b", 2), ("a", 2)]
        await GenEvent.add_handler(pid, Teller, self())
        await GenEvent.add_handler(pid, Teller, self())  # as in OTP: twice the same
        assert await GenEvent.which_handlers(pid) == [NAME, NAME, (NAME, "b"), (NAME, "a")]
        assert process_info(pid)["function"].endswith("GenEvent")
        assert process_info(pid)["state"]["handlers"][3][1]["id"] == "a"

    run(main)


def test_sync_notify_waits() -> None:
    async def main() -> None:
        pid = await manager("a")
        await GenEvent.sync_notify(pid, "hello")
        assert await flush() == [("a", "hello")]

    run(main)


def test_no_handler_sees_what_another_one_does_to_an_event() -> None:
    async def main() -> None:
        pid = await manager("a", "b", "c")
        await GenEvent.sync_notify(pid, [1])
        assert await flush() == [("c", [1]), ("b", [1]), ("a", [1])]

    run(main)


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (("stop",), "no_luck"),
        (("exit",), "no_luck"),
        ((), ("ValueError", "bad")),
        ((1, 2, 3), ("ValueError", "bad")),
    ],
)
def test_a_handler_that_does_not_start(args: tuple[Any, ...], reason: object) -> None:
    async def main() -> None:
        pid = await manager("a")
        with pytest.raises(Refused) as caught:
            await GenEvent.add_handler(pid, Failing, *args)
        assert caught.value.reason == reason
        assert await ids(pid) == ["a"]

    run(main)


def test_deleting_gives_what_terminate_gives() -> None:
    async def main() -> None:
        pid = await manager("a", "b")
        assert await GenEvent.delete_handler(pid, (Teller, "a"), "why") == ("left by", "a")
        assert await GenEvent.delete_handler(pid, (NAME, "b")) == ("left by", "b")
        assert await flush() == [("a", "terminate", "why"), ("b", "terminate", None)]
        assert await ids(pid) == []
        with pytest.raises(Refused) as caught:
            await GenEvent.delete_handler(pid, Teller)
        assert caught.value.reason == "module_not_found"

    run(main)


def test_a_handler_removes_itself() -> None:
    async def main() -> None:
        pid = await manager("a")
        await GenEvent.sync_notify(pid, "remove")
        assert await flush() == [("a", "remove"), ("a", "terminate", "remove_handler")]
        assert await ids(pid) == []
        await GenEvent.add_handler(pid, Teller, self())
        assert await GenEvent.call(pid, Teller, "remove") == (0, "remove")
        assert await ids(pid) == []

    run(main)


def test_calls() -> None:
    async def main() -> None:
        pid = await manager("a", "b")
        assert await GenEvent.call(pid, (Teller, "a"), "question") == ("a", "question")
        with pytest.raises(Refused) as caught:
            await GenEvent.call(pid, Teller, "question")
        assert caught.value.reason == "bad_module"
        with pytest.raises(Refused) as caught:
            await GenEvent.call(pid, (Teller, "a"), "refuse")
        assert caught.value.reason == ("no_water", "the kettle is empty")
        with pytest.raises(Refused) as caught:
            await GenEvent.call(pid, (Teller, "a"), "improper")
        assert caught.value.kind == "NotSendable"
        await GenEvent.add_handler(pid, Silent)
        with pytest.raises(Refused, match="Silent answers nothing"):
            await GenEvent.call(pid, Silent)
        assert await ids(pid) == [0, "b", "a"]

    run(main)


class Silent(GenEvent):
    pass


@pytest.mark.parametrize(
    ("request_", "reason"),
    [("crash", ("ValueError", "bad")), ("crash of another", ("ProcessDown", None))],
)
def test_a_call_that_crashes_takes_the_handler_only(request_: str, reason: Any) -> None:
    async def main() -> None:
        pid = await manager("a", "b")
        with pytest.raises(Refused) as caught:
            await GenEvent.call(pid, (Teller, "a"), request_)
        assert caught.value.reason[0] == reason[0]  # type: ignore[index]
        assert await ids(pid) == ["b"]

    run(main)


def test_a_slow_handler_and_a_call_with_a_timeout() -> None:
    class Slow(GenEvent):
        async def handle_call(self, request: Any) -> Any:
            await trio.sleep(request)
            return "done"

    async def main() -> None:
        pid = await GenEvent.start()
        await GenEvent.add_handler(pid, Slow)
        assert await GenEvent.call(pid, Slow, 4) == "done"
        with pytest.raises(Timeout):
            await GenEvent.call(pid, Slow, 4, timeout=3)

    run(main, clock=virtual())


# -- crashes


@pytest.mark.parametrize(
    ("event", "reason"),
    [("crash", ("ValueError", "bad")), ("exit", "gone"), ("stop", "stopped")],
)
def test_a_crash_takes_the_handler_only(
    event: str, reason: object, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        pid = await manager("good")
        await GenEvent.add_handler(pid, (Teller, "bad"), self(), "bad")
        await GenEvent.delete_handler(pid, (Teller, "good"))
        await GenEvent.add_handler(pid, Informed, self(), "good")
        await flush()
        await GenEvent.sync_notify(pid, event)
        messages = await flush()
        assert ("bad", "terminate", ("error", reason)) in messages
        assert await ids(pid) == []
        assert is_process_alive(pid)

    run(main)
    assert "handler_crashed" in caplog.text


def test_a_terminate_that_fails_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        pid = await manager("a")
        gave = await GenEvent.delete_handler(pid, (Teller, "a"), "crash")
        assert gave == ("EXIT", ("ValueError", "badly ended"))
        assert await ids(pid) == []

    run(main)
    assert "handler_terminate_failed" in caplog.text


# -- swaps


def test_a_handler_is_swapped_for_another_that_gets_what_it_left() -> None:
    async def main() -> None:
        pid = await manager("a", "b")
        await GenEvent.swap_handler(pid, (Teller, "a"), (Teller, "c"), self(), "c", why="why")
        assert await flush() == [("a", "terminate", "why"), ("c", "handed", ("left by", "a"))]
        assert await ids(pid) == ["c", "b"]
        await GenEvent.swap_handler(pid, (Teller, "x"), (Teller, "d"), self(), "d")
        assert await flush() == [("d", "handed", "error")]
        assert await ids(pid) == ["d", "c", "b"]

    run(main)


def test_a_handler_swaps_itself_and_its_place_stays() -> None:
    async def main() -> None:
        pid = await manager("a", "b")
        await GenEvent.delete_handler(pid, (Teller, "b"))
        await GenEvent.add_handler(pid, (Silently, "z"))
        await flush()
        await GenEvent.sync_notify(pid, ("swap", "other"))
        assert await flush() == [
            ("a", ("swap", "other")),
            ("a", "terminate", "a reason"),
            ("other", "handed", ("left by", "a")),
        ]
        assert await ids(pid) == ["z", "other"]

    run(main)


class Silently(GenEvent):
    def handle_event(self, event: Any) -> None:
        pass


def test_a_swap_for_what_does_not_start(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        pid = await manager("a", "b")
        with pytest.raises(Refused):
            await GenEvent.swap_handler(pid, (Teller, "a"), Failing)
        assert await ids(pid) == ["b"]
        await GenEvent.sync_notify(pid, "swap for what fails")
        assert await ids(pid) == []

    run(main)
    assert "handler_not_swapped" in caplog.text


# -- supervised handlers


def test_a_supervised_handler_goes_with_its_owner() -> None:
    async def main() -> None:
        pid, test = await manager("a"), self()

        async def owner() -> None:
            await GenEvent.add_sup_handler(pid, (Teller, "b"), test, "b")
            await receive()

        other, ref = await spawn_monitor(owner)
        await settled()
        assert await ids(pid) == ["b", "a"]
        assert other in process_info(pid)["links"]
        await send(other, "end")
        assert (await receive(Down)).ref == ref
        assert await told(pid) == [("b", "terminate", ("stop", "normal"))]
        assert await ids(pid) == ["a"]

    run(main)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("delete", "normal"),
        ("remove", "normal"),
        ("crash", ("ValueError", "bad")),
        ("stop", "shutdown"),
    ],
)
def test_its_owner_is_told_of_its_end(how: str, reason: object) -> None:
    async def main() -> None:
        pid = await GenEvent.start()
        await GenEvent.add_sup_handler(pid, Teller, self())
        assert process_info()["links"] == [pid]
        if how == "delete":
            await GenEvent.delete_handler(pid, Teller)
        elif how == "stop":
            await GenEvent.stop(pid)
        else:
            await GenEvent.sync_notify(pid, how)
        assert (await told(pid))[-1] == ("gen_event_EXIT", NAME, reason)
        assert process_info()["links"] == []

    run(main)


def test_its_owner_is_told_of_a_swap() -> None:
    async def main() -> None:
        pid = await GenEvent.start()
        await GenEvent.add_sup_handler(pid, Teller, self())
        await GenEvent.sync_notify(pid, ("swap", "other"))
        assert ("gen_event_EXIT", NAME, ("swapped", (NAME, "other"), self())) in await flush()
        await GenEvent.swap_sup_handler(pid, (Teller, "other"), Teller, self())
        await flush()
        await GenEvent.delete_handler(pid, Teller)
        assert (await flush())[-1] == ("gen_event_EXIT", NAME, "normal")

    run(main)


def test_the_link_goes_with_the_last_of_its_handlers() -> None:
    async def main() -> None:
        pid = await GenEvent.start()
        for id in "ab":
            await GenEvent.add_sup_handler(pid, (Teller, id), self())
        await GenEvent.delete_handler(pid, (Teller, "a"))
        assert process_info()["links"] == [pid]
        await GenEvent.delete_handler(pid, (Teller, "b"))
        assert process_info()["links"] == []

    run(main)


def test_a_full_mailbox_does_not_hold_the_manager() -> None:
    from drupelet.process import Mailbox, spawn

    async def main() -> None:
        pid, test = await GenEvent.start(), self()

        async def owner() -> None:
            await GenEvent.add_sup_handler(pid, Silent)
            await receive("go")
            await send(test, (await flush())[-1])

        other = await spawn(owner, mailbox=Mailbox(limit=1))
        await settled()
        await send(other, "fills it")
        await GenEvent.delete_handler(pid, Silent)
        assert is_process_alive(pid)
        await send(other, "go")
        assert (await receive(tuple))[0] == "gen_event_EXIT"

    run(main)


# -- the manager


def test_other_messages_are_handled_as_such(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        pid = await GenEvent.start()
        for handler in (Informed, Silent):
            await GenEvent.add_handler(pid, handler, *([self()] if handler is Informed else []))
        await send(pid, "hello")
        assert await told(pid) == [(0, "info", "hello")]

    with caplog.at_level(logging.WARNING):
        run(main)
    assert "unexpected_message handler=Silent type=str" in caplog.text


def test_a_stop_terminates_the_handlers() -> None:
    async def main() -> None:
        pid = await manager("a", "b")
        monitor(pid)
        await GenEvent.stop(pid)
        *messages, down = await flush()
        assert messages == [("b", "terminate", "stop"), ("a", "terminate", "stop")]
        assert isinstance(down, Down) and down.reason == "normal"
        with pytest.raises(ProcessDown):
            await GenEvent.sync_notify(pid, 1)
        await GenEvent.notify(pid, 1)

    run(main)


def test_its_parents_end_ends_it_and_a_strangers_does_not() -> None:
    async def main() -> None:
        test = self()

        async def parent() -> None:
            pid = await GenEvent.start_link()
            await GenEvent.add_handler(pid, Teller, test)
            await send(test, pid)
            await receive()
            exit("over")

        other, _ = await spawn_monitor(parent)
        pid = await receive(Pid)
        monitor(pid)
        exit(pid, "boo")
        await settled()
        assert is_process_alive(pid)
        await send(other, "end")
        await settled()
        messages = await flush()
        assert (0, "terminate", "stop") in messages
        assert {m.reason for m in messages if isinstance(m, Down)} == {"over"}

    run(main)


def test_names_and_supervision() -> None:
    async def main() -> None:
        top = await Supervisor.start_link([Child("alarms", GenEvent, name="alarms")])
        pid = await whereis("alarms")
        assert pid is not None
        await GenEvent.add_handler("alarms", Teller, self())
        with pytest.raises(NameTaken):
            await GenEvent.start(name="alarms")
        exit(pid, "kill")
        await settled()
        assert await whereis("alarms") not in (None, pid)
        assert await GenEvent.which_handlers("alarms") == []  # handlers do not come back
        await Supervisor.stop(top)

    run(main)


def test_start_monitor_and_no_arguments() -> None:
    async def main() -> None:
        pid, ref = await GenEvent.start_monitor()
        await GenEvent.stop(pid)
        assert await receive(Down) == Down(ref, pid, "normal")
        with pytest.raises(TypeError, match="without arguments"):
            await GenEvent.start(1)

    run(main)


def test_requests_that_are_none_leave_it_alive() -> None:
    async def main() -> None:
        pid = await manager("a")
        for request in ("word", ("dance",), ("add", 1), ("add", ("$here", 1), "x", (), False), ()):
            assert (await ask(pid, request))[0] == "error"
        code = ("$code", "os", "getcwd", b"")
        assert (await ask(pid, ("add", code, "x", (), False)))[0] == "error"
        assert await ids(pid) == ["a"]

    run(main)


def test_what_is_no_handler() -> None:
    async def main() -> None:
        pid = await GenEvent.start()
        for wrong in (7, int, "name", (int, 1), ()):
            with pytest.raises(TypeError):
                await GenEvent.add_handler(pid, wrong)
        with pytest.raises(NotSendable):
            await GenEvent.add_handler(pid, Silent, object())
        with pytest.raises(NotSendable):
            await GenEvent.notify(pid, object())

    run(main)
    assert name_of(("a.B", 1)) == ("a.B", 1)
    with pytest.raises(TypeError):
        name_of(1)
    with pytest.raises(TypeError, match="every GenEvent has 'notify' already"):
        type("Wrong", (GenEvent,), {"notify": lambda self: None})


def test_handlers_at_the_maximum_and_one_above(monkeypatch: pytest.MonkeyPatch) -> None:
    assert EVENT_HANDLERS_MAX == 1_024
    monkeypatch.setattr("drupelet.process.gen_event.EVENT_HANDLERS_MAX", 2)

    async def main() -> None:
        pid = await manager("a", "b")
        with pytest.raises(Refused) as caught:
            await GenEvent.add_handler(pid, Silent)
        assert caught.value.reason == "system_limit"

    run(main)


def test_handlers_go_over_to_newer_code() -> None:
    class Newer(Teller):
        def code_change(self, former: type) -> None:
            self.id = ("new", former.__name__)

    async def main() -> None:
        pid = await manager("a")
        this_runtime().newest = lambda thing: Newer if thing is Teller else thing
        await GenEvent.sync_notify(pid, "hello")
        assert await flush() == [(("new", "Teller"), "hello")]

    run(main)
