"""What both supervisors do: subclasses, flags as class fields, the log of what went wrong."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import trio.testing

from drupelet.errors import ProcessDown
from drupelet.process import (
    exit,
    is_process_alive,
    receive,
    run,
    send,
    trap_exit,
)
from drupelet.process.children import Child
from drupelet.process.current import this_runtime
from drupelet.process.dynamic_supervisor import DynamicSupervisor
from drupelet.process.supervisor import Supervisor


async def live() -> None:
    exit(await receive())


async def stubborn() -> None:
    trap_exit()
    await receive("never")


def virtual(main: Any) -> Any:
    return run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_flags_are_fields_that_init_may_set() -> None:
    class Kitchen(Supervisor):
        strategy = "rest_for_one"
        intensity = 7

        async def init(self, period_s: float) -> Any:
            self.period_s = period_s
            return [live]

    async def main() -> Any:
        pid = await Kitchen.start_link(9, intensity=3)
        state: Any = this_runtime().processes[pid.number].state
        return state.strategy, state.intensity, state.period_s

    assert virtual(main) == ("rest_for_one", 3, 9)


@pytest.mark.parametrize("kind", [Supervisor, DynamicSupervisor])
def test_an_init_that_raises_or_returns_nonsense(kind: Any) -> None:
    class Bad(kind):  # type: ignore[misc]
        def init(self, value: Any) -> Any:
            if value == "raise":
                raise ValueError("bad")
            return value

    async def main() -> None:
        trap_exit()
        for value, reason in (("raise", "ValueError"), (None, "TypeError"), ([5], "TypeError")):
            with pytest.raises(ProcessDown) as caught:
                await Bad.start_link(value)
            assert caught.value.reason[0] == reason  # type: ignore[index]

    virtual(main)


def test_what_went_wrong_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        trap_exit()
        supervisor = await Supervisor.start_link(
            [Child("live", live), Child("stubborn", stubborn, shutdown=1)], intensity=0
        )
        await send(supervisor, "hello")
        pids: dict[str, Any] = {
            id: pid for id, pid, _, _ in await Supervisor.which_children(supervisor)
        }
        await send(pids["live"], "boom")
        await receive()
        assert not is_process_alive(supervisor)

    with caplog.at_level(logging.WARNING, "drupelet.process"):
        virtual(main)
    words = [record.getMessage().split()[0] for record in caplog.records]
    assert words == ["unexpected_message", "restart_intensity_reached", "child_stopped_otherwise"]
    assert "child='live'" in caplog.records[1].getMessage()
    assert "child='stubborn'" in caplog.records[2].getMessage()


def test_a_restart_is_told(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        supervisor = await Supervisor.start_link([live])
        pids: dict[str, Any] = {
            id: pid for id, pid, _, _ in await Supervisor.which_children(supervisor)
        }
        await send(pids["live"], "boom")
        await trio.testing.wait_all_tasks_blocked()

    with caplog.at_level(logging.INFO, "drupelet.process"):
        virtual(main)
    assert [record.getMessage().split()[0] for record in caplog.records] == ["children_restarted"]


def test_stop_ends_it_with_that_reason() -> None:
    async def main() -> None:
        supervisor = await Supervisor.start_link([live])
        trap_exit()
        await Supervisor.stop(supervisor, ("shutdown", "closing time"))
        assert (await receive()).reason == ("shutdown", "closing time")

    virtual(main)
