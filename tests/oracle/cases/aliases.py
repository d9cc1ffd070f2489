"""`ask` and `reply` without a behaviour: twins of erlang/oracle_aliases.erl."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from drupelet import (
    Pid,
    Request,
    ask,
    exit,
    monitor,
    node,
    receive,
    register,
    reply,
    self,
    send,
    spawn,
)
from tests.oracle.helpers import collect, dead, down, forever, next_message, quiet, rest
from tests.oracle.normal import case, caught, role

Serve = Callable[[Any, Any], Any]


async def serving(function: Serve) -> Pid:
    """A process that hands each request to a function."""

    async def serve() -> None:
        while True:
            match await receive(Request):
                case Request(caller, request):
                    await function(caller, request)

    return role(await spawn(serve), "server")


async def echo() -> Pid:
    return await serving(reply)


async def handing() -> Pid:
    """Gives its requests to this process, who does with them what it likes."""
    me = self()

    async def hands(caller: Any, request: object) -> None:
        await send(me, ("asked", caller, request))

    return await serving(hands)


async def slow_or_echo() -> Pid:
    """Gives the callers of "slow" to this process; answers others by the same."""
    me = self()

    async def serve(caller: Any, request: object) -> None:
        if request == "slow":
            await send(me, ("asked", caller))
        else:
            await reply(caller, request)

    return await serving(serve)


async def ending(_: object, reason: object) -> None:
    exit(reason)


async def asking(to: Pid, request: object) -> Pid:
    """Ask in a process of its own, which tells this one the outcome."""
    me = self()

    async def child() -> None:
        await send(me, ("outcome", await caught(ask(to, request))))

    return await spawn(child)


@case
async def ask_and_reply() -> object:
    return await ask(await echo(), ["hello", 1])


@case
async def ask_by_name() -> object:
    await register("asked_name", await echo())
    return await ask("asked_name", "hello")


@case
async def ask_by_name_and_node() -> object:
    await register("asked_there", await echo())
    return await ask(("asked_there", node()), "hello")


@case
async def ask_answers_out_of_order() -> object:
    to = await handing()
    for number in (1, 2):
        await asking(to, number)
    for _, caller, number in reversed(await collect(2)):
        await reply(caller, ("answer", number))
    return sorted(await collect(2))


@case
async def ask_reply_by_who_was_told_of_the_caller() -> object:
    async def third() -> None:
        _, caller = await receive(("please", tuple))
        await reply(caller, "by_a_third")

    await asking(await handing(), "hello")
    _, caller, _ = await next_message()
    await send(await spawn(third), ("please", caller))
    return await next_message()


@case
async def ask_a_second_reply_is_dropped() -> object:
    async def twice(caller: Any, _: object) -> None:
        await reply(caller, "one")
        await reply(caller, "two")

    return (await ask(await serving(twice), "hello"), await quiet())


@case
async def ask_a_late_reply_is_dropped() -> object:
    outcome = await caught(ask(await handing(), "hello", timeout=0.02))
    _, caller, _ = await next_message()
    await reply(caller, "late")
    return (outcome, await quiet())


@case
async def ask_after_a_late_reply() -> object:
    to = await slow_or_echo()
    await caught(ask(to, "slow", timeout=0.02))
    _, caller = await next_message()
    await reply(caller, "late")
    return (await ask(to, "quick"), await quiet())


@case
async def ask_the_dead() -> object:
    return (await caught(ask(await dead(), "hello")), await quiet())


@case
async def ask_the_receiver_ends() -> object:
    return (await caught(ask(await serving(ending), "boom")), await quiet())


@case
async def ask_the_receiver_ends_normally() -> object:
    return await caught(ask(await serving(ending), "normal"))


@case
async def ask_the_receiver_is_killed() -> object:
    async def dies(_: object, __: object) -> None:
        exit(self(), "kill")
        await forever()

    return await caught(ask(await serving(dies), "hello"))


@case
async def ask_a_reply_before_the_end_counts() -> object:
    async def last(caller: Any, value: object) -> None:
        await reply(caller, value)
        exit("boom")

    return (await ask(await serving(last), "hello"), await quiet())


@case
async def ask_a_reply_after_the_end_is_dropped() -> object:
    to = await handing()
    await asking(to, "hello")
    _, caller, _ = await next_message()
    exit(to, "boom")
    outcome = await next_message()
    await reply(caller, "late")
    return (outcome, await quiet())


@case
async def ask_the_asker_ends() -> object:
    to = await slow_or_echo()
    asker = await asking(to, "slow")
    _, caller = await next_message()
    ref = monitor(asker)
    exit(asker, "boom")
    assert await down(ref) == "boom"
    await reply(caller, "late")
    return await ask(to, "still_here")


@case
async def ask_leaves_what_waits() -> object:
    await send(self(), "one")
    await send(self(), "two")
    return (await ask(await echo(), "hello"), await rest())
