"""Nothing that began under a grant runs when its revocation is answered: with real workers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from drupelet.errors import CallError, NoConnection, Revoked
from drupelet.node import Node
from drupelet.wire import frames
from drupelet.wire.codec import dumps
from drupelet.wire.keys import key_to_text
from tests.unit.services.nodes import open_small_node

KITCHEN = """
import os, subprocess, sys, threading
import trio
from drupelet import GenServer, cast, mission, send, spawn
from drupelet.process import receive

LOG = []
GOING = set()
DOOR = threading.Event()

async def run(name):
    GOING.add(name)
    while True:
        await trio.sleep(0.001)
        LOG.append(name)

@mission("kitchen")
async def tick(name): await run(name)

@mission("kitchen")
async def leave(name): await spawn(run, name)

@mission("kitchen")
async def leave_a_family(name):
    async def parent():
        await spawn(run, name)
        await trio.sleep_forever()
    await spawn(parent)

@mission("kitchen")
def leave_a_thread(name):
    def work():
        GOING.add(name)
        while not DOOR.wait(0.001):
            LOG.append(name)
    threading.Thread(target=work, daemon=True).start()

@mission("kitchen")
def leave_a_program(name):
    subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    GOING.add(name)

@mission("kitchen", where="thread")
def compute(name):
    GOING.add(name)
    DOOR.wait()

@mission("kitchen")
class Oven(GenServer):
    async def bake(self, name): await run(name)
    @cast
    def heat(self, name): LOG.append(name)

@mission("kitchen")
def large(): return bytes(8_000_000)

@mission("kitchen")
def log(): return list(LOG)

@mission("kitchen")
def going(): return len(GOING)

@mission("kitchen")
def open_door(): DOOR.set()

@mission("kitchen")
def pid(): return os.getpid()
"""
EXPORTS = [
    "tick", "leave", "leave_a_family", "leave_a_thread", "leave_a_program", "compute", "Oven.bake",
    "Oven.heat", "large", "log", "going", "open_door", "pid",
]  # fmt: skip


@asynccontextmanager
async def kitchens(directory: Path) -> AsyncIterator[tuple[Node, Node]]:
    missions = directory / "alice" / "missions.d"
    missions.mkdir(parents=True)
    (missions / "kitchen.py").write_text(KITCHEN)
    (missions / "kitchen.toml").write_text(f'module = "kitchen.py"\nexports = {EXPORTS}\n')
    with trio.fail_after(50):
        async with (
            open_small_node(directory, "alice", cookie="a") as alice,
            open_small_node(directory, "bob", cookie="b") as bob,
        ):
            yield alice, bob


async def granted(alice: Node, bob: Node, *functions: str) -> str:
    """A grant that Bob has accepted: its id."""
    terms = {"functions": list(functions)} if functions else {}
    made = await alice.grants.issue("kitchen", key_to_text(bob.key), terms)
    await bob.grants.accept(str(made["text"]))
    return str(made["id"])


async def own(alice: Node, function: str, *args: object) -> object:
    """Alice's own call, which nothing takes back."""
    return await alice.call("alice", "kitchen", function, *args, timeout=30)


def cast(bob: Node, function: str, *args: object) -> None:
    """A CAST frame on his link; his own node would keep it, and send it as a call with a key."""
    endpoint = bob.grants.endpoint("alice")
    assert endpoint is not None
    endpoint.cast(frames.call_body(f"kitchen/{function}".encode(), b""), dumps(list(args)))


async def until_going(alice: Node, count: int) -> None:
    while await own(alice, "going") != count:
        pass


async def runs_no_more(alice: Node) -> None:
    ran = await own(alice, "log")
    for _ in range(20):
        assert await own(alice, "log") == ran


async def quietly(bob: Node, function: str, *args: object) -> None:
    with pytest.raises(Revoked):
        await bob.call("alice", "kitchen", function, *args, timeout=90)


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that a busy machine keeps from answering is no failure."""
    monkeypatch.setattr("drupelet.services.grants.SETTLE_S", 20.0)


async def test_200_calls_and_all_that_they_started(tmp_path: Path) -> None:
    async with kitchens(tmp_path) as (alice, bob), trio.open_nursery() as nursery:
        pid = await own(alice, "pid")
        ident = await granted(alice, bob)
        for number in range(50):
            nursery.start_soon(quietly, bob, "tick", f"call {number}")
            await bob.call("alice", "kitchen", "leave", f"process {number}")
            cast(bob, "tick", f"cast {number}")
            await bob.call("alice", "kitchen", "leave_a_family", f"grandchild {number}")
        await until_going(alice, 200)
        assert len(alice.holdings) == 200
        began = trio.current_time()
        answer = await alice.grants.revoke(ident)
        print(f"revoked in {(trio.current_time() - began) * 1_000:.1f} ms: {answer}")
        assert (answer["calls"], answer["killed"]) == (200, [])
        await runs_no_more(alice)
        assert len(alice.holdings) == 0
        assert await own(alice, "pid") == pid


@pytest.mark.parametrize("what", ["leave_a_thread", "leave_a_program", "compute"])
async def test_what_nobody_can_end_costs_the_worker_its_life(
    tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("drupelet.services.grants.SETTLE_S", 0.08)
    async with kitchens(tmp_path) as (alice, bob), trio.open_nursery() as nursery:
        pid = await own(alice, "pid")
        ident = await granted(alice, bob)
        if what == "compute":  # its caller gives it up, and the thread goes on
            with trio.move_on_after(90) as scope:
                nursery.start_soon(until_going_then, alice, scope.cancel)
                await bob.call("alice", "kitchen", what, "x", timeout=90)
        else:
            await bob.call("alice", "kitchen", what, "x")
        await until_going(alice, 1)
        answer = await alice.grants.revoke(ident)
        assert (answer["calls"], answer["killed"]) == (1, ["kitchen"])
        while True:
            try:
                assert await own(alice, "pid") != pid
                break
            except CallError:
                await trio.lowlevel.checkpoint()


async def until_going_then(alice: Node, then: object) -> None:
    await until_going(alice, 1)
    then()  # type: ignore[operator]


async def test_what_others_left_running_costs_nobody_anything(tmp_path: Path) -> None:
    """A member gave up a thread, which goes on: no business of Bob's."""
    async with kitchens(tmp_path) as (alice, bob), trio.open_nursery() as nursery:
        pid = await own(alice, "pid")
        ident = await granted(alice, bob)
        with trio.move_on_after(90) as scope:
            nursery.start_soon(until_going_then, alice, scope.cancel)
            await own(alice, "compute", "a member's")
        await own(alice, "leave", "a member's process")
        await bob.call("alice", "kitchen", "leave", "x")
        await until_going(alice, 3)
        answer = await alice.grants.revoke(ident)
        assert (answer["calls"], answer["killed"]) == (1, [])
        assert await own(alice, "pid") == pid
        before = await own(alice, "log")
        assert isinstance(before, list)
        while len(after := await own(alice, "log")) == len(before):  # type: ignore[arg-type]
            pass
        assert set(after[len(before) :]) == {"a member's process"}  # type: ignore[index]
        await own(alice, "open_door")


async def test_another_grant_of_the_same_holder_is_untouched(tmp_path: Path) -> None:
    async with kitchens(tmp_path) as (alice, bob):
        gone, stays = await granted(alice, bob, "leave"), await granted(alice, bob, "tick")
        await bob.call("alice", "kitchen", "leave", "process")
        cast(bob, "tick", "cast")
        await until_going(alice, 2)
        assert (await alice.grants.revoke(gone))["calls"] == 1
        before = len(await own(alice, "log"))  # type: ignore[arg-type]
        while len(after := await own(alice, "log")) == before:  # type: ignore[arg-type]
            pass
        assert set(after[before:]) == {"cast"}  # type: ignore[index]
        assert (await alice.grants.revoke(stays))["calls"] == 1
        await runs_no_more(alice)


async def test_requests_at_a_server_are_taken_back_casts_too(tmp_path: Path) -> None:
    async with kitchens(tmp_path) as (alice, bob), trio.open_nursery() as nursery:
        ident = await granted(alice, bob, "Oven.heat", "log")
        await bob.call("alice", "kitchen", "log")
        nursery.start_soon(swallowed, alice, "Oven.bake", "a member's")
        await until_going(alice, 1)  # nothing is taken from the mailbox before that is over
        for number in range(10):
            cast(bob, "Oven.heat", number)
        while len(alice.holdings) < 10:
            await trio.lowlevel.checkpoint()
        answer = await alice.grants.revoke(ident)
        assert (answer["calls"], answer["killed"]) == (10, [])
        assert len(alice.holdings) == 0
        nursery.cancel_scope.cancel()


async def swallowed(alice: Node, function: str, name: str) -> None:
    await own(alice, function, name)


async def test_a_value_that_waits_for_a_slow_reader_never_leaves(tmp_path: Path) -> None:
    async with kitchens(tmp_path) as (alice, bob), trio.open_nursery() as nursery:
        ident = await granted(alice, bob, "large")
        await granted(alice, bob, "log")
        outcomes: list[object] = []
        await bob.call("alice", "kitchen", "log")
        (link,) = alice.links.stranger_links._links
        (other_end,) = bob.links.stranger_links._links
        given: list[bytes] = []
        # Bob gives credit for nothing: what he asked for stays in line at Alice's.
        queue = other_end.endpoint.channel.queue

        def without_credit(frame: bytes) -> None:
            if frame[4] != 7:
                queue(frame)
            else:
                given.append(frame)

        object.__setattr__(other_end.endpoint, "channel", _Channel(other_end, without_credit))

        async def call() -> None:
            try:
                outcomes.append(await bob.call("alice", "kitchen", "large", timeout=60))
            except (NoConnection, Revoked) as error:
                outcomes.append(type(error).__name__)

        nursery.start_soon(call)
        while not link.endpoint.has_unsent:
            await trio.lowlevel.checkpoint()
        await alice.grants.revoke(ident)
        assert link.endpoint.closed
        while not outcomes:
            await trio.lowlevel.checkpoint()
        assert outcomes[0] in ("NoConnection", "Revoked")


class _Channel:
    """Bob's end of a link, of which one method is another."""

    def __init__(self, link: object, queue: object) -> None:
        self._channel = link.endpoint.channel  # type: ignore[attr-defined]
        self.queue = queue

    def __getattr__(self, name: str) -> object:
        return getattr(self._channel, name)
