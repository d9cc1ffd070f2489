"""Application: trees that are started and stopped as one; twins of oracle_applications.erl."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, ClassVar

from drupelet import (
    Application,
    Pid,
    ProcessDown,
    Refused,
    Supervisor,
    exit,
    monitor,
    self,
    send,
)
from tests.oracle.cases.supervisor import pid_of, spec, started
from tests.oracle.helpers import died, down, next_message, rest
from tests.oracle.normal import case, differs

App = type[Application]


def load(
    called: str,
    needs: Sequence[App] = (),
    settings: Mapping[str, object] | None = None,
    fails: bool = False,
) -> App:
    """An application with one child, which tells this process of its end, as the functions do."""
    me = self()

    class Loaded(Application):
        name = called
        description = "of the oracle"
        version = "1.2"
        applications = tuple(needs)
        env: ClassVar[Mapping[str, object]] = dict(settings or {})

        async def init(self, start_type: Any) -> Pid:
            if fails:
                exit("no_luck")
            await send(me, ("type", start_type))
            await send(me, ("ovens", self.get_env("ovens", "none")))
            child = spec("a", to=me, traps=True)
            top = await Supervisor.start_link([child], intensity=0)
            await send(me, ("top", top))
            return top

        async def prep_stop(self) -> None:
            await send(me, "prep_stop")

        async def terminate(self, reason: Any) -> None:
            await send(me, "stop")

    return Loaded


async def ok(verb: Awaitable[object]) -> object:
    """``ok`` or ``{error, Reason}``."""
    try:
        await verb
    except (Refused, ProcessDown) as error:
        return ("error", error.reason)
    return "ok"


def runs(app: App) -> bool:
    return app.name in [name for name, *_ in Application.which_applications()]


async def top() -> Pid:
    _, pid = await next_message(("top", Pid))
    assert isinstance(pid, Pid)
    return pid


async def init_told(what: str) -> object:
    return await next_message((what, object))


@case
async def app_start() -> object:
    app = load("app_1")
    before = runs(app)
    gave = await ok(app.start())
    outcome = (before, gave, await started(1), runs(app))
    await app.stop()
    return outcome


@case
async def app_start_type() -> object:
    await load("app_2").start()
    return await init_told("type")


@case
async def app_is_shown() -> object:
    await load("app_3").start()
    return Application.which_applications()[0]


@case
async def app_start_twice() -> object:
    app = load("app_4")
    await app.start()
    return await ok(app.start())


@case
async def app_stop() -> object:
    app = load("app_5")
    await app.start()
    for what in ("type", "ovens"):
        await init_told(what)
    await started(1)
    await top()
    return (await ok(app.stop()), await rest(), runs(app))


@case
async def app_stop_what_does_not_run() -> object:
    return await ok(load("app_6").stop())


@case
async def app_start_again() -> object:
    app = load("app_7")
    await app.start()
    await app.stop()
    return (await ok(app.start()), await started(2))


@case
async def app_needs_another() -> object:
    return await ok(load("app_9", [load("app_8")]).start())


@differs(
    "starts",
    otp=(("ok", ["app_10", "app_11"]), ("ok", [])),
    ours=(["app_10", "app_11"], []),
)
async def app_ensure_all_started() -> object:
    app = load("app_11", [load("app_10")])
    return (await app.ensure_all_started(), await app.ensure_all_started())


@case
async def app_stop_leaves_what_it_needed() -> object:
    needed = load("app_12")
    app = load("app_13", [needed])
    await app.ensure_all_started()
    await app.stop()
    return runs(needed)


@case
async def app_that_does_not_start() -> object:
    app = load("app_14", fails=True)
    _, reason = await ok(app.start())  # type: ignore[misc]
    return (reason, runs(app))


@case
async def app_one_below_that_does_not_start() -> object:
    app = load("app_16", [load("app_15", fails=True)])
    _, reason = await ok(app.ensure_all_started())  # type: ignore[misc]
    return (reason, runs(app))


@differs(
    "applications",
    otp=("shutdown", ["prep_stop", "stop"], "ok"),
    ours=("shutdown", ["stop"], ("error", ("not_started", "app_17"))),
)
async def app_whose_tree_ends() -> object:
    app = load("app_17")
    await app.start()
    for what in ("type", "ovens"):
        await init_told(what)
    await started(1)
    pid = await top()
    ref = monitor(pid)
    await send(await pid_of(pid, "a"), ("stop", "boom"))
    reason = await down(ref)
    told = [await next_message()]
    while told[-1] != "stop":
        told.append(await next_message())
    return (reason, told, await ok(app.stop()))


@case
async def app_outlives_who_started_it() -> object:
    app = load("app_18")
    assert await died(app.start) == "normal"
    return runs(app)


@case
async def app_env() -> object:
    app = load("app_19", settings={"ovens": 2})
    default = app.get_env("ovens", "none")
    app.set_env("ovens", 3)
    found = [app.get_env(key, "none") for key in ("ovens", "pots")]
    return (default, *found, list(app.get_all_env().items()))


@case
async def app_env_is_seen_by_its_processes() -> object:
    await load("app_20", settings={"ovens": 2}).start()
    return await init_told("ovens")
