"""GenStatem: transitions and postponing; twins of erlang/oracle_gen_statem.erl.

Erlang's half has one callback module of a fun; ours has a class for what a case needs.
"""

from __future__ import annotations

from typing import Any

from drupelet import (
    REPEAT_STATE,
    Down,
    GenStatem,
    Pid,
    monitor,
    receive,
    reply,
    self,
    send,
    spawn,
)
from tests.oracle.helpers import collect, dead, next_message, quiet, rest
from tests.oracle.normal import case, caught, differs, done, role

call = GenStatem.call


async def start(cls: type[GenStatem], *args: object, **options: Any) -> Pid:
    return role(await cls.start(*args, **options), "machine")


async def cast_all(pid: Pid, *messages: object) -> None:
    for message in messages:
        await GenStatem.cast(pid, message)


class Light(GenStatem):
    """`push` switches it, `get` tells its state and how often it was switched on."""

    def init(self) -> str:
        self.count = 0
        return "off"

    def off(self, kind: Any, content: Any) -> Any:
        return self._event(kind, content, "on")

    def on(self, kind: Any, content: Any) -> Any:
        return self._event(kind, content, "off")

    def _event(self, kind: Any, content: Any, other: str) -> Any:
        match kind, content:
            case "call", "get":
                self.reply((self.state, self.count))
            case "info", _:
                self.count += 100
            case _, "push":
                self.count += other == "on"
                if kind == "call":
                    self.reply(other)
                return other


class Telling(GenStatem):
    """Tells `to` every event; in a call ``("go", verb, *arguments)`` it does what a machine may."""

    def init(self, to: Pid) -> str:
        self.to = to
        return "off"

    async def off(self, kind: Any, content: Any) -> Any:
        return await self._event(kind, content)

    async def on(self, kind: Any, content: Any) -> Any:
        return await self._event(kind, content)

    async def _event(self, kind: Any, content: Any) -> Any:
        match kind, content:
            case "call", ("go", state, actions):
                for name, *arguments in actions:
                    getattr(self, name)(*arguments)
                self.reply("ok")
                return state
            case "call", "get":
                self.reply(self.state)
            case _:
                await send(self.to, ("event", kind, content, self.state))


async def telling() -> Pid:
    return await start(Telling, self())


async def go(pid: Pid, *actions: tuple[object, ...], state: str | None = None) -> None:
    assert await call(pid, ("go", state, list(actions))) == "ok"


@case
async def statem_call_changes_the_state() -> object:
    pid = await start(Light)
    return [await call(pid, request) for request in ("push", "push", "get")]


@case
async def statem_cast() -> object:
    pid = await start(Light)
    gave = await GenStatem.cast(pid, "push")
    return ("ok" if done(gave) else gave, await call(pid, "get"))


@case
async def statem_info() -> object:
    pid = await start(Light)
    await send(pid, "hello")
    return await call(pid, "get")


@case
async def statem_reply_later() -> object:
    class Later(GenStatem):
        def init(self) -> str:
            return "off"

        async def off(self, kind: Any, content: Any) -> None:
            match kind, content:
                case "call", "wait":
                    self.waiting = self.caller
                case "cast", "go":
                    await reply(self.waiting, "later")

    pid = await start(Later)
    await spawn(lambda: GenStatem.cast(pid, "go"))
    return await call(pid, "wait")


class Entered(GenStatem):
    """Tells `to` of the states that it enters; a call is the next state."""

    state_enter = True

    def init(self, to: Pid) -> str:
        self.to = to
        return "off"

    async def off(self, kind: Any, content: Any) -> Any:
        return await self._event(kind, content)

    async def on(self, kind: Any, content: Any) -> Any:
        return await self._event(kind, content)

    async def _event(self, kind: Any, content: Any) -> Any:
        match kind, content:
            case "enter", former:
                await send(self.to, ("enter", former, self.state))
            case "call", "sync":
                self.reply("ok")
            case "call", state:
                self.reply("ok")
                return state
            case "cast", "repeat":
                return REPEAT_STATE
            case "cast", "same":
                return self.state


@case
async def statem_enter_calls() -> object:
    pid = await start(Entered, self())
    for state in ("on", "on", "off"):
        await call(pid, state)
    return await rest()


async def entered_at(word: str) -> object:
    pid = await start(Entered, self())
    await GenStatem.cast(pid, word)
    await call(pid, "sync")
    return await rest()


@case
async def statem_repeat_state_enters_again() -> object:
    return await entered_at("repeat")


@case
async def statem_the_same_state_is_not_entered() -> object:
    return await entered_at("same")


@case
async def statem_enter_call_sets_a_timeout() -> object:
    class Rings(Telling):
        state_enter = True

        async def off(self, kind: Any, content: Any) -> Any:
            if kind == "enter":
                return self.state_timeout(0.01, "ring")
            return await super().off(kind, content)

    await start(Rings, self())
    return await next_message()


@case
async def statem_a_state_of_any_data() -> object:
    class Counts(GenStatem):
        def init(self) -> object:
            return ("count", 0)

        def handle_event(self, kind: Any, content: Any, state: Any) -> Any:
            _, number = state
            match kind, content:
                case "call", "up":
                    self.reply(number)
                    return ("count", number + 1)
                case "call", "get":
                    self.reply(state)

    pid = await start(Counts)
    return [await call(pid, request) for request in ("up", "up", "get")]


@case
async def statem_a_down_is_an_info() -> object:
    class Watches(GenStatem):
        def init(self, to: Pid, other: Pid) -> str:
            self.to = to
            monitor(other)
            return "off"

        async def off(self, kind: Any, content: Any) -> None:
            match kind, content:
                case "info", Down(reason=reason):
                    await send(self.to, ("got_down", reason))

    await start(Watches, self(), await dead())
    return await next_message()


@differs("verbs", otp="function_clause", ours="nothing")
async def statem_unknown_event() -> object:
    pid = await start(Light)
    monitor(pid)
    await GenStatem.cast(pid, "no_such_cast")
    return await quiet()


@differs(
    "verbs",
    otp=(("exit", ("function_clause", "in_call")), "function_clause"),
    ours=(("exit", ("raised", "undef")), "nothing"),
)
async def statem_unknown_call() -> object:
    pid = await start(Light)
    monitor(pid)
    return (await caught(call(pid, "no_such_call")), await quiet())


# -- what comes next


@case
async def statem_next_event_comes_first() -> object:
    pid = await telling()
    await go(pid, ("next_event", "internal", "one"), ("next_event", "internal", "two"))
    return await collect(2)


class Blocks(GenStatem):
    """At "first" it waits for "go", then does `act`; tells `to` of all else."""

    def init(self, to: Pid, *act: tuple[object, ...]) -> str:
        self.to, self.act = to, act
        return "off"

    async def off(self, kind: Any, content: Any) -> None:
        await send(self.to, content)
        if (kind, content) == ("cast", "first"):
            await receive("go")
            for name, *arguments in self.act:
                getattr(self, str(name))(*arguments)


async def blocked(*act: tuple[object, ...], waiting: bool = True) -> Pid:
    pid = await start(Blocks, self(), *act)
    await GenStatem.cast(pid, "first")
    assert await next_message() == "first"
    if waiting:
        await GenStatem.cast(pid, "waiting")
    await send(pid, "go")
    return pid


@case
async def statem_next_event_before_what_waits() -> object:
    await blocked(("next_event", "internal", "inner"))
    return await collect(2)


@case
async def statem_state_timeout_0_comes_before_what_waits() -> object:
    await blocked(("state_timeout", 0, "zero"))
    return await collect(2)


@case
async def statem_event_timeout_0_is_given_up_for_what_waits() -> object:
    inner, zero = ("next_event", "internal", "inner"), ("event_timeout", 0, "zero")
    await blocked(inner, zero, waiting=False)
    return (await next_message(), await quiet())


# -- postponing


class PutsOff(GenStatem):
    """Puts off numbers until it is open."""

    def init(self, to: Pid) -> str:
        self.to = to
        return "off"

    async def off(self, kind: Any, content: Any) -> Any:
        match kind, content:
            case "cast", "open":
                return "on"
            case "cast", "again":
                return "off"
            case "cast", "repeat":
                return REPEAT_STATE
            case "call", "sync":
                self.reply("ok")
            case _:
                if kind == "cast":
                    await send(self.to, ("put_off", content))
                self.postpone()

    async def on(self, kind: Any, content: Any) -> None:
        match kind:
            case "call":
                self.reply(("on", content))
            case _:
                await send(self.to, ("done", content))


@case
async def statem_postponed_until_the_state_changes() -> object:
    await cast_all(await start(PutsOff, self()), 1, 2, "open", 3)
    return await collect(5)


@case
async def statem_postponed_calls_are_answered() -> object:
    pid = await start(PutsOff, self())
    await spawn(lambda: GenStatem.cast(pid, "open"))
    return await call(pid, "hello")


async def put_off_until(word: str) -> object:
    pid = await start(PutsOff, self())
    await cast_all(pid, 1, word)
    await call(pid, "sync")
    return await rest()


@case
async def statem_postponed_is_not_tried_in_the_same_state() -> object:
    return await put_off_until("again")


@case
async def statem_repeat_state_tries_nothing_again() -> object:
    return await put_off_until("repeat")


@case
async def statem_next_events_come_before_postponed() -> object:
    class Opens(GenStatem):
        def init(self, to: Pid) -> str:
            self.to = to
            return "off"

        def off(self, kind: Any, content: Any) -> Any:
            if content == "open":
                self.next_event("internal", "inner")
                return "on"
            return self.postpone()

        async def on(self, kind: Any, content: Any) -> None:
            await send(self.to, content)

    await cast_all(await start(Opens, self()), 1, 2, "open")
    return await collect(3)


@case
async def statem_postponed_twice_keep_their_order() -> object:
    class Doors(GenStatem):
        def init(self, to: Pid) -> str:
            self.to = to
            return "off"

        def off(self, kind: Any, content: Any) -> Any:
            return "on" if content == "open" else self.postpone()

        def on(self, kind: Any, content: Any) -> Any:
            return "third" if content == "open" else self.postpone()

        async def third(self, kind: Any, content: Any) -> None:
            await send(self.to, content)

    await cast_all(await start(Doors, self()), 1, 2, "open", 3, "open", 4)
    return await collect(4)
