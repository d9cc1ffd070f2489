"""Sending, receiving, timeouts and timers: twins of erlang/oracle_messages.erl."""

from __future__ import annotations

import trio

import drupelet
from drupelet import (
    ReceiveTimeout,
    Ref,
    cancel_timer,
    exit,
    monitor,
    node,
    read_timer,
    receive,
    register,
    self,
    send,
    send_after,
    spawn,
)
from tests.oracle.helpers import (
    OVER_S,
    SOON_S,
    answering,
    collect,
    dead,
    died,
    down,
    next_message,
    nothing,
    quiet,
    rest,
)
from tests.oracle.normal import case, differs, raised


async def send_all(*messages: object) -> None:
    for message in messages:
        await send(self(), message)


async def received_or_timeout(pattern: object, timeout: float) -> object:
    try:
        return await receive(pattern, timeout=timeout)
    except ReceiveTimeout:
        return "timeout"


@case
async def send_keeps_order() -> object:
    me = self()

    async def child() -> None:
        for number in range(1, 6):
            await send(me, number)

    await spawn(child)
    return await collect(5)


@case
async def send_to_oneself() -> object:
    await send(self(), "hello")
    return await next_message()


@differs("none", otp="hello", ours=None)
async def send_gives_the_message() -> object:
    return await send(self(), "hello")


@case
async def receive_takes_the_oldest() -> object:
    await send_all("a", "b", "c")
    return (await next_message(), await rest())


@case
async def receive_selects_and_leaves_the_rest() -> object:
    await send_all("a", "b", "c", "d")
    return (await receive("c"), await receive("a"), await rest())


@case
async def receive_with_a_guard() -> object:
    await send_all(1, 20, 3)

    def big(message: object) -> bool:
        match message:
            case int(number) if number > 10:
                return True
        return False

    return (await receive(big), await rest())


@case
async def receive_prefers_age_to_the_first_pattern() -> object:
    await send_all("b", "a")

    def a_or_b(message: object) -> bool:
        match message:
            case "a":
                return True
            case "b":
                return True
        return False

    return (await receive(a_or_b), await rest())


@case
async def receive_of_a_shape() -> object:
    await send_all(("put", 1), 7, ("get", "x"), ("put", 2))
    _, first = await receive(("put", int))
    _, second = await receive(("put", int))
    return (first, second, await rest())


@case
async def receive_timeout_0_of_an_empty_mailbox() -> object:
    return await received_or_timeout(None, 0)


@case
async def receive_timeout_0_takes_what_waits() -> object:
    await send_all("hello")
    return await received_or_timeout(None, 0)


@case
async def receive_timeout_0_leaves_what_does_not_fit() -> object:
    await send_all("hello")
    return (await received_or_timeout("other", 0), await rest())


@case
async def receive_timeout_is_waited_for() -> object:
    started = trio.current_time()
    what = await received_or_timeout(None, 0.02)
    return (what, trio.current_time() - started >= 0.02)


@case
async def receive_timeout_is_not_prolonged_by_other_messages() -> object:
    for seconds in (0.01, 0.02, 0.03):
        send_after(seconds, self(), "noise")
    return (await received_or_timeout("wanted", SOON_S), await rest())


@case
async def send_to_the_dead() -> object:
    await send(await dead(), "hello")
    return "still_here"


@differs("refusals", otp=("error", "badarg"), ours=("raised", "ProcessDown"))
async def send_to_an_unknown_name() -> object:
    return await raised(send("no_such_name", "hello"))


@case
async def send_to_an_unknown_name_with_node() -> object:
    await send(("no_such_name", node()), "hello")
    return "still_here"


@case
async def send_to_ones_own_name() -> object:
    await register("own")
    await send("own", "hello")
    return await next_message()


@case
async def send_to_a_name_with_node() -> object:
    await register("own")
    await send(("own", node()), "hello")
    return await next_message()


@case
async def a_message_is_a_copy() -> object:
    numbers = [1]
    await send(self(), numbers)
    numbers.append(2)
    return await next_message()


@case
async def a_pid_in_a_message_can_be_sent_to() -> object:
    async def child() -> None:
        match await receive():
            case ("to", [("pid", pid)]):
                await send(pid, ("from_child", "ok"))

    await send(await spawn(child), ("to", [("pid", self())]))
    return await next_message()


@case
async def a_ref_survives_a_message() -> object:
    ref = a_ref()
    await send(self(), ("ref", ref))
    _, back = await next_message()
    return bool(back == ref)


@differs("words", otp=(True, False), ours="str")
async def a_word_in_a_message() -> object:
    await send(self(), "hello")
    return type(await next_message()).__name__


@case
async def refs_are_unique() -> object:
    return a_ref() == a_ref()


def a_ref() -> Ref:
    """We have no make_ref: a ref comes with what it marks."""
    ref = send_after(60, self(), "never")
    cancel_timer(ref)
    return ref


@differs("data", otp="delivered", ours=("raised", "NotSendable"))
async def a_function_in_a_message() -> object:
    return await raised(send(self(), a_ref))


@differs("dictionary", otp="value", ours="not offered")
async def process_dictionary() -> object:
    names = {"put", "get", "erase"} & {*dir(drupelet), *dir(drupelet.process)}
    return names or "not offered"


@case
async def timer_fires() -> object:
    send_after(0.005, self(), "tick")
    return await next_message()


@case
async def timers_fire_by_time() -> object:
    for ms in (300, 100, 200):
        send_after(ms / 1000, self(), ms)
    return await collect(3)


@case
async def timers_of_equal_time_fire_in_their_order() -> object:
    for number in (1, 2, 3, 4):
        send_after(0.01, self(), number)
    return await collect(4)


@case
async def timer_0() -> object:
    send_after(0, self(), "tick")
    return await next_message()


@case
async def cancel_timer_gives_what_was_left() -> object:
    left = cancel_timer(send_after(5, self(), "tick"))
    return (left is not None and 4 < left <= 5, await nothing())


@differs("timers", otp=("tick", False), ours=("tick", None))
async def cancel_a_timer_that_fired() -> object:
    timer = send_after(0, self(), "tick")
    return (await next_message(), cancel_timer(timer))


@differs("timers", otp=(True, False), ours=(True, None))
async def cancel_a_timer_twice() -> object:
    timer = send_after(5, self(), "tick")
    return (isinstance(cancel_timer(timer), float), cancel_timer(timer))


@case
async def a_cancelled_timer_does_not_fire() -> object:
    cancel_timer(send_after(SOON_S, self(), "tick"))
    return await quiet(OVER_S)


@differs("timers", otp=(True, True, False), ours=(True, True, None))
async def reading_a_timer() -> object:
    timer = send_after(5, self(), "tick")
    left = read_timer(timer)
    return (
        left is not None and left > 4,
        isinstance(cancel_timer(timer), float),
        read_timer(timer),
    )


@case
async def cancel_a_timer_of_another() -> object:
    me, timer = self(), send_after(SOON_S, self(), "tick")

    async def child() -> None:
        await send(me, isinstance(cancel_timer(timer), float))

    assert await died(child) == "normal"
    return (await next_message(), await quiet(OVER_S))


@differs("timers", otp=False, ours=None)
async def a_timer_of_who_died_is_over() -> object:
    pid = await answering()
    timer = send_after(60, pid, "tick")
    exit(pid, "kill")
    await down(monitor(pid))
    return read_timer(timer)


@differs("timers", otp=False, ours=None)
async def a_timer_of_the_dead_is_over() -> object:
    return read_timer(send_after(60, await dead(), "tick"))


@differs("timers", otp=("error", "timeout_value"), ours="timeout")
async def receive_timeout_below_0() -> object:
    return await received_or_timeout(None, -1)


@differs("refusals", otp=("error", "badarg"), ours="ValueError")
async def timer_below_0() -> object:
    try:
        return send_after(-1, self(), "tick")
    except ValueError as error:
        return type(error).__name__


@case
async def timer_to_the_dead() -> object:
    send_after(0, await dead(), "tick")
    send_after(0.005, self(), "later")
    return await next_message()


@case
async def timer_to_a_name_that_comes_later() -> object:
    send_after(SOON_S, "latecomer", "tick")
    await register("latecomer")
    return await next_message()


@case
async def a_timer_survives_who_started_it() -> object:
    me = self()

    async def child() -> None:
        send_after(SOON_S, me, "tick")

    assert await died(child) == "normal"
    return await next_message()
