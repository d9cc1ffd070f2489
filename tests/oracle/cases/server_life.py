"""GenServer: what it does besides calls, and how it ends; twins of erlang/oracle_gen_server.erl."""

from __future__ import annotations

from typing import Any

from drupelet import (
    Down,
    Exit,
    GenServer,
    Pid,
    ProcessDown,
    exit,
    is_process_alive,
    link,
    monitor,
    receive,
    self,
    send,
    send_nowait,
    spawn,
    trap_exit,
)
from drupelet.errors import Timeout
from tests.oracle.cases.gen_server import BAD, Plain, call, self_pid, start
from tests.oracle.helpers import OVER_S, SOON_S, dead, died, down, is_gone, next_message, quiet
from tests.oracle.normal import case, caught, differs, done

# -- continue, timeout, info


@case
async def continue_comes_before_any_message() -> object:
    class Continues(Plain):
        def init(self) -> None:
            send_nowait(self_pid(), "first_message")
            self.state = ["init"]
            self.continue_with("more")

        def handle_continue(self, argument: Any) -> None:
            self.state = ["continue", *self.state]

        def handle_info(self, message: Any) -> None:
            self.state = ["info", *self.state]

    return await call(await start(Continues), "get")


@case
async def continue_after_a_call() -> object:
    class Continues(Plain):
        def go(self) -> str:
            self.continue_with("rest")
            return "going"

        def handle_continue(self, argument: Any) -> None:
            self.state = ["continued", *self.state]

    pid = await start(Continues)
    return (await call(pid, "go"), await call(pid, "get"))


class Idle(GenServer):
    def init(self, to: Pid, seconds: float) -> None:
        self.to = to
        self.timeout_after(seconds)

    def handle_cast(self, request: Any) -> None:
        pass

    async def handle_info(self, message: Any) -> None:
        match message:
            case "timeout":
                await send(self.to, "timed_out")


@case
async def timeout_of_an_idle_server() -> object:
    await start(Idle, self(), 0.01)
    return (await next_message(), await quiet())


@case
async def timeout_is_given_up_at_a_message() -> object:
    pid = await start(Idle, self(), SOON_S)
    await GenServer.cast(pid, "hello")
    return await quiet(OVER_S)


@case
async def unknown_info_is_survived() -> object:
    pid = await start()
    await send(pid, "what_is_this")
    return await call(pid, "get")


@case
async def a_trapping_server_gets_exits_as_info() -> object:
    class Traps(Plain):
        def init(self, to: Any) -> None:
            super().init()
            self.to = to
            trap_exit(True)

        async def handle_info(self, message: Any) -> None:
            match message:
                case Exit(reason=reason):
                    await send(self.to, ("got_exit", reason))

    pid = await start(Traps, self())
    exit(pid, "boom")
    return (await next_message(), await call(pid, "get"))


@case
async def a_down_is_an_info() -> object:
    class Watches(GenServer):
        def init(self, to: Pid, other: Pid) -> None:
            self.to = to
            monitor(other)

        async def handle_info(self, message: Any) -> None:
            match message:
                case Down(reason=reason):
                    await send(self.to, ("got_down", reason))

    await start(Watches, self(), await dead())
    return await next_message()


# -- ends


class Telling(Plain):
    """Tells `to` of its `terminate`."""

    def init(self, to: Any, trap: bool = False, state: object = None) -> None:
        super().init(state)
        self.to = to
        trap_exit(trap)

    async def terminate(self, reason: Any) -> None:
        await send(self.to, ("terminate", reason, self.state))


@case
async def stop_from_outside() -> object:
    pid = await start(Telling, self())
    ref = monitor(pid)
    gave = await GenServer.stop(pid)
    return ("ok" if done(gave) else gave, await next_message(), await down(ref))


@case
async def stop_with_a_reason() -> object:
    pid = await start(Telling, self())
    ref = monitor(pid)
    gave = await GenServer.stop(pid, "because", timeout=1)
    return ("ok" if done(gave) else gave, await next_message(), await down(ref))


class Blocks(Plain):
    """A cast "block" waits for "go"."""

    async def handle_cast(self, request: Any) -> None:
        match request[0]:
            case "block":
                await receive("go")
            case "stop":
                self.stop()


@case
async def stop_takes_too_long() -> object:
    pid = await start(Blocks)
    await GenServer.cast(pid, "block")
    ref = monitor(pid)
    try:
        gave: object = await GenServer.stop(pid, timeout=0.02)
    except Timeout:
        gave = ("exit", "timeout")
    await send(pid, "go")
    return (gave, await down(ref))


@case
async def stop_when_it_ends_otherwise() -> object:
    class Worse(Plain):
        def terminate(self, reason: Any) -> None:
            exit("worse")

    try:
        return await GenServer.stop(await start(Worse))
    except ProcessDown as error:
        return ("exit", error.reason)


@case
async def continue_that_fails() -> object:
    class Continues(GenServer):
        def init(self) -> None:
            self.continue_with("x")

        async def handle_continue(self, argument: Any) -> None:
            await receive("go")
            exit("boom")

    pid = await start(Continues)
    ref = monitor(pid)
    await send(pid, "go")
    return await down(ref)


@case
async def what_waits_at_a_stop_is_lost() -> object:
    pid, me = await start(Blocks), self()
    await GenServer.cast(pid, "block")
    await GenServer.cast(pid, "stop")

    async def asks() -> None:
        await send(me, "asked")
        await send(me, await caught(call(pid, "get")))

    await spawn(asks)
    assert (await next_message(), await quiet()) == ("asked", "nothing")
    await send(pid, "go")
    return await next_message()


@case
async def terminate_when_the_parent_ends_normally() -> object:
    me = self()
    assert await died(lambda: Telling.start_link(me, True, "state")) == "normal"
    return await next_message()


@case
async def an_exit_of_another_does_not_end_a_trapping_server() -> object:
    class Traps(Plain):
        def init(self) -> None:
            super().init()
            trap_exit(True)

        def handle_info(self, message: Any) -> None:
            self.state = [message.reason, *self.state]

    pid = await start(Traps)

    async def links_and_ends() -> None:
        link(pid)
        exit("boom")

    await died(links_and_ends)
    return await call(pid, "get")


@case
async def terminate_that_waits_for_itself() -> object:
    class Slow(Plain):
        def init(self, to: Any) -> None:
            self.to = to

        async def terminate(self, reason: Any) -> None:
            await send(self.to, ("ending", self_pid()))
            await receive("go")

    pid = await start(Slow, self())
    ref = monitor(pid)
    await spawn(lambda: GenServer.stop(pid))
    await next_message(("ending", pid))
    before = is_process_alive(pid)
    await send(pid, "go")
    return (before, await down(ref))


@case
async def stop_the_dead() -> object:
    try:
        await GenServer.stop(await dead())
    except ProcessDown as error:
        return ("exit", error.reason)
    return "ok"


@case
async def terminate_after_a_stop() -> object:
    pid = await start(Telling, self())
    ref = monitor(pid)
    await call(pid, "halt")
    return (await next_message(), await down(ref))


@differs("reasons", otp=("terminate", "bad", []), ours=("terminate", BAD, []))
async def terminate_after_a_crash() -> object:
    await caught(call(await start(Telling, self()), "crash"))
    return await next_message()


@case
async def terminate_after_an_exit() -> object:
    await caught(call(await start(Telling, self()), "end", "boom"))
    return await next_message()


@case
async def no_terminate_after_a_signal() -> object:
    pid = await start(Telling, self())
    ref = monitor(pid)
    exit(pid, "boom")
    return (await down(ref), await quiet())


@case
async def no_terminate_after_a_kill() -> object:
    pid = await start(Telling, self(), True)
    ref = monitor(pid)
    exit(pid, "kill")
    return (await down(ref), await quiet())


async def parent_ends(to: Pid, *args: object) -> None:
    await send(to, ("server", await Telling.start_link(to, *args)))
    exit("boom")


@case
async def terminate_when_the_parent_ends_and_exits_are_trapped() -> object:
    assert await died(parent_ends, self(), True, "state") == "boom"
    _, pid = await next_message()
    return (await next_message(), await is_gone(pid))


@case
async def no_terminate_when_the_parent_ends_and_nothing_is_trapped() -> object:
    assert await died(parent_ends, self()) == "boom"
    _, pid = await next_message()
    await is_gone(pid)
    return await quiet()


@case
async def the_reason_of_a_stop_from_a_cast() -> object:
    class Stops(GenServer):
        def handle_cast(self, request: Any) -> None:
            self.stop(("shutdown", "done"))

    pid = await start(Stops)
    ref = monitor(pid)
    await GenServer.cast(pid, "stop_now")
    return await down(ref)


@case
async def a_crash_in_terminate_is_the_reason() -> object:
    class Worse(Plain):
        def terminate(self, reason: Any) -> None:
            exit("worse")

    pid = await start(Worse)
    ref = monitor(pid)
    await caught(call(pid, "halt"))
    return await down(ref)
