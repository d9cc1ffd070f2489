"""GenServer: twins of erlang/oracle_gen_server.erl.

Erlang's half has one callback module of funs; ours has a class for what a case needs.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from drupelet import (
    IGNORE,
    NOREPLY,
    GenServer,
    GenStatem,
    NameTaken,
    Pid,
    ProcessDown,
    Stop,
    exit,
    is_process_alive,
    monitor,
    node,
    receive,
    reply,
    self,
    send,
    spawn,
    trap_exit,
    whereis,
)
from drupelet.errors import Timeout
from tests.oracle.helpers import (
    collect,
    dead,
    died,
    down,
    is_gone,
    next_message,
    quiet,
    rest,
)
from tests.oracle.normal import case, caught, differs, done, role

call = GenServer.call


class Plain(GenServer):
    """`get` gives the state; other verbs end the server in one way or another."""

    def init(self, state: object = None) -> None:
        self.state: Any = [] if state is None else state

    def get(self) -> object:
        return self.state

    def put(self, value: object) -> object:
        former, self.state = self.state, value
        return ("was", former)

    def halt(self) -> None:
        raise Stop("normal", reply="stopping")

    def halt_without_reply(self) -> None:
        raise Stop("boom")

    def crash(self) -> None:
        raise ValueError("bad")

    def end(self, reason: object) -> None:
        exit(reason)

    def never(self) -> object:
        return NOREPLY

    def handle_cast(self, request: Any) -> None:
        self.state = [request[0], *self.state]


async def start(cls: type[GenServer] = Plain, *args: object, **options: Any) -> Pid:
    return role(await cls.start(*args, **options), "server")


async def started(starting: Awaitable[object]) -> object:
    """What `gen_server:start` gives for what ours raises."""
    try:
        return "ignore" if await starting is None else "ok"
    except ProcessDown as error:
        return ("error", error.reason)


# -- starts


@case
async def server_starts() -> object:
    return is_process_alive(await start())


@differs("starts", otp=("ok", "server"), ours="server")
async def server_start_gives() -> object:
    return role(await Plain.start(), "server")


@differs("starts", otp=("error", "no_reason"), ours=("ProcessDown", "no_reason"))
async def server_start_gives_no_reason() -> object:
    try:
        return await Refuses.start("stop")
    except ProcessDown as error:
        return (type(error).__name__, error.reason)


@case
async def server_init_gives_the_state() -> object:
    return await call(await start(Plain, "fresh"), "get")


@case
async def server_init_runs_in_the_server() -> object:
    class Tells(Plain):
        async def init(self, to: Any) -> None:
            await send(to, ("init", self_pid()))

    pid = await start(Tells, self())
    _, who = await next_message()
    return bool(who == pid)


self_pid = self


class Refuses(GenServer):
    def init(self, how: str) -> object:
        match how:
            case "stop":
                raise Stop("no_reason")
            case "ignore":
                return IGNORE
            case "exit":
                exit("boom")
            case "normal":
                exit("normal")
        raise ValueError("bad")


@case
async def server_init_stop() -> object:
    return await started(Refuses.start("stop"))


@case
async def server_init_ignore() -> object:
    return await started(Refuses.start("ignore"))


@case
async def server_init_exit() -> object:
    return await started(Refuses.start("exit"))


@differs("reasons", otp=("error", "bad"), ours=("error", ("ValueError", "bad")))
async def server_init_error() -> object:
    return await started(Refuses.start("error"))


@case
async def server_init_stop_when_linked() -> object:
    trap_exit(True)
    return (await started(Refuses.start_link("stop")), await next_message())


@case
async def server_init_ends_normally() -> object:
    return await started(Refuses.start("normal"))


@case
async def server_start_timeout() -> object:
    class Slow(GenServer):
        async def init(self, to: Pid) -> None:
            await send(to, ("init", self_pid()))
            await receive("never")

    try:
        gave = await started(Slow.start(self(), timeout=0.02))
    except Timeout:
        gave = ("error", "timeout")
    _, pid = await next_message()
    return (gave, await is_gone(pid))


@case
async def server_start_monitor() -> object:
    pid, ref = await Plain.start_monitor()
    exit(pid, "boom")
    return await down(ref)


@case
async def server_start_monitor_of_one_that_does_not_start() -> object:
    return (await started(Refuses.start_monitor("stop")), await quiet())


@case
async def server_name_is_free_after_a_bad_start() -> object:
    await started(Refuses.start("stop", name="short_lived"))
    return await whereis("short_lived")


@case
async def server_has_its_name_in_init() -> object:
    class Named(GenServer):
        async def init(self, to: Pid) -> None:
            await send(to, ("named", await whereis("named_early")))

    pid = await Named.start(self(), name="named_early")
    return ("named", pid) == await next_message()


@case
async def server_name_is_free_after_a_stop() -> object:
    await Plain.start(name="stopped_name")
    await GenServer.stop("stopped_name")
    return await whereis("stopped_name")


@differs("refusals", otp=("error", ("already_started", "first")), ours="NameTaken")
async def server_name_is_taken() -> object:
    await Plain.start(name="server_name")
    try:
        await Plain.start(name="server_name")
    except NameTaken as error:
        return type(error).__name__
    return "started"


@case
async def server_start_link_links() -> object:
    trap_exit(True)
    pid = role(await Plain.start_link(), "server")
    exit(pid, "boom")
    return await next_message()


# -- calls


@case
async def a_call() -> object:
    return await call(await start(), "put", "new")


@case
async def call_by_name() -> object:
    await start(name="called")
    return await call("called", "get")


@case
async def call_by_name_and_node() -> object:
    await start(name="called_there")
    return await call(("called_there", node()), "get")


@case
async def a_cast() -> object:
    pid = await start()
    gave = await GenServer.cast(pid, "one")
    return ("ok" if done(gave) else gave, await call(pid, "get"))


@case
async def casts_and_calls_keep_their_order() -> object:
    pid = await start()
    for number in (1, 2, 3):
        await GenServer.cast(pid, number)  # type: ignore[arg-type]
    return await call(pid, "get")


@case
async def cast_by_name() -> object:
    await start(name="cast_to")
    await GenServer.cast("cast_to", "one")
    return await call("cast_to", "get")


@case
async def info_is_handled() -> object:
    class Informed(Plain):
        def handle_info(self, message: Any) -> None:
            self.state = [("info", message), *self.state]

    pid = await start(Informed)
    await send(pid, "hello")
    return await call(pid, "get")


@case
async def calls_of_many_are_answered_in_order() -> object:
    class Counter(GenServer):
        def init(self) -> None:
            self.number = 0

        def count(self) -> int:
            self.number += 1
            return self.number

    me, pid = self(), await start(Counter)

    async def child() -> None:
        await send(me, await call(pid, "count"))

    for _ in range(3):
        await spawn(child)
    return sorted(await collect(3))


class Later(GenServer):
    """Answers `wait` when it is told to `go`; tells `watcher` that it did."""

    def init(self, watcher: Pid | None = None) -> None:
        self.watcher = watcher

    def wait(self) -> object:
        self.waiting = self.caller
        return NOREPLY

    def ready(self) -> bool:
        return True

    async def handle_cast(self, request: Any) -> None:
        await reply(self.waiting, "later")  # type: ignore[arg-type]
        if self.watcher is not None:
            await send(self.watcher, "replied")


@case
async def reply_later() -> object:
    pid = await start(Later)
    await spawn(lambda: GenServer.cast(pid, "go"))
    return await call(pid, "wait")


@case
async def reply_by_another_process() -> object:
    class Delegates(GenServer):
        async def question(self) -> object:
            await spawn(reply, self.caller, ("answered_by", "other"))
            return NOREPLY

    return await call(await start(Delegates), "question")


@case
async def reply_before_the_return() -> object:
    class Early(GenServer):
        async def question(self) -> object:
            await reply(self.caller, "early")  # type: ignore[arg-type]
            return NOREPLY

    return (await call(await start(Early), "question"), await quiet())


@case
async def a_second_reply_is_dropped() -> object:
    class Twice(GenServer):
        def question(self) -> str:
            self.first = self.caller
            return "one"

        def get(self) -> str:
            return "got"

        async def handle_cast(self, request: Any) -> None:
            await reply(self.first, "two")  # type: ignore[arg-type]

    pid = await start(Twice)
    one = await call(pid, "question")
    await GenServer.cast(pid, "again")
    return (one, await call(pid, "get"), await rest())


@case
async def reply_and_stop() -> object:
    pid = await start()
    ref = monitor(pid)
    return (await call(pid, "halt"), await down(ref))


@case
async def the_caller_of_a_call() -> object:
    class Names(GenServer):
        def who(self) -> object:
            assert self.caller is not None
            return self.caller[0]

    return await call(await start(Names), "who")


# -- failures


@case
async def call_to_the_dead() -> object:
    return await caught(call(await dead(), "get"))


@case
async def call_to_an_unknown_name() -> object:
    return await caught(call("no_such_name", "get"))


@differs("calls", otp=("noproc", "in_call"), ours="ProcessDown")
async def call_not_caught_ends_the_caller() -> object:
    kind, _ = await died(call, await dead(), "get")  # type: ignore[misc]
    return kind


@case
async def call_timeout() -> object:
    return await caught(call(await start(), "never", timeout=0.02))


@case
async def call_timeout_spares_the_server() -> object:
    pid = await start()
    await caught(call(pid, "never", timeout=0.02))
    return await call(pid, "get")


class Silent(GenStatem):
    def init(self) -> str:
        return "off"

    def off(self, kind: Any, content: Any) -> None:
        self.kept = self.caller


class Busy(GenServer):
    async def handle_cast(self, request: Any) -> None:
        await receive("never")


@differs(
    "times",
    otp=(("gave_up", "server"), "nothing"),
    ours=[("gave_up", "machine"), ("gave_up", "server"), ("gave_up", "stop")],
)
async def how_long_calls_wait() -> object:
    me, server, machine, busy = self(), await start(), await Silent.start(), await Busy.start()
    await GenServer.cast(busy, "block")

    async def waits(name: str, waiting: Awaitable[object]) -> None:
        await caught(waiting)
        await send(me, ("gave_up", name))

    await spawn(lambda: waits("server", call(server, "never")))
    await spawn(lambda: waits("machine", GenStatem.call(machine, "never")))
    await spawn(lambda: waits("stop", GenServer.stop(busy)))
    return sorted(await collect(3))


@case
async def a_late_reply_is_dropped() -> object:
    pid = await start(Later, self())
    outcome = await caught(call(pid, "wait", timeout=0.02))
    await GenServer.cast(pid, "go")
    await receive("replied", timeout=2)
    return (outcome, await quiet())


async def outcome_and_end(verb: str, *args: object) -> object:
    pid = await start()
    ref = monitor(pid)
    return (await caught(call(pid, verb, *args)), await down(ref))


BAD = ("ValueError", "bad")


@differs(
    "reasons", otp=(("exit", ("bad", "in_call")), "bad"), ours=(("exit", (BAD, "in_call")), BAD)
)
async def server_crashes_during_a_call() -> object:
    return await outcome_and_end("crash")


@case
async def server_exits_during_a_call() -> object:
    return await outcome_and_end("end", "boom")


@case
async def server_ends_normally_during_a_call() -> object:
    return await caught(call(await start(), "end", "normal"))


@case
async def server_stops_without_a_reply() -> object:
    return await caught(call(await start(), "halt_without_reply"))


@case
async def server_is_killed_during_a_call() -> object:
    pid = await start()
    await spawn(lambda: exit(pid, "kill"))
    return await caught(call(pid, "never"))


@differs(
    "verbs",
    otp=(("exit", ("function_clause", "in_call")), "function_clause"),
    ours=(("exit", ("raised", "undef")), "nothing"),
)
async def unknown_call() -> object:
    pid = await start()
    monitor(pid)
    return (await caught(call(pid, "no_such_call")), await quiet())


@differs("verbs", otp="function_clause", ours="nothing")
async def unknown_cast() -> object:
    class Deaf(GenServer):
        def get(self) -> str:
            return "here"

    pid = await start(Deaf)
    monitor(pid)
    await GenServer.cast(pid, ("no_such_cast",))
    return await quiet()


@case
async def call_to_oneself() -> object:
    class Selfish(GenServer):
        async def again(self) -> object:
            return await caught(call(self_pid(), "again"))

    return await call(await start(Selfish), "again")


@case
async def cast_to_the_dead() -> object:
    return "ok" if done(await GenServer.cast(await dead(), "hello")) else "?"


@case
async def cast_to_an_unknown_name() -> object:
    return "ok" if done(await GenServer.cast("no_such_name", "hello")) else "?"


@differs("state", otp=("bad_return_value", "rubbish"), ours="nothing")
async def a_bad_return_ends_the_server() -> object:
    class Returns(GenServer):
        def handle_cast(self, request: Any) -> str:
            return "rubbish"

    pid = await start(Returns)
    monitor(pid)
    await GenServer.cast(pid, "hello")
    return await quiet()
