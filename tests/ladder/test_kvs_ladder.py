"""LADDER: the key-value store of seed 001, on every rung with the same file.

A test is a program: a process that is told on which node the store is, and asks it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from drupelet import (
    Down,
    GenServer,
    Pid,
    Ref,
    monitor,
    receive,
    self,
    send_after,
    spawn_monitor,
    trap_exit,
    whereis,
)
from drupelet import exit as exit_
from drupelet.errors import NotSendable, RemoteError

Climb = Callable[[Callable[[str], Awaitable[Any]]], Any]
ROUNDS = 50
CLIENTS = 5


def store_on(node: str) -> tuple[str, str]:
    return ("kvs.Kvs", node)


def test_the_session_of_seed_001(climb: Climb) -> None:
    async def program(node: str) -> None:
        kvs = store_on(node)
        assert await GenServer.call(kvs, "store", "weather", "fine") is True
        assert await GenServer.call(kvs, "lookup", "weather") == ("ok", "fine")
        assert await GenServer.call(kvs, "lookup", "rain") is None

    climb(program)


def test_a_value_comes_back_as_it_was(climb: Climb) -> None:
    async def program(node: str) -> None:
        kvs = store_on(node)
        values: list[object] = [
            None,
            (1, -(2**63), 2.5, "ä", b"\x00", True),
            [{"key": [()], 7: {}}, (("nested",),)],
            datetime(2026, 11, 21, 18, 10, tzinfo=UTC),
            self(),
        ]
        for number, value in enumerate(values):
            assert await GenServer.call(kvs, "store", number, value) is True
            ok, found = await GenServer.call(kvs, "lookup", number)
            assert (ok, found, type(found)) == ("ok", value, type(value))

    climb(program)


def test_what_is_no_data_stays_here(climb: Climb) -> None:
    async def program(node: str) -> None:
        kvs = store_on(node)
        with pytest.raises(NotSendable):
            await GenServer.call(kvs, "store", "code", print)
        assert await GenServer.call(kvs, "lookup", "code") is None

    climb(program)


def test_a_refusal_is_told_and_nothing_is_lost(climb: Climb) -> None:
    async def program(node: str) -> None:
        kvs = store_on(node)
        await GenServer.call(kvs, "store", "weather", "fine")
        with pytest.raises(RemoteError, match="badarg: a key is a text or a number"):
            await GenServer.call(kvs, "store", ["a", "list"], 1)
        with pytest.raises(RemoteError, match="undef"):
            await GenServer.call(kvs, "boil", 1)
        assert await GenServer.call(kvs, "lookup", "weather") == ("ok", "fine")

    climb(program)


def test_casts_and_calls_of_one_client_stay_in_order(climb: Climb) -> None:
    async def client(node: str, who: int) -> None:
        kvs = store_on(node)
        for number in range(ROUNDS):
            await GenServer.cast(kvs, "store", who, number)
            if number % 7 == 0:
                assert await GenServer.call(kvs, "lookup", who) == ("ok", number)
        assert await GenServer.call(kvs, "lookup", who) == ("ok", ROUNDS - 1)

    async def program(node: str) -> None:
        watched: set[Ref] = set()
        for who in range(CLIENTS):
            _, ref = await spawn_monitor(client, node, who)
            watched.add(ref)
        while watched:
            down = await receive(Down, timeout=30)
            assert down.reason == "normal"
            watched.discard(down.ref)

    climb(program)


def test_a_store_that_is_killed_is_told_once_and_comes_again_empty(climb: Climb) -> None:
    async def program(node: str) -> None:
        trap_exit(True)
        kvs = store_on(node)
        await GenServer.call(kvs, "store", "weather", "fine")
        former = await whereis(*kvs)
        assert isinstance(former, Pid)
        refs = [monitor(former), monitor(former)]
        exit_(former, "kill")
        downs = [await receive(Down, timeout=10) for _ in refs]
        assert sorted(each.ref.number for each in downs) == [each.number for each in refs]
        assert {(each.pid, each.reason) for each in downs} == {(former, "killed")}
        while await whereis(*kvs) in (None, former):
            send_after(0.02, self(), "look again")
            await receive("look again")
        assert await GenServer.call(kvs, "lookup", "weather") is None
        gone = monitor(former)  # that pid is nobody's, for ever
        assert (await receive(Down, timeout=10)) == Down(gone, former, "noproc")

    climb(program)
