"""MODEL-6: event managers: their end, and handlers that are supervised, as in OTP's gen_event."""

from __future__ import annotations

import logging

import pytest
import trio
import trio.testing

from drupelet.errors import (
    NameTaken,
    NotSendable,
    ProcessDown,
    Refused,
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
from drupelet.process.supervisor import Supervisor
from drupelet.wire.limits import EVENT_HANDLERS_MAX
from tests.unit.process.handlers import (
    NAME,
    Informed,
    Silent,
    Teller,
    ids,
    manager,
    told,
)

settled = trio.testing.wait_all_tasks_blocked


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


def test_handlers_go_over_to_newer_code(caplog: pytest.LogCaptureFixture) -> None:
    class Newer(Teller):
        def code_change(self, former: type) -> None:
            self.id = ("new", former.__name__)

    async def main() -> None:
        pid = await manager("a")
        this_runtime().newest = lambda thing: Newer if thing is Teller else thing
        await GenEvent.sync_notify(pid, "hello")
        assert await flush() == [(("new", "Teller"), "hello")]
        this_runtime().newest = lambda thing: int  # impossible: said once, and the old goes on
        await GenEvent.sync_notify(pid, 1)
        await GenEvent.sync_notify(pid, 2)
        assert await flush() == [(("new", "Teller"), 1), (("new", "Teller"), 2)]

    run(main)
    assert caplog.text.count("code_not_changed") == 1
