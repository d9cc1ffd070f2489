"""GenEvent: handlers come and go, a crash takes the handler only; twins of oracle_gen_event.erl."""

from __future__ import annotations

from typing import Any

from drupelet import (
    Exit,
    GenEvent,
    NameTaken,
    Pid,
    ProcessDown,
    Refused,
    Stop,
    exit,
    is_process_alive,
    monitor,
    receive,
    self,
    send,
    trap_exit,
)
from tests.oracle.helpers import collect, dead, died, down, is_gone, next_message, rest
from tests.oracle.normal import case, caught, differs, done, role

BAD = ("ValueError", "bad")


class Quiet(GenEvent):
    """Does nothing."""


class Teller(GenEvent):
    """Tells `to` of every event under its id, and of its end."""

    def init(self, id: str, to: Pid) -> None:
        self.id, self.to = id, to

    async def handle_event(self, event: Any) -> None:
        await send(self.to, (self.id, event))

    def handle_call(self, request: Any) -> object:
        return (self.id, request)

    async def terminate(self, reason: Any) -> object:
        await send(self.to, ("terminate", self.id, reason))
        return ("left_by", self.id)


class Fails(Teller):
    async def handle_event(self, event: Any) -> None:
        raise ValueError("bad")


class Leaves(Teller):
    async def handle_event(self, event: Any) -> None:
        self.remove()


class Handed(GenEvent):
    """Tells `to` what the handler before it left."""

    async def init(self, to: Pid, handed: Any) -> None:
        await send(to, ("handed", handed))


async def start() -> Pid:
    return role(await GenEvent.start(), "manager")


async def add(pid: Pid, id: str, cls: type[GenEvent] = Teller) -> None:
    await GenEvent.add_handler(pid, (cls, id), id, self())


async def tellers(*ids: str) -> Pid:
    pid = await start()
    for id in ids:
        await add(pid, id)
    return pid


async def ids(pid: Pid) -> list[object]:
    return [name[1] for name in await GenEvent.which_handlers(pid)]


async def ok(verb: Any) -> object:
    """``ok`` or ``{error, Reason}``."""
    try:
        return "ok" if done(await verb) else "?"
    except Refused as error:
        return ("error", error.reason)


# -- handlers come and go


@case
async def event_add_handler() -> object:
    pid = await start()
    return (await ok(GenEvent.add_handler(pid, (Quiet, "a"))), await ids(pid))


@case
async def event_newest_handler_is_first() -> object:
    return await ids(await tellers("a", "b"))


@case
async def event_add_handler_twice() -> object:
    pid = await tellers("a")
    return (await ok(add(pid, "a")), await ids(pid))


class Refuses(GenEvent):
    def init(self, how: str) -> None:
        if how == "stop":
            raise Stop("no_luck")
        raise ValueError("bad")


@case
async def event_handler_that_does_not_start() -> object:
    pid = await start()
    return (await ok(GenEvent.add_handler(pid, (Refuses, "a"), "stop")), await ids(pid))


@differs("reasons", otp=("bad", []), ours=(BAD, []))
async def event_handler_that_fails_in_init() -> object:
    pid = await start()
    _, reason = await ok(GenEvent.add_handler(pid, (Refuses, "a"), "raise"))  # type: ignore[misc]
    return (reason, await ids(pid))


@case
async def event_delete_handler() -> object:
    pid = await tellers("a")
    gave = await GenEvent.delete_handler(pid, (Teller, "a"), "why")
    return (gave, await next_message(), await ids(pid))


@case
async def event_delete_an_unknown_handler() -> object:
    return await ok(GenEvent.delete_handler(await start(), (Teller, "a"), "why"))


@case
async def event_handler_removes_itself() -> object:
    pid = await start()
    await add(pid, "a", Leaves)
    await GenEvent.sync_notify(pid, "hello")
    return (await rest(), await ids(pid))


async def swapped(pid: Pid) -> object:
    swap = GenEvent.swap_handler(pid, (Teller, "a"), (Handed, "b"), self(), why="why")
    return (await ok(swap), await rest(), await ids(pid))


@case
async def event_swap_handler() -> object:
    return await swapped(await tellers("a"))


@case
async def event_swap_an_unknown_handler() -> object:
    return await swapped(await start())


@case
async def event_a_handler_hands_over() -> object:
    class Hands(Teller):
        async def handle_event(self, event: Any) -> None:
            self.swap((Handed, "b"), self.to, why="why")

    pid = await start()
    await add(pid, "a", Hands)
    await GenEvent.sync_notify(pid, "hello")
    return (await rest(), await ids(pid))


# -- events and calls


@case
async def event_notify_reaches_all() -> object:
    gave = await GenEvent.notify(await tellers("a", "b"), "hello")
    return ("ok" if done(gave) else gave, await collect(2))


@case
async def event_notify_without_handlers() -> object:
    return "ok" if done(await GenEvent.notify(await start(), "hello")) else "?"


@case
async def event_notify_the_dead() -> object:
    return "ok" if done(await GenEvent.notify(await dead(), "hello")) else "?"


@case
async def event_notify_keeps_order() -> object:
    pid = await tellers("a")
    for number in (1, 2, 3):
        await GenEvent.notify(pid, number)
    return await collect(3)


@case
async def event_sync_notify_waits() -> object:
    gave = await GenEvent.sync_notify(await tellers("a"), "hello")
    return ("ok" if done(gave) else gave, await rest())


@case
async def event_sync_notify_the_dead() -> object:
    try:
        await GenEvent.sync_notify(await dead(), "hello")
    except ProcessDown as error:
        return ("exit", error.reason)
    return "ok"


@case
async def event_by_name() -> object:
    await GenEvent.start(name="event_named")
    await GenEvent.add_handler("event_named", (Teller, "a"), "a", self())
    await GenEvent.notify("event_named", "hello")
    return await next_message()


@case
async def event_info_reaches_all() -> object:
    class Informed(Teller):
        async def handle_info(self, message: Any) -> None:
            await send(self.to, (self.id, message))

    pid = await start()
    for id in ("a", "b"):
        await add(pid, id, Informed)
    await send(pid, "hello")
    return await collect(2)


@case
async def event_call() -> object:
    return await GenEvent.call(await tellers("a", "b"), (Teller, "a"), "question")


@case
async def event_call_an_unknown_handler() -> object:
    return await ok(GenEvent.call(await start(), (Teller, "a"), "question"))


@case
async def event_call_the_dead() -> object:
    return await caught(GenEvent.call(await dead(), (Teller, "a"), "question"))


@case
async def event_call_timeout() -> object:
    class Silent(Teller):
        async def handle_call(self, request: Any) -> None:
            await receive("never")

    pid = await start()
    await add(pid, "a", Silent)
    return await caught(GenEvent.call(pid, (Silent, "a"), "question", timeout=0.02))


# -- crashes and ends


@differs(
    "reasons",
    otp=([("good", "hello"), ("terminate", "bad", ("error", "bad"))], ["good"], True),
    ours=([("good", "hello"), ("terminate", "bad", ("error", BAD))], ["good"], True),
)
async def event_crash_takes_the_handler_only() -> object:
    pid = await start()
    await add(pid, "bad", Fails)
    await add(pid, "good")
    await GenEvent.sync_notify(pid, "hello")
    told = sorted(await rest(), key=lambda each: str(each))
    return (told, await ids(pid), is_process_alive(pid))


@differs("reasons", otp=("bad", []), ours=(BAD, []))
async def event_call_that_crashes() -> object:
    class Breaks(Teller):
        def handle_call(self, request: Any) -> None:
            raise ValueError("bad")

    pid = await start()
    await add(pid, "a", Breaks)
    _, reason = await ok(GenEvent.call(pid, (Breaks, "a"), "question"))  # type: ignore[misc]
    return (reason, await ids(pid))


@case
async def event_stop_terminates_the_handlers() -> object:
    pid = await tellers("a", "b")
    ref = monitor(pid)
    gave = await GenEvent.stop(pid)
    return ("ok" if done(gave) else gave, sorted(await collect(2)), await down(ref))


@case
async def event_manager_ends_with_its_parent() -> object:
    me = self()

    async def parent() -> None:
        pid = await GenEvent.start_link()
        await GenEvent.add_handler(pid, (Teller, "a"), "a", me)
        await send(me, ("manager", pid))
        exit("boom")

    assert await died(parent) == "boom"
    _, pid = await next_message()
    return (await next_message(), await is_gone(pid))


@differs("refusals", otp=("error", ("already_started", "first")), ours="NameTaken")
async def event_name_is_taken() -> object:
    await GenEvent.start(name="event_name")
    try:
        await GenEvent.start(name="event_name")
    except NameTaken as error:
        return type(error).__name__
    return "started"


# -- handlers that their owner hears of


async def supervised(cls: type[GenEvent] = Quiet, *args: object) -> Pid:
    pid = await start()
    await GenEvent.add_sup_handler(pid, (cls, "a"), *args)
    return pid


async def told() -> object:
    word, (_, id), reason = await next_message()
    assert word == "gen_event_EXIT"
    return (id, reason)


@differs("reasons", otp=(("error", "bad"), "bad", "bad"), ours=(("error", BAD), "a", BAD))
async def event_supervised_handler_tells_of_its_crash() -> object:
    pid = await supervised(Fails, "a", self())
    await GenEvent.sync_notify(pid, "hello")
    _, _, why = await next_message()
    id, reason = await told()  # type: ignore[misc]
    return (why, id, reason)


@case
async def event_supervised_handler_tells_that_it_was_deleted() -> object:
    await GenEvent.delete_handler(await supervised(), (Quiet, "a"), "why")
    return await told()


@case
async def event_supervised_handler_tells_that_it_left() -> object:
    class Goes(GenEvent):
        def handle_event(self, event: Any) -> None:
            self.remove()

    await GenEvent.notify(await supervised(Goes), "hello")
    return await told()


@case
async def event_supervised_handler_tells_of_the_managers_end() -> object:
    await GenEvent.stop(await supervised())
    return await told()


@case
async def event_supervised_handler_tells_that_it_was_swapped() -> object:
    class Takes(GenEvent):
        def init(self, handed: Any) -> None:
            pass

    pid = await supervised()
    await GenEvent.swap_sup_handler(pid, (Quiet, "a"), (Takes, "b"), why="why")
    id, (word, (_, new), owner) = await told()  # type: ignore[misc]
    assert (id, word) == ("a", "swapped")
    return (new, owner, await ids(pid))


@case
async def event_supervised_handler_is_linked_to_its_owner() -> object:
    trap_exit(True)
    exit(await supervised(), "kill")
    return await next_message(Exit)


@case
async def event_supervised_handler_goes_with_its_owner() -> object:
    pid, me = await start(), self()

    async def owner() -> None:
        await GenEvent.add_sup_handler(pid, (Teller, "a"), "a", me)
        await send(me, "added")

    assert await died(owner) == "normal"
    assert await next_message() == "added"
    return (await next_message(), await ids(pid))
