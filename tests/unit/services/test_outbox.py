"""Casts that are kept until they ran, and calls with a key at the node that calls."""

from __future__ import annotations

import errno
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing

from drupelet.client import open_client
from drupelet.config import RelayConfig
from drupelet.core.once import DONE_KEPT_S
from drupelet.errors import CallError, NoConnection, NotSendable, RemoteError, Timeout
from drupelet.node import Node, open_node
from drupelet.relay.main import invite_text
from drupelet.services import announcing, done_keys, relay_link, relayed_calls
from drupelet.services import outbox as module
from drupelet.store.outbox import KeptCast
from drupelet.wire.frames import MORE_ABOVE
from drupelet.wire.grant_files import decode_grant_file, encode_grant_file
from drupelet.wire.ids import Pid
from drupelet.wire.keys import key_to_text
from tests.unit.relay import nodes as relay_nodes
from tests.unit.relay.nodes import relay_at
from tests.unit.services.counted import ask, granted, offer, post, ran
from tests.unit.services.lights import nodes
from tests.unit.services.nodes import make_config, open_small_node, wait_up
from tests.unit.services.relayed import INVITE, announced

KEY = b"k" * 16


async def until_run(node: Node) -> None:
    """Until no cast of it waits."""
    with trio.fail_after(30):
        while node.outbox.waiting():
            await trio.testing.wait_all_tasks_blocked(0.01)


async def until_why(node: Node, *reasons: str) -> None:
    """Until a cast of it waits for one of these reasons."""
    with trio.fail_after(30):
        while not any(why in str(each["why"]) for each in node.outbox.waiting() for why in reasons):
            await trio.testing.wait_all_tasks_blocked(0.01)


class House:
    """A relay and nodes at it that come and go; none lets anybody in by a link."""

    def __init__(self, directory: Path, url: str) -> None:
        self.directory = directory
        self.url = url

    @asynccontextmanager
    async def open(self, name: str) -> AsyncIterator[Node]:
        config = make_config(self.directory, name, cookie=f"c{name}")
        relay = RelayConfig(url=(self.url,), invite=invite_text(INVITE))
        async with open_node(replace(config, relay=relay)) as node:
            yield node

    async def granted(self, alice: Node, bob: Node) -> None:
        made = await alice.grants.issue("ledger", key_to_text(bob.key), {})
        file = replace(decode_grant_file(str(made["text"])), addresses=(("127.0.0.1", 1),))
        await bob.grants.accept(encode_grant_file(file))
        await announced(alice)


@asynccontextmanager
async def house(directory: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    monkeypatch.setattr(relay_nodes, "NAME", "127.0.0.1")
    monkeypatch.setattr(announcing, "LOOK_S", 0.02)
    monkeypatch.setattr(relay_link, "FIRST_S", 0.05)
    monkeypatch.setattr(relay_link, "BEACON_S", 0.2)
    monkeypatch.setattr(relayed_calls, "_LOOK_S", 0.2)
    monkeypatch.setattr(module, "LONGEST_S", 0.3)
    offer(directory, "alice")
    with trio.fail_after(90):
        async with relay_at(directory / "relay") as (relay, port):
            await relay.writer.write(lambda store: store.add_invite(INVITE, 8))
            yield House(directory, f"http://127.0.0.1:{port}")


async def test_a_cast_waits_for_who_is_away_and_runs_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with house(tmp_path, monkeypatch) as home, home.open("bob") as bob:
        async with home.open("alice") as alice:
            await home.granted(alice, bob)
            assert await post(bob, "alice", "note", "tea")
            await until_run(bob)
        for number in range(5):
            assert await post(bob, "alice", "note", f"away {number}")
        await until_why(bob, "no_such_node", "sent")  # or in its mailbox, sealed to its last key
        assert len(bob.outbox.waiting()) == 5
        async with home.open("alice"):
            await until_run(bob)
        assert sorted(ran(tmp_path, "alice")) == [*(f"away {n}" for n in range(5)), "tea"]


async def test_a_cast_outlives_its_callers_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with house(tmp_path, monkeypatch) as home:
        async with home.open("bob") as bob:
            async with home.open("alice") as alice:
                await home.granted(alice, bob)
            assert await post(bob, "alice", "note", "tea")
        async with home.open("bob") as bob, home.open("alice"):
            [waits] = bob.outbox.waiting()
            assert waits["node"] == "alice" and waits["target"] == "ledger/note"
            assert 0 < float(str(waits["left_s"])) <= 7 * 86_400
            await until_run(bob)
        async with home.open("bob") as bob, home.open("alice"):
            assert bob.outbox.waiting() == []
        assert ran(tmp_path, "alice") == ["tea"]


async def test_a_callee_that_starts_anew_is_sent_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with house(tmp_path, monkeypatch) as home, home.open("bob") as bob:
        async with home.open("alice") as alice:
            await home.granted(alice, bob)
            assert alice.relay is not None
            alice.relay.on_kind.clear()  # it takes what comes, and nothing becomes of it
            assert await post(bob, "alice", "note", "tea")
            await until_why(bob, "sent")
            relay = bob.relay
            assert relay is not None
            while relay._out:
                await trio.testing.wait_all_tasks_blocked(0.01)
        async with home.open("alice"):
            await until_run(bob)
        assert ran(tmp_path, "alice") == ["tea"]


async def test_a_lost_answer_is_asked_for_again_and_nothing_runs_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ATTEMPT_S", 0.5)
    async with house(tmp_path, monkeypatch) as home, home.open("bob") as bob:
        async with home.open("alice") as alice:
            await home.granted(alice, bob)
            answer, lost = alice.relayed._answer, list[object]()
            monkeypatch.setattr(alice.relayed, "_answer", lost.append)
            assert await post(bob, "alice", "note", "tea")
            while len(lost) < 2:
                await trio.testing.wait_all_tasks_blocked(0.01)
            monkeypatch.setattr(alice.relayed, "_answer", answer)
            await until_run(bob)
        assert ran(tmp_path, "alice") == ["tea"]


async def test_a_cast_over_a_link_waits_as_well(tmp_path: Path) -> None:
    offer(tmp_path, "alice")
    async with nodes(tmp_path, "alice", "bob") as (alice, bob):
        await granted(alice, bob)
        assert await post(bob, "alice", "note", "tea")
        await until_run(bob)
        port = alice.port
        await bob.cast("alice", "ledger", "note", "by a program")
        await until_run(bob)
    async with open_small_node(tmp_path, "bob", cookie="cbob") as bob:
        assert await post(bob, "alice", "note", "milk")
        await until_why(bob, "port_closed")
        assert len(bob.outbox.waiting()) == 1
        with trio.fail_after(30):
            async with open_node(make_config(tmp_path, "alice", cookie="calice", port=port)):
                await until_run(bob)
    assert ran(tmp_path, "alice") == ["tea", "by a program", "milk"]


async def test_members_are_cast_to_as_in_erlang_unless_there_is_a_key(tmp_path: Path) -> None:
    offer(tmp_path, "alice")
    with trio.fail_after(60):
        async with open_small_node(tmp_path, "alice") as alice:
            async with open_small_node(tmp_path, "bob", alice) as bob:
                await wait_up(bob, "alice")
                assert not await post(bob, "alice", "note", "tea")
                for _ in range(2):
                    assert await post(bob, "alice", "note", "milk", key=KEY)
                await until_run(bob)
                assert not await post(alice, "", "note", "here")
                assert await post(alice, "alice", "note", "here, once", key=KEY)
                await until_run(alice)
                with pytest.raises(NoConnection, match="no_such_node"):
                    await post(bob, "nobody", "note", "tea", key=KEY)
    told = ran(tmp_path, "alice")
    assert sorted(told) == sorted(["tea", "milk", "here", "here, once"])


async def test_a_link_that_ends_is_no_failure_of_a_call_with_a_key(tmp_path: Path) -> None:
    offer(tmp_path, "alice")
    async with nodes(tmp_path, "alice", "bob") as (alice, bob):
        await granted(alice, bob)
        results: list[object] = []

        async def one() -> None:
            results.append(await ask(bob, "alice", "slow", KEY, "tea", 0.5))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(one)
            while not ran(tmp_path, "alice"):
                await trio.testing.wait_all_tasks_blocked(0.01)
            link = bob.grants.endpoint("alice")
            assert link is not None
            link.close(NoConnection("closed", maybe_ran=True))
        assert results == ["tea"] and ran(tmp_path, "alice") == ["tea"]
    async with open_small_node(tmp_path, "bob", cookie="cbob") as bob:
        with trio.fail_after(10), pytest.raises(NoConnection):  # as a call without one
            await ask(bob, "alice", "slow", KEY, "tea", 0.5)


async def test_what_has_no_right_or_raises_ends_and_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    offer(tmp_path, "alice")
    async with nodes(tmp_path, "alice", "bob") as (alice, bob):
        await granted(alice, bob, functions=["note", "fail"])
        for function in ("pay", "fail"):
            assert await post(bob, "alice", function, "tea")
        await until_run(bob)
        assert bob.outbox.failed_count == 2
        assert "cast_failed node=alice target=ledger/pay why=not permitted" in caplog.text
        assert "cast_failed node=alice target=ledger/fail why=ValueError: tea" in caplog.text
        assert ran(tmp_path, "alice") == ["tea"]


async def test_a_rate_delays_casts_and_loses_none(tmp_path: Path) -> None:
    offer(tmp_path, "alice")
    async with nodes(tmp_path, "alice", "bob") as (alice, bob):
        await granted(alice, bob, rate=[5, 1], burst=1)
        for number in range(4):
            assert await post(bob, "alice", "note", str(number))
        await until_run(bob)
        assert sorted(ran(tmp_path, "alice")) == ["0", "1", "2", "3"]


async def test_a_mission_that_starts_later_is_waited_for(tmp_path: Path) -> None:
    offer(tmp_path, "alice")
    async with nodes(tmp_path, "alice", "bob") as (alice, bob):
        await granted(alice, bob)
        export = alice.missions.exports[b"ledger/note"]
        worker, export.endpoint = export.endpoint, None
        assert await post(bob, "alice", "note", "tea")
        await until_why(bob, "starts again")
        export.endpoint = worker
        await until_run(bob)
        assert ran(tmp_path, "alice") == ["tea"]


async def test_one_that_never_starts_ends_after_some_tries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "LONGEST_S", module.FIRST_S)
    monkeypatch.setattr(module, "AGAIN_MAX", 2)
    offer(tmp_path, "alice")
    async with nodes(tmp_path, "alice", "bob") as (alice, bob):
        await granted(alice, bob)
        alice.missions.exports[b"ledger/note"].endpoint = None
        assert await post(bob, "alice", "note", "tea")
        await until_run(bob)
        assert "ledger starts again" in caplog.text and ran(tmp_path, "alice") == []


async def test_pids_and_too_much_are_refused_at_once(tmp_path: Path) -> None:
    offer(tmp_path, "alice")
    async with nodes(tmp_path, "alice", "bob") as (alice, bob):
        await granted(alice, bob)
        with pytest.raises(RemoteError, match="idempotency key") as caught:
            await post(bob, "alice", "note", Pid("bob", 1, 1))
        assert caught.value.kind == NotSendable.__name__
        with pytest.raises(RemoteError, match="idempotency key"):
            await ask(bob, "alice", "note", KEY, Pid("bob", 1, 1))
        most = MORE_ABOVE - 4
        assert await post(bob, "alice", "note", "x" * most)
        with pytest.raises(RemoteError, match="at most"):
            await post(bob, "alice", "note", "x" * (most + 1))
        await until_run(bob)
        assert [len(each) for each in ran(tmp_path, "alice")] == [most]


@pytest.mark.parametrize("name", ["OUTBOX_CASTS_MAX", "OUTBOX_BYTES_MAX"])
async def test_an_outbox_at_the_maximum_and_one_above(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(module, name, {"OUTBOX_CASTS_MAX": 2, "OUTBOX_BYTES_MAX": 10}[name])
    offer(tmp_path, "alice")
    async with nodes(tmp_path, "alice", "bob") as (alice, bob):
        await granted(alice, bob)
    async with open_small_node(tmp_path, "bob", cookie="cbob") as bob:
        for number in range(2):
            assert await post(bob, "alice", "note", f"t{number}x")  # 5 bytes encoded
        refused = bob.calls.refused_count
        with pytest.raises(RemoteError, match="wait already") as caught:
            await post(bob, "alice", "note", "t3")
        assert caught.value.kind == "outbox_full"
        with pytest.raises(RemoteError, match="wait already"):
            await bob.cast("alice", "ledger", "note", "t3")
        assert len(bob.outbox.waiting()) == 2 and bob.calls.refused_count == refused


async def test_one_key_is_one_cast(tmp_path: Path) -> None:
    offer(tmp_path, "alice")
    async with nodes(tmp_path, "alice", "bob") as (alice, bob):
        await granted(alice, bob)
    async with open_small_node(tmp_path, "bob", cookie="cbob") as bob:
        for _ in range(2):
            assert await post(bob, "alice", "note", "tea", key=KEY)
        assert len(bob.outbox.waiting()) == 1
        with pytest.raises(RemoteError, match="used for another call"):
            await post(bob, "alice", "note", "milk", key=KEY)


async def test_one_that_waits_too_long_is_given_up_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    offer(tmp_path, "alice")
    async with nodes(tmp_path, "alice", "bob") as (alice, bob):
        await granted(alice, bob)
    monkeypatch.setattr(module, "ONCE_KEPT_S", 0.5)
    async with open_small_node(tmp_path, "bob", cookie="cbob") as bob:
        assert await post(bob, "alice", "note", "tea")
        await until_run(bob)
    assert "cast_failed" in caplog.text and str(Timeout(maybe_ran=True)) in caplog.text


async def test_it_answers_when_it_is_on_disk_and_not_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(tmp_path, "alice")
    async with nodes(tmp_path, "alice", "bob") as (alice, bob):
        await granted(alice, bob)
        store, free, answered = bob.outbox._store, threading.Event(), []
        rewrite = store.rewrite

        def slowly(casts: Sequence[KeptCast], up_s: float) -> None:
            free.wait(10)
            rewrite(casts, up_s)

        monkeypatch.setattr(store, "rewrite", slowly)

        async def one() -> None:
            answered.append(await post(bob, "alice", "note", "tea"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(one)
            await trio.testing.wait_all_tasks_blocked(0.1)
            assert answered == [] and ran(tmp_path, "alice") == []
            free.set()
        await until_run(bob)

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(store, "append", full)
        with pytest.raises(RemoteError, match="No space left") as caught:
            await post(bob, "alice", "note", "milk")
        assert caught.value.kind == "not_durable" and bob.outbox.waiting() == []
        assert ran(tmp_path, "alice") == ["tea"]


@pytest.mark.error_log
async def test_a_damaged_outbox_is_told_and_the_rest_is_sent(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    offer(tmp_path, "alice")
    async with nodes(tmp_path, "alice", "bob") as (alice, bob):
        await granted(alice, bob)
        port = alice.port
    async with open_small_node(tmp_path, "bob", cookie="cbob") as bob:
        for text in ("tea", "milk"):
            assert await post(bob, "alice", "note", text)
    path = tmp_path / "bob" / "outbox"
    path.write_bytes(path.read_bytes().replace(b"tea", b"tee"))
    async with open_small_node(tmp_path, "bob", cookie="cbob") as bob:
        assert "outbox_damaged" in caplog.text
        with trio.fail_after(30):
            async with open_node(make_config(tmp_path, "alice", cookie="calice", port=port)):
                await until_run(bob)
    assert ran(tmp_path, "alice") == ["milk"]


async def until_done(callee: Node, counts: set[int]) -> None:
    """Until that many keys of it go within minutes."""
    with trio.fail_after(30):
        while True:
            records = callee.once.table.records(trio.current_time())
            if sum(each.left_s <= DONE_KEPT_S for each in records) in counts:
                return
            await trio.testing.wait_all_tasks_blocked(0.01)


async def test_keys_of_casts_that_ran_do_not_stay_for_a_week(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(done_keys, "WAIT_S", 0.05)
    offer(tmp_path, "alice")
    async with nodes(tmp_path, "alice", "bob") as (alice, bob):
        await granted(alice, bob)
        for number in range(3):
            await post(bob, "alice", "note", str(number))
        await post(bob, "alice", "note", "mine", key=KEY)  # a program may say it again
        await until_run(bob)
        await until_done(alice, {3})
        assert len(alice.once.table) == 4
        await post(alice, "alice", "note", "here", key=b"2" * 16)
        await until_run(alice)


async def test_keys_of_casts_through_the_relay_go_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(done_keys, "WAIT_S", 0.05)
    async with house(tmp_path, monkeypatch) as home, home.open("bob") as bob:
        async with home.open("alice") as alice:
            await home.granted(alice, bob)
            for number in range(3):
                await post(bob, "alice", "note", str(number))
            await until_run(bob)
            await until_done(alice, {3})


async def test_a_callee_whose_disk_is_full_runs_it_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MENDED_S", 0.1)
    offer(tmp_path, "alice")
    async with nodes(tmp_path, "alice", "bob") as (alice, bob):
        await granted(alice, bob)

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(alice.once._store, "append", full)
            patch.setattr(alice.once._store, "rewrite", full)
            assert await post(bob, "alice", "note", "tea")
            await until_why(bob, "No space left")
        await until_run(bob)
        assert ran(tmp_path, "alice") == ["tea"] and bob.outbox.failed_count == 0


async def test_what_an_earlier_try_may_have_done_is_not_denied(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    offer(tmp_path, "alice")
    async with nodes(tmp_path, "alice", "bob") as (alice, bob):
        ident = await granted(alice, bob)
        failures: list[CallError] = []

        async def one() -> None:
            with pytest.raises(CallError) as caught:
                await ask(bob, "alice", "slow", KEY, "tea", 60.0)
            failures.append(caught.value)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(one)
            assert await post(bob, "alice", "slow", "milk", 60.0)
            while len(ran(tmp_path, "alice")) < 2:
                await trio.testing.wait_all_tasks_blocked(0.01)
            link = bob.grants.endpoint("alice")
            assert link is not None
            alice.grants.accepted._links.cut_all(NoConnection("closed"))  # no answer gets through
            await alice.grants.revoke(ident)
            await until_run(bob)
        [failure] = failures
        assert isinstance(failure, Timeout) and failure.maybe_ran
        assert "an earlier try may have run" in caplog.text


async def test_metrics_count_casts_and_keys(tmp_path: Path) -> None:
    offer(tmp_path, "alice")
    async with nodes(tmp_path, "alice", "bob") as (alice, bob):
        await granted(alice, bob, functions=["note"])
        assert not (tmp_path / "alice" / "once").exists()  # nobody needed it
        for function in ("note", "pay"):
            assert await post(bob, "alice", function, "tea")
        await until_run(bob)
        async with open_client(alice.config.node.socket) as client:
            told = str(await client.call("", "node", "metrics"))
        assert "drupelet_idempotency_keys 1\n" in told
        ours = bob.outbox.figures()
        assert {name: value for name, _, value in ours} == {
            "drupelet_casts_waiting": 0,
            "drupelet_casts_failed_total": 1,
            "drupelet_idempotency_keys": 0,
        }
