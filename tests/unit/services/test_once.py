"""Calls with an idempotency key, at the node that is called."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing

from drupelet.core import once as core_once
from drupelet.core.once import OnceRecord
from drupelet.core.requests import WAITING_MAX
from drupelet.errors import (
    CallError,
    CodeMismatch,
    NoConnection,
    NotPermitted,
    RateLimited,
    RemoteError,
    Revoked,
    Timeout,
)
from drupelet.node import Node
from drupelet.services import accepted
from drupelet.wire.codec import dumps
from tests.unit.services.counted import CODE, ask, granted, offer, post, ran
from tests.unit.services.lights import nodes
from tests.unit.services.nodes import open_small_node, wait_up
from tests.unit.services.relayed import announced
from tests.unit.services.relayed import nodes as relayed_nodes

KEY = b"k" * 16


def running(node: Node) -> int:
    """Calls of strangers that are at a worker, and not only let in."""
    held = node.holdings
    return sum(held.what(each) is not None for each in held.under(lambda grant: True))


async def until_running(node: Node, count: int = 1) -> None:
    while running(node) != count:
        await trio.testing.wait_all_tasks_blocked(0.001)


async def test_a_stranger_on_a_link_runs_a_key_once(tmp_path: Path) -> None:
    offer(tmp_path, "alice")
    async with nodes(tmp_path, "alice", "bob") as (alice, bob):
        await granted(alice, bob)
        for _ in range(3):
            assert await ask(bob, "alice", "note", KEY, "tea") == 3
        assert ran(tmp_path, "alice") == ["tea"]
        with pytest.raises(RemoteError, match="used for another call"):
            await ask(bob, "alice", "note", KEY, "milk")
        for _ in range(2):
            with pytest.raises(RemoteError, match="sour") as caught:
                await ask(bob, "alice", "fail", b"2" * 16, "sour")
            assert caught.value.kind == "ValueError" and not caught.value.traceback_text
        assert ran(tmp_path, "alice") == ["tea", "sour"]


async def both_grants(alice: Node, bob: Node, **terms: object) -> None:
    """One to bob's key, on these terms; one to whoever has the file."""
    await granted(alice, bob, **terms)
    made = await alice.grants.issue("ledger", "", {})
    await bob.grants.accept(str(made["text"]))


async def test_a_key_is_not_used_anew_by_another_grant_of_the_same_caller(tmp_path: Path) -> None:
    offer(tmp_path, "alice")
    async with nodes(tmp_path, "alice", "bob") as (alice, bob):
        await both_grants(alice, bob, rate=[1, 3600])
        assert await ask(bob, "alice", "note", KEY, "tea") == 3
        with pytest.raises(RateLimited):  # the first grant has to wait; the second would not
            await ask(bob, "alice", "note", KEY, "tea")
        with pytest.raises(RateLimited):  # nor has a key that nobody used yet
            await ask(bob, "alice", "note", b"2" * 16, "milk")
        assert ran(tmp_path, "alice") == ["tea"]


async def test_of_several_holders_the_one_who_was_named(tmp_path: Path) -> None:
    """The relay brings one grant: the caller names the holder of the same one on links."""
    offer(tmp_path, "alice")
    async with nodes(tmp_path, "alice", "bob") as (alice, bob):
        await both_grants(alice, bob)
        own, bearer = (file.grant.holder for file in bob.grants.accepted.files())
        assert own == bob.key and bearer != bob.key
        assert bob.relayed.holder_for(alice.key, "ledger/note") == own
        once, args = ("alice", "once", "call"), dumps(["tea"])
        for holder in (bearer, own, bearer):
            answer = await bob.call(*once, KEY, "ledger/note", args, holder)
            assert answer == [dumps(3), None]
        assert ran(tmp_path, "alice") == ["tea", "tea"]  # a key of each
        with pytest.raises(NotPermitted):
            await bob.call(*once, KEY, "ledger/note", args, alice.key)


async def test_who_has_no_right_hears_the_same_as_ever(tmp_path: Path) -> None:
    offer(tmp_path, "alice")
    async with nodes(tmp_path, "alice", "bob") as (alice, bob):
        await granted(alice, bob, functions=["note"])
        for mission, function in (("ledger", "slow"), ("ledger", "x"), ("node", "info"), ("", "")):
            with pytest.raises(NotPermitted, match="^not permitted$"):
                await ask(bob, "alice", function, KEY, mission=mission)
        assert len(alice.once.table) == 0
        assert alice.calls.refused_count >= 4


async def test_members_have_keys_of_their_own(tmp_path: Path) -> None:
    offer(tmp_path, "alice")
    with trio.fail_after(30):
        async with (
            open_small_node(tmp_path, "alice") as alice,
            open_small_node(tmp_path, "bob", alice) as bob,
        ):
            await wait_up(bob, "alice")
            for _ in range(2):
                assert await ask(bob, "alice", "note", KEY, "tea") == 3
            for _ in range(2):
                assert await ask(alice, "", "note", KEY, "milk") == 4  # its own, to itself
                assert await ask(alice, "alice", "note", KEY, "milk") == 4
            assert ran(tmp_path, "alice") == ["tea", "milk"]
            with pytest.raises(RemoteError, match="no idempotency key") as caught:
                await ask(bob, "alice", "ping", KEY, mission="node")
            assert caught.value.kind == "badarg"
            with pytest.raises(RemoteError, match="exports no"):
                await ask(bob, "alice", "nothing", b"3" * 16)
            with pytest.raises(RemoteError, match="key: 16 bytes"):
                await ask(bob, "alice", "note", b"short", "tea")
            with pytest.raises(RemoteError, match="16 bytes"):
                await bob.call("alice", "once", "call", b"short", "ledger/note", b"")


async def test_a_link_and_the_relay_are_one_door(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(tmp_path, "alice")
    monkeypatch.setattr(accepted, "DIRECT_S", 5.0)
    async with relayed_nodes(tmp_path, monkeypatch, "alice", "bob") as (_, (alice, bob)):
        await granted(alice, bob)
        await announced(alice)
        [file] = bob.grants.accepted.files()
        results: list[object] = []

        async def one(key: bytes, *args: object) -> None:
            results.append(await ask(bob, "alice", "slow", key, *args))

        async def switch(links: bool) -> None:
            """From now on that is the way."""
            for endpoint in list(bob.grants.accepted._endpoints.values()):
                endpoint.close(NoConnection("closed"))
            bob.grants.accepted._endpoints.clear()
            places = file.addresses if links else (("127.0.0.1", 1),)
            bob.grants.accepted.keep([replace(file, addresses=places)])

        for first_by_link in (True, False):
            key = bytes([first_by_link]) * 16
            results.clear()
            async with trio.open_nursery() as nursery:
                await switch(first_by_link)
                nursery.start_soon(one, key, f"tea {first_by_link}", 0.5)
                await until_running(alice)
                other = replace(
                    file, addresses=(("127.0.0.1", 1),) if first_by_link else file.addresses
                )
                bob.grants.accepted.keep([other])
                bob.grants.accepted._endpoints.clear()
                nursery.start_soon(one, key, f"tea {first_by_link}", 0.5)
            assert results == [f"tea {first_by_link}"] * 2
        assert sorted(ran(tmp_path, "alice")) == ["tea False", "tea True"]
        assert alice.links.stranger_links.count >= 1


async def test_a_run_belongs_to_its_key_and_not_to_the_link(tmp_path: Path) -> None:
    offer(tmp_path, "alice")
    async with nodes(tmp_path, "alice", "bob") as (alice, bob):
        await granted(alice, bob)
        with trio.move_on_after(30) as scope:
            async with trio.open_nursery() as nursery:

                async def one() -> None:
                    await ask(bob, "alice", "slow", KEY, "tea", 0.3)

                nursery.start_soon(one)
                await until_running(alice)
                nursery.cancel_scope.cancel()
        assert not scope.cancelled_caught
        link = bob.grants.endpoint("alice")
        assert link is not None
        link.close(NoConnection("closed"))
        assert running(alice) == 1
        assert await ask(bob, "alice", "slow", KEY, "tea", 0.3) == "tea"
        assert ran(tmp_path, "alice") == ["tea"]


async def test_revoking_ends_a_run_and_what_is_not_begun_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(tmp_path, "alice")
    async with nodes(tmp_path, "alice", "bob") as (alice, bob):
        ident = await granted(alice, bob)
        refused: list[CallError] = []

        async def one(function: str, key: bytes, *args: object) -> None:
            try:
                await ask(bob, "alice", function, key, *args)
            except CallError as error:
                refused.append(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(one, "slow", KEY, "tea", 60.0)
            while ran(tmp_path, "alice") != ["tea"]:
                await trio.testing.wait_all_tasks_blocked(0.01)
            append, free, writing = alice.once._store.append, threading.Event(), threading.Event()

            def slowly(records: Sequence[OnceRecord], up_s: float) -> None:
                writing.set()
                free.wait(10)
                append(records, up_s)

            monkeypatch.setattr(alice.once._store, "append", slowly)
            nursery.start_soon(one, "note", b"2" * 16, "milk")
            while not writing.is_set():
                await trio.testing.wait_all_tasks_blocked(0.001)
            await alice.grants.revoke(ident)
            free.set()
        # Whose link ended before the answer hears that it may have run: a first try was sent.
        assert {type(each) for each in refused} <= {Revoked, Timeout} and len(refused) == 2
        while alice.once._committing._queue or alice.once._committing._writing:
            await trio.testing.wait_all_tasks_blocked(0.001)
        assert ran(tmp_path, "alice") == ["tea"]


async def test_after_a_restart_outcomes_count_and_what_was_begun_may_have_run(
    tmp_path: Path,
) -> None:
    offer(tmp_path, "alice")
    async with nodes(tmp_path, "alice", "bob") as (alice, bob):
        await granted(alice, bob)
        await ask(bob, "alice", "note", KEY, "tea")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, bob, "alice", "slow", b"2" * 16, "milk", 60.0)
            while ran(tmp_path, "alice") != ["tea", "milk"]:
                await trio.testing.wait_all_tasks_blocked(0.01)
            nursery.cancel_scope.cancel()
        then = (tmp_path / "alice" / "once").read_bytes()
    (tmp_path / "alice" / "once").write_bytes(then)  # a power cut: nothing came after
    async with nodes(tmp_path, "alice", "bob") as (alice, bob):
        bob.grants.accepted.keep(
            [
                replace(each, addresses=(("127.0.0.1", alice.port),))
                for each in bob.grants.accepted.files()
            ]
        )
        assert await ask(bob, "alice", "note", KEY, "tea") == 3
        for _ in range(2):
            with pytest.raises(Timeout) as caught:
                await ask(bob, "alice", "slow", b"2" * 16, "milk", 60.0)
            assert caught.value.maybe_ran
        assert ran(tmp_path, "alice") == ["tea", "milk"]


@pytest.mark.error_log
async def test_damaged_records_run_nothing_a_second_time(tmp_path: Path) -> None:
    offer(tmp_path, "alice")
    async with nodes(tmp_path, "alice", "bob") as (alice, bob):
        await granted(alice, bob)
        await ask(bob, "alice", "note", KEY, "tea")
        await ask(bob, "alice", "note", b"2" * 16, "milk")
    path = tmp_path / "alice" / "once"
    content = path.read_bytes().replace(KEY, b"K" + KEY[1:])
    path.write_bytes(content)
    for _ in range(2):  # it stays in doubt
        async with nodes(tmp_path, "alice", "bob") as (alice, bob):
            bob.grants.accepted.keep(
                [
                    replace(each, addresses=(("127.0.0.1", alice.port),))
                    for each in bob.grants.accepted.files()
                ]
            )
            assert await ask(bob, "alice", "note", b"2" * 16, "milk") == 4
            with pytest.raises(RemoteError, match="may have run") as caught:
                await ask(bob, "alice", "note", KEY, "tea")
            assert caught.value.kind == "damaged"
            assert ran(tmp_path, "alice") == ["tea", "milk"]
            assert await bob.call("alice", "ledger", "note", "tea") == 3  # without a key, as ever
            os.truncate(tmp_path / "alice" / "missions" / "ledger" / "ran", 9)
    path.unlink()  # a person knows better
    async with nodes(tmp_path, "alice", "bob") as (alice, bob):
        bob.grants.accepted.keep(
            [
                replace(each, addresses=(("127.0.0.1", alice.port),))
                for each in bob.grants.accepted.files()
            ]
        )
        assert await ask(bob, "alice", "note", KEY, "tea") == 3


async def test_a_full_disk_refuses_calls_with_a_key_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(tmp_path, "alice")
    async with nodes(tmp_path, "alice", "bob") as (alice, bob):
        await granted(alice, bob)

        def full(records: object, *rest: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(alice.once._store, "append", full)
            patch.setattr(alice.once._store, "rewrite", full)
            with pytest.raises(RemoteError, match="No space left") as caught:
                await ask(bob, "alice", "note", KEY, "tea")
            assert caught.value.kind == "not_durable"
            assert ran(tmp_path, "alice") == []
            assert await bob.call("alice", "ledger", "note", "milk") == 4
        assert await ask(bob, "alice", "note", KEY, "tea") == 3  # it never ran before
        assert ran(tmp_path, "alice") == ["milk", "tea"]


@pytest.mark.error_log
async def test_a_disk_that_fails_at_the_end_takes_nothing_from_the_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(tmp_path, "alice")
    async with nodes(tmp_path, "alice", "bob") as (alice, bob):
        await granted(alice, bob)
        await ask(bob, "alice", "note", b"0" * 16, "warm")
        results: list[object] = []

        async def one() -> None:
            results.append(await ask(bob, "alice", "slow", KEY, "tea", 0.2))

        def full(records: object, *rest: object) -> None:
            raise OSError(errno.EIO, "Input/output error")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(one)
            await until_running(alice)
            monkeypatch.setattr(alice.once._store, "append", full)
        assert results == ["tea"]
        assert await ask(bob, "alice", "slow", KEY, "tea", 0.2) == "tea"
        assert ran(tmp_path, "alice") == ["warm", "tea"]


async def test_a_mission_that_is_down_uses_no_key(tmp_path: Path) -> None:
    offer(tmp_path, "alice")
    async with nodes(tmp_path, "alice", "bob") as (alice, bob):
        await granted(alice, bob)
        export = alice.missions.exports[b"ledger/note"]
        worker, export.endpoint = export.endpoint, None
        with pytest.raises(RemoteError, match="again|down"):
            await ask(bob, "alice", "note", KEY, "tea")
        export.endpoint = worker
        assert await ask(bob, "alice", "note", KEY, "tea") == 3


async def test_those_who_wait_at_the_maximum_and_one_above(tmp_path: Path) -> None:
    offer(tmp_path, "alice")
    async with nodes(tmp_path, "alice", "bob") as (alice, bob):
        await granted(alice, bob)
        refused: list[CallError] = []

        async def one() -> None:
            try:
                assert await ask(bob, "alice", "slow", KEY, "tea", 0.5) == "tea"
            except CallError as error:
                refused.append(error)

        async with trio.open_nursery() as nursery:
            for _ in range(WAITING_MAX + 1):
                nursery.start_soon(one)
        assert [type(each) for each in refused] == [RateLimited]
        assert ran(tmp_path, "alice") == ["tea"]


async def test_a_full_table_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(tmp_path, "alice")
    monkeypatch.setattr(core_once, "ONCE_KEYS_PER_CALLER_MAX", 1)
    async with nodes(tmp_path, "alice", "bob") as (alice, bob):
        await granted(alice, bob, concurrent=1)
        assert await ask(bob, "alice", "note", KEY, "tea") == 3
        for _ in range(3):  # what is refused gives its place under --concurrent back
            with pytest.raises(RateLimited):
                await ask(bob, "alice", "note", b"2" * 16, "tea")
        assert await ask(bob, "alice", "note", KEY, "tea") == 3


async def test_many_keys_are_few_writes(tmp_path: Path) -> None:
    offer(tmp_path, "alice")
    async with nodes(tmp_path, "alice", "bob") as (alice, bob):
        await granted(alice, bob)
        async with trio.open_nursery() as nursery:
            for number in range(100):
                key = number.to_bytes(16, "big")
                nursery.start_soon(ask, bob, "alice", "note", key, str(number))
        assert sorted(map(int, ran(tmp_path, "alice"))) == list(range(100))
        assert alice.once._committing.write_count < 100  # of 200 records
        assert await post(bob, "alice", "note", "cast")


async def test_a_function_that_runs_once_is_refused_without_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(tmp_path, "alice")
    async with relayed_nodes(tmp_path, monkeypatch, "alice", "bob") as (_, (alice, bob)):
        await granted(alice, bob)
        await announced(alice)
        [file] = bob.grants.accepted.files()
        for places in (file.addresses, (("127.0.0.1", 1),)):
            bob.grants.accepted._endpoints.clear()
            bob.grants.accepted.keep([replace(file, addresses=places)])
            with pytest.raises(RemoteError, match="drupelet call --key TEXT") as caught:
                await bob.call("alice", "ledger", "pay", "rent")
            assert caught.value.kind == "badarg"
            assert await ask(bob, "alice", "pay", KEY, "rent") == "paid rent"
        for node in (alice, bob):
            with pytest.raises(RemoteError, match="none"):
                await node.call("alice", "ledger", "pay", "rent")
        assert await post(bob, "alice", "pay", "tax")  # it gets a key
        while bob.outbox.waiting():
            await trio.testing.wait_all_tasks_blocked(0.01)
        assert not await post(alice, "alice", "pay", "nothing")
        with pytest.raises(RemoteError, match="none"):
            await alice.call_many("alice", "ledger", "pay", [["a"], ["b"]])
        assert ran(tmp_path, "alice") == ["rent", "tax"]


async def test_keys_that_are_done_are_their_holders(tmp_path: Path) -> None:
    offer(tmp_path, "alice")
    async with nodes(tmp_path, "alice", "bob", "charlie") as (alice, bob, charlie):
        await granted(alice, bob)
        await granted(alice, charlie)
        await ask(bob, "alice", "note", KEY, "tea")
        await ask(charlie, "alice", "note", KEY, "milk")
        for holder, failure in ((bob.key, None), (charlie.key, NotPermitted), (None, NotPermitted)):
            if failure is not None:
                with pytest.raises(failure):
                    await bob.call("alice", "once", "done", [KEY], holder)
            else:
                assert await bob.call("alice", "once", "done", [KEY], holder) is True
        left = {each.caller: each.left_s for each in alice.once.table.records(trio.current_time())}
        assert left[bob.key] <= core_once.DONE_KEPT_S < left[charlie.key]
        with pytest.raises(RemoteError, match="256 keys of 16 bytes"):
            await bob.call("alice", "once", "done", ["short"], bob.key)


async def test_a_member_with_other_code_is_told(tmp_path: Path) -> None:
    offer(tmp_path, "alice")
    offer(tmp_path, "bob", code=CODE + "# another\n")
    with trio.fail_after(30):
        async with (
            open_small_node(tmp_path, "alice") as alice,
            open_small_node(tmp_path, "bob", alice) as bob,
        ):
            await wait_up(bob, "alice")
            with pytest.raises(CodeMismatch):
                await ask(bob, "alice", "note", KEY, "tea")
            assert ran(tmp_path, "alice") == [] and len(alice.once.table) == 0
            with pytest.raises(RemoteError, match="16 bytes"):
                await bob.call("alice", "once", "call", KEY, "ledger/note", b"", None, "digest")
