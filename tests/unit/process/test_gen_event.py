"""MODEL-6: event handlers: they come, go, crash and are swapped, as in OTP's gen_event."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from drupelet.errors import (
    Refused,
    Timeout,
)
from drupelet.process import (
    flush,
    is_process_alive,
    process_info,
    run,
    self,
)
from drupelet.process.gen_event import GenEvent
from tests.unit.process.handlers import (
    NAME,
    Failing,
    Informed,
    Silent,
    Silently,
    Teller,
    ids,
    manager,
    told,
)
from tests.unit.process.servers import virtual

settled = trio.testing.wait_all_tasks_blocked


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
