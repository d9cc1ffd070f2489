"""Applications: trees that start and stop as one, what they need, their settings."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import trio.testing

from drupelet.errors import NotSendable, ProcessDown, Refused
from drupelet.process import (
    Pid,
    exit,
    is_process_alive,
    process_info,
    receive,
    register,
    run,
    self,
    spawn_link,
    whereis,
)
from drupelet.process.application import Application
from drupelet.process.children import Child
from drupelet.process.gen_server import GenServer
from drupelet.process.supervisor import Supervisor
from drupelet.wire.limits import APPLICATIONS_MAX

settled = trio.testing.wait_all_tasks_blocked
running = Application.which_applications


class Oven(GenServer):
    def init(self, degrees: int = 0) -> None:
        self.degrees = degrees

    def read(self) -> int:
        return self.degrees


class Pantry(Application):
    description = "what there is to eat"
    version = "0.9"

    def init(self, start_type: Any) -> list[Child]:
        return [Child("shelf", Oven, name="shelf")]


class Kitchen(Application):
    version = "1.2"
    applications = (Pantry,)
    env: ClassVar[dict[str, Any]] = {"ovens": 2, "degrees": 180}
    strategy = "one_for_all"
    told: ClassVar[list[object]] = []

    async def init(self, start_type: Any) -> Any:
        self.told.append(("init", start_type))
        degrees = self.get_env("degrees")
        return [
            Child(f"oven{n}", (Oven, (degrees,)), name=f"oven{n}")
            for n in range(self.get_env("ovens"))
        ]

    async def prep_stop(self) -> None:
        self.told.append(("prep_stop", await whereis("oven0") is not None))

    def terminate(self, reason: Any) -> None:
        self.told.append(("terminate", reason))


class Plain(Application):
    """Its top is a process of its own; it ends when it is told how."""

    name = "plain_one"

    async def init(self, start_type: Any) -> Any:
        async def top() -> None:
            await register("top")
            exit(await receive())

        return await spawn_link(top)


@pytest.fixture(autouse=True)
def forget() -> None:
    Kitchen.told.clear()


def test_a_tree_starts_and_stops_with_what_it_needs() -> None:
    async def main() -> None:
        assert await Kitchen.ensure_all_started() == ["pantry", "kitchen"]
        assert running() == [("kitchen", "", "1.2"), ("pantry", "what there is to eat", "0.9")]
        assert await GenServer.call("oven1", "read") == 180
        assert await Kitchen.ensure_all_started() == []
        before = await whereis("oven0"), await whereis("oven1")
        assert before[0] is not None and before[1] is not None
        exit(before[0], "boom")  # one_for_all
        await settled()
        assert await whereis("oven1") not in (None, before[1])
        await Kitchen.stop()
        assert Kitchen.told == [
            ("init", "normal"),
            ("prep_stop", True),
            ("terminate", "shutdown"),
        ]
        assert await whereis("oven0") is None
        assert running() == [("pantry", "what there is to eat", "0.9")]
        await Kitchen.start()
        assert [name for name, _, _ in running()] == ["kitchen", "pantry"]

    run(main)


def test_what_cannot_be_started_or_stopped() -> None:
    async def main() -> None:
        with pytest.raises(Refused) as caught:
            await Kitchen.start()
        assert caught.value.reason == ("not_started", "pantry")
        with pytest.raises(Refused) as caught:
            await Kitchen.stop()
        assert caught.value.reason == ("not_started", "kitchen")
        await Pantry.start()
        with pytest.raises(Refused) as caught:
            await Pantry.start()
        assert caught.value.reason == ("already_started", "pantry")
        with pytest.raises(ValueError, match="restart='always'"):
            await Kitchen.start(restart="always")

    run(main)


def test_two_who_start_it_at_once() -> None:
    class Slow(Application):
        async def init(self, start_type: Any) -> Any:
            await settled()
            return []

    async def main() -> None:
        refused: list[object] = []

        async def start() -> None:
            try:
                await Slow.start()
            except Refused as error:
                refused.append(error.reason)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(start)
            nursery.start_soon(start)
        assert refused == [("already_started", "slow")]

    run(main)


def test_settings() -> None:
    async def main() -> None:
        assert Kitchen.get_env("ovens") == 2
        assert Kitchen.get_env("no such", "default") == "default"
        Kitchen.set_env("degrees", 200)
        await Pantry.start()
        await Kitchen.start(env={"ovens": 1, "more": ["data"]})
        assert Kitchen.get_all_env() == {"ovens": 1, "degrees": 200, "more": ["data"]}
        assert await GenServer.call("oven0", "read") == 200
        assert await whereis("oven1") is None
        with pytest.raises(NotSendable):
            Kitchen.set_env("degrees", object())
        await Kitchen.stop()
        assert Kitchen.get_env("ovens") == 1  # of the program, as in OTP
        assert Kitchen.env["ovens"] == 2

    run(main)

    async def another_program() -> None:
        assert Kitchen.get_env("ovens") == 2

    run(another_program)


def test_its_top_may_be_any_process() -> None:
    async def main() -> None:
        await Plain.start()
        top = await whereis("top")
        assert top is not None
        (master,) = process_info(top)["links"]
        info = process_info(master)
        assert info["state"] == {"application": "plain_one", "version": "", "top": top}
        assert info["function"].endswith("Plain")
        exit(master, "stranger")  # from one that is not its top
        await settled()
        await Plain.stop()
        assert not is_process_alive(top)
        assert not is_process_alive(master)

    run(main)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda: 1 / 0, "division by zero"),
        (lambda: "word", "a list of children, or a Pid"),
        (lambda: exit("no_luck"), "no_luck"),
        (lambda: [Child("bad", (Oven, (1, 2, 3)))], "failed_to_start_child"),
    ],
)
def test_a_start_that_fails(made: Any, words: str) -> None:
    class Failing(Application):
        applications = (Pantry,)

        def init(self, start_type: Any) -> Any:
            return made()

    async def main() -> None:
        with pytest.raises(ProcessDown, match=words):
            await Failing.ensure_all_started()
        assert running() == []
        await Pantry.start()
        with pytest.raises(ProcessDown, match=words):
            await Failing.ensure_all_started()
        assert [name for name, _, _ in running()] == ["pantry"]

    run(main)


def test_a_circle() -> None:
    class First(Application):
        pass

    class Second(Application):
        applications = (First,)

    First.applications = (Second,)

    async def main() -> None:
        with pytest.raises(ValueError, match="first needs second needs first"):
            await First.ensure_all_started()

    run(main)


@pytest.mark.parametrize(
    ("restart", "reason", "lives"),
    [
        ("temporary", "boom", True),
        ("temporary", "normal", True),
        ("transient", "normal", True),
        ("transient", "shutdown", False),
        ("transient", "boom", False),
        ("permanent", "normal", False),
        ("permanent", "boom", False),
    ],
)
def test_a_tree_that_ends_by_itself(
    restart: str, reason: str, lives: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> str:
        await Kitchen.ensure_all_started()
        await Plain.start(restart=restart)
        top = await whereis("top")
        assert top is not None
        exit(top, "boom") if reason == "boom" else await _send(top, reason)
        await settled()
        assert [name for name, _, _ in running()] == ["kitchen", "pantry"]
        return "lives"

    if lives:
        assert run(main) == "lives"
        assert "going on without it" in caplog.text
        assert ("terminate", "shutdown") not in Kitchen.told
    else:
        with pytest.raises(RuntimeError, match="the program was ended from within"):
            run(main)
        assert "ending the program" in caplog.text
        assert Kitchen.told[-2:] == [("prep_stop", True), ("terminate", "shutdown")]


async def _send(pid: Pid, message: object) -> None:
    from drupelet.process import send

    await send(pid, message)


@pytest.mark.parametrize("restart", ["temporary", "permanent"])
def test_a_killed_one_takes_its_tree(restart: str, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        await Pantry.start(restart=restart)
        shelf = await whereis("shelf")
        assert shelf is not None
        (tree,) = process_info(shelf)["links"]
        (master,) = [pid for pid in process_info(tree)["links"] if pid != shelf]
        exit(master, "kill")
        await settled()
        assert running() == []
        assert not is_process_alive(shelf)

    if restart == "permanent":
        with pytest.raises(RuntimeError, match="the program was ended from within"):
            run(main)
        assert "ending the program" in caplog.text
    else:
        run(main)


def test_a_top_that_forgot_to_link_is_linked() -> None:
    from drupelet.process import spawn

    class Loose(Application):
        async def init(self, start_type: Any) -> Any:
            return await spawn(receive)

    async def main() -> None:
        await Loose.start()
        await Loose.stop()
        assert running() == []

    run(main)


def test_a_supervisor_below_others() -> None:
    class Nested(Application):
        async def init(self, start_type: Any) -> Any:
            return await Supervisor.start_link([Oven], name="nested")

    async def main() -> None:
        await Nested.start()
        assert await Supervisor.count_children("nested") == {
            "specs": 1,
            "active": 1,
            "supervisors": 0,
            "workers": 1,
        }

    run(main)


def test_a_prep_stop_that_fails_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    class Grumpy(Application):
        def init(self, start_type: Any) -> list[Child]:
            return [Child("oven", Oven, name="oven")]

        def prep_stop(self) -> None:
            raise ValueError("not now")

    async def main() -> None:
        await Grumpy.start(restart="permanent")
        await Grumpy.stop()
        assert await whereis("oven") is None

    run(main)
    assert "prep_stop_failed name=grumpy" in caplog.text


def test_names() -> None:
    class Other(Kitchen):
        pass

    assert (Pantry.name, Plain.name, Other.name) == ("pantry", "plain_one", "other")
    with pytest.raises(ValueError, match="name"):
        type("Wrong", (Application,), {"name": ""})


def test_applications_at_the_maximum_and_one_above(monkeypatch: pytest.MonkeyPatch) -> None:
    assert APPLICATIONS_MAX == 256
    monkeypatch.setattr("drupelet.process.application.APPLICATIONS_MAX", 1)

    async def main() -> None:
        await Pantry.start()
        with pytest.raises(Refused) as caught:
            await Plain.start()
        assert caught.value.reason == "system_limit"
        assert self() is not None

    run(main)
