"""GenStatem: its timeouts, and how it ends; twins of erlang/oracle_gen_statem.erl."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from drupelet import IGNORE, GenStatem, NameTaken, Pid, ProcessDown, Stop, exit, monitor, self, send
from tests.oracle.cases.gen_statem import Light, call, cast_all, go, start, telling
from tests.oracle.helpers import OVER_S, SOON_S, collect, dead, down, next_message, quiet
from tests.oracle.normal import case, caught, differs, done


@case
async def statem_state_timeout() -> object:
    await go(await telling(), ("state_timeout", 0.01, "ring"))
    return (await next_message(), await quiet())


@case
async def statem_state_timeout_ends_with_the_state() -> object:
    pid = await telling()
    await go(pid, ("state_timeout", SOON_S, "ring"))
    await go(pid, state="on")
    return await quiet(OVER_S)


@case
async def statem_state_timeout_of_the_next_state() -> object:
    await go(await telling(), ("state_timeout", 0.01, "ring"), state="on")
    return await next_message()


@case
async def statem_state_timeout_outlives_an_event() -> object:
    pid = await telling()
    await go(pid, ("state_timeout", SOON_S, "ring"))
    await call(pid, "get")
    return await next_message()


@case
async def statem_state_timeout_is_replaced() -> object:
    pid = await telling()
    await go(pid, ("state_timeout", SOON_S, "first"))
    await go(pid, ("state_timeout", 0.01, "second"))
    return (await next_message(), await quiet(OVER_S))


@case
async def statem_state_timeout_is_cancelled() -> object:
    pid = await telling()
    await go(pid, ("state_timeout", SOON_S, "ring"))
    await go(pid, ("cancel_timeout", "state_timeout"))
    return await quiet(OVER_S)


@case
async def statem_timeout_infinity_cancels() -> object:
    pid = await telling()
    await go(pid, ("state_timeout", SOON_S, "ring"))
    await go(pid, ("state_timeout", float("inf"), "ring"))
    return await quiet(OVER_S)


@case
async def statem_a_timeout_gets_another_content() -> object:
    pid = await telling()
    await go(pid, ("state_timeout", SOON_S, "first"))
    await go(pid, ("update_timeout", "state_timeout", "second"))
    return (await next_message(), await quiet())


@case
async def statem_the_content_of_no_timeout() -> object:
    await go(await telling(), ("update_timeout", ("timeout", "egg"), "boiled"))
    return await next_message()


@case
async def statem_event_timeout() -> object:
    await go(await telling(), ("event_timeout", 0.01, "idle"))
    return await next_message()


@case
async def statem_event_timeout_ends_with_an_event() -> object:
    pid = await telling()
    await go(pid, ("event_timeout", SOON_S, "idle"))
    await call(pid, "get")
    return await quiet(OVER_S)


@case
async def statem_generic_timeout() -> object:
    await go(await telling(), ("generic_timeout", "egg", 0.01, "boiled"))
    return await next_message()


@case
async def statem_generic_timeout_outlives_the_state() -> object:
    pid = await telling()
    await go(pid, ("generic_timeout", "egg", SOON_S, "boiled"))
    await go(pid, state="on")
    return await next_message()


@case
async def statem_generic_timeouts_by_name() -> object:
    slow, quick = ("slow", SOON_S, "two"), ("quick", 0.01, "one")
    await go(await telling(), ("generic_timeout", *slow), ("generic_timeout", *quick))
    return await collect(2)


@case
async def statem_generic_timeout_is_cancelled() -> object:
    pid = await telling()
    await go(pid, ("generic_timeout", "egg", SOON_S, "boiled"))
    await go(pid, ("cancel_timeout", ("timeout", "egg")))
    return await quiet(OVER_S)


# -- ends


class Ends(GenStatem):
    """Ends in one way or another; tells `to`, if there is one, of its `terminate`."""

    def init(self, to: Pid | None = None) -> str:
        self.to = to
        return "off"

    def off(self, kind: Any, content: Any) -> Any:
        match kind, content:
            case "cast", "stop":
                self.stop(("shutdown", "done"))
            case "call", "stop":
                raise Stop("normal", reply="bye")
            case "cast", "go":
                return "nowhere"
            case "call", "never":
                self.kept = self.caller
            case "call", _:
                exit("boom")

    async def terminate(self, reason: Any) -> None:
        if self.to is not None:
            await send(self.to, ("terminate", reason, self.state, []))


@case
async def statem_stop() -> object:
    pid = await start(Ends, self())
    ref = monitor(pid)
    gave = await GenStatem.stop(pid)
    return ("ok" if done(gave) else gave, await next_message(), await down(ref))


@case
async def statem_stop_from_inside() -> object:
    pid = await start(Ends)
    ref = monitor(pid)
    await GenStatem.cast(pid, "stop")
    return await down(ref)


@case
async def statem_stop_and_reply() -> object:
    pid = await start(Ends)
    ref = monitor(pid)
    return (await call(pid, "stop"), await down(ref))


@case
async def statem_stop_the_dead() -> object:
    try:
        await GenStatem.stop(await dead())
    except ProcessDown as error:
        return ("exit", error.reason)
    return "ok"


@case
async def statem_crashes_during_a_call() -> object:
    pid = await start(Ends)
    ref = monitor(pid)
    return (await caught(call(pid, "hello")), await down(ref))


@case
async def statem_terminate_after_an_exit() -> object:
    await caught(call(await start(Ends, self()), "hello"))
    return await next_message()


@case
async def statem_call_to_the_dead() -> object:
    return await caught(call(await dead(), "hello"))


@case
async def statem_call_timeout() -> object:
    return await caught(call(await start(Ends), "never", timeout=0.02))


@differs("reasons", otp="undef", ours="ValueError")
async def statem_no_such_state() -> object:
    pid = await start(Ends)
    ref = monitor(pid)
    await cast_all(pid, "go", "hello")
    kind, _ = await down(ref)  # type: ignore[misc]
    return kind


class Refuses(GenStatem):
    def init(self, how: str) -> object:
        if how == "stop":
            raise Stop("no_reason")
        return IGNORE


async def started(starting: Awaitable[object]) -> object:
    """What `gen_statem:start` gives for what ours raises."""
    try:
        return "ignore" if await starting is None else "ok"
    except ProcessDown as error:
        return ("error", error.reason)


@case
async def statem_init_stop() -> object:
    return await started(Refuses.start("stop"))


@case
async def statem_init_ignore() -> object:
    return await started(Refuses.start("ignore"))


@differs("refusals", otp=("error", ("already_started", "first")), ours="NameTaken")
async def statem_name_is_taken() -> object:
    await Light.start(name="statem_name")
    try:
        await Light.start(name="statem_name")
    except NameTaken as error:
        return type(error).__name__
    return "started"
