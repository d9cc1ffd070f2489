"""The one door: whitelist, rings, code digests, casts, multicall; and what a caller is told."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from drupelet.errors import CodeMismatch, NoConnection, NotPermitted, NotSendable, RemoteError
from drupelet.services.endpoint import Endpoint
from drupelet.wire import frames
from drupelet.wire.codec import dumps, loads
from tests.unit.services.pairs import joined, make_export, open_side

OPERATOR = frozenset({"operator"})


async def test_a_member_is_told_what_there_is() -> None:
    async with open_side("alice") as alice, open_side("bob") as bob:
        bob.serve("kvs", store=lambda key, value: True, lookup=lambda key: None)
        bob.serve("secret", OPERATOR, dump=lambda: "x")
        async with joined(alice, bob):
            with pytest.raises(
                RemoteError, match=r"undef.*no mission 'kv'.*did you mean kvs"
            ) as one:
                await alice.calls.call("bob", "kv", "store", 1, 2)
            assert "secret" not in str(one.value)
            with pytest.raises(RemoteError, match=r"exports no 'stor'.*did you mean store"):
                await alice.calls.call("bob", "kvs", "stor", 1, 2)


async def test_anyone_else_cannot_tell_missing_from_forbidden() -> None:
    async with open_side("mallory") as mallory, open_side("bob") as bob:
        bob.serve("kvs", store=lambda key, value: True)
        answers = []
        async with joined(mallory, bob, ring="stranger"):
            for mission, function in [("kvs", "store"), ("kvs", "wipe"), ("os", "system")]:
                with pytest.raises(NotPermitted) as caught:
                    await mallory.calls.call("bob", mission, function)
                answers.append(type(caught.value))
    assert answers == [NotPermitted] * 3


async def test_an_operators_function_is_not_for_a_member() -> None:
    async with open_side("alice") as alice, open_side("bob") as bob:
        bob.serve("node", OPERATOR, set_cookie=lambda text: True)
        async with joined(alice, bob):
            with pytest.raises(NotPermitted):
                await alice.calls.call("bob", "node", "set_cookie", "x")


async def test_wrong_arguments_are_named() -> None:
    def boil(litres: float) -> str:
        return "hot"

    async with open_side("alice") as alice, open_side("bob") as bob:
        bob.serve("kitchen", boil=boil)
        async with joined(alice, bob):
            with pytest.raises(RemoteError, match=r"badarg.*litres"):
                await alice.calls.call("bob", "kitchen", "boil")


async def test_a_functions_own_exception_comes_with_its_traceback() -> None:
    def burn() -> None:
        raise KeyError("toast")

    async with open_side("alice") as alice, open_side("bob") as bob:
        bob.serve("kitchen", burn=burn)
        async with joined(alice, bob):
            with pytest.raises(RemoteError) as caught:
                await alice.calls.call("bob", "kitchen", "burn")
    assert caught.value.kind == "KeyError"
    assert "in burn" in caught.value.traceback_text


async def test_what_is_not_data_raises_before_a_byte_is_sent() -> None:
    async with open_side("alice") as alice, open_side("bob") as bob:
        async with joined(alice, bob) as (ours, _):
            before = ours.channel.bytes_sent
            with pytest.raises(NotSendable, match="callback"):
                await alice.calls.call("bob", "kvs", "store", {"callback": lambda: 1})
            assert ours.channel.bytes_sent == before


async def test_other_code_than_the_callers_is_refused() -> None:
    async with open_side("alice") as alice, open_side("bob") as bob:
        ours = make_export(b"kvs/lookup", inline=lambda key: "new", digest=b"N" * 16)
        alice.exports[b"kvs/lookup"] = ours
        theirs = make_export(b"kvs/lookup", inline=lambda key: "old", digest=b"O" * 16)
        bob.exports[b"kvs/lookup"] = theirs
        async with joined(alice, bob):
            with pytest.raises(CodeMismatch) as caught:
                await alice.calls.call("bob", "kvs", "lookup", "x")
            assert (caught.value.have, caught.value.want) == ((b"O" * 16).hex(), (b"N" * 16).hex())
            theirs.digest = b"N" * 16
            assert await alice.calls.call("bob", "kvs", "lookup", "x") == "old"
            ours.digest = b"M" * 16  # alice's own code changes: the prepared header must follow
            with pytest.raises(CodeMismatch):
                await alice.calls.call("bob", "kvs", "lookup", "x")


async def test_a_cast_runs_and_a_too_large_one_is_refused_here() -> None:
    ran = trio.Event()
    async with open_side("alice") as alice, open_side("bob") as bob:
        bob.serve("bell", ring=lambda: ran.set())
        async with joined(alice, bob):
            await alice.calls.cast("bob", "bell", "ring")
            with trio.fail_after(2):
                await ran.wait()
            with pytest.raises(NotSendable, match="use call"):
                await alice.calls.cast("bob", "bell", "ring", b"x" * frames.MORE_ABOVE)


async def test_a_refused_cast_is_counted_not_answered() -> None:
    async with open_side("alice") as alice, open_side("bob") as bob:
        async with joined(alice, bob) as (_, theirs):
            await alice.calls.cast("bob", "no", "such")
            with trio.fail_after(2):
                while not bob.calls.refused_count:
                    await trio.testing.wait_all_tasks_blocked()
            assert not theirs.closed


async def test_multicall_gives_each_node_its_outcome() -> None:
    async with open_side("alice") as alice, open_side("bob") as bob:
        alice.serve("who", who=lambda: "alice")
        bob.serve("who", who=lambda: "bob")
        async with joined(alice, bob):
            found = await alice.calls.multicall(["alice", "bob", "carol"], "who", "who")
            assert found["alice"] == "alice"
            assert found["bob"] == "bob"
            assert isinstance(found["carol"], NoConnection)
            assert list(found) == ["alice", "bob", "carol"]
            assert set(await alice.calls.multicall(None, "who", "who")) == {"alice", "bob"}


async def test_a_call_to_this_node_goes_through_the_same_door() -> None:
    async with open_side("alice") as alice:
        alice.serve("who", who=lambda: "alice")
        alice.serve("node", OPERATOR, status=lambda: {})
        assert await alice.calls.call("alice", "who", "who") == "alice"
        assert await alice.calls.call_many("alice", "who", "who", [[], []]) == ["alice"] * 2
        with pytest.raises(NotPermitted):
            await alice.calls.call("alice", "node", "status")


async def test_a_client_reaches_this_node_and_others_by_one_target() -> None:
    async with open_side("client") as client, open_side("alice") as alice, open_side("bob") as bob:
        alice.serve("who", who=lambda: "alice")
        bob.serve("who", who=lambda: "bob")
        async with joined(client, alice, ring="operator") as (to_alice, _), joined(alice, bob):

            async def ask(target: bytes) -> object:
                prefix = frames.call_body(target, b"", timeout_ms=2000)
                body = await to_alice.call(prefix, dumps([]), trio.current_time() + 2)
                return loads(body[1:])

            assert await ask(b"/who/who") == "alice"
            assert await ask(b"alice/who/who") == "alice"
            assert await ask(b"bob/who/who") == "bob"
            with pytest.raises(NoConnection, match="no_such_node"):
                await ask(b"carol/who/who")


async def test_a_large_call_to_a_node_that_must_be_connected_first() -> None:
    """The body comes in fragments while there is no link yet: nothing of it is lost."""
    async with open_side("client") as client, open_side("alice") as alice, open_side("bob") as bob:
        bob.serve("size", size=len)
        async with joined(client, alice, ring="operator") as (to_alice, _):
            async with joined(alice, bob) as (to_bob, _):
                alice.directory.endpoints.clear()

                async def connect(node: str) -> object:
                    await trio.testing.wait_all_tasks_blocked()
                    return to_bob

                alice.directory.connect = connect  # type: ignore[method-assign,assignment]
                prefix = frames.call_body(b"bob/size/size", b"", timeout_ms=4000)
                body = await to_alice.call(
                    prefix, dumps([b"z" * 1_000_000]), trio.current_time() + 4
                )
                assert loads(body[1:]) == 1_000_000


async def call_as(endpoint: Endpoint, target: bytes, *args: object) -> object:
    """A call whose target names the node, as clients and workers make it."""
    prefix = frames.call_body(target, b"")
    body = await endpoint.call(prefix, dumps(list(args)), trio.current_time() + 5)
    return loads(body[1:])


async def test_a_worker_calls_with_a_members_right() -> None:
    async with open_side("worker") as worker, open_side("alice") as alice:
        alice.serve("kvs", store=lambda key, value: True)
        alice.serve("node", frozenset({"operator"}), status=lambda: "secret")
        async with joined(worker, alice, ring="worker") as (ours, _):
            assert await call_as(ours, b"/kvs/store", 1, 2) is True
            assert await call_as(ours, b"alice/kvs/store", 1, 2) is True
            with pytest.raises(NotPermitted, match="not for a worker"):
                await call_as(ours, b"/node/status")
            with pytest.raises(RemoteError, match="did you mean store"):
                await call_as(ours, b"/kvs/stor", 1, 2)
            with pytest.raises(NoConnection, match="no_such_node"):
                await call_as(ours, b"carol/kvs/store", 1, 2)


async def test_a_confined_worker_may_not_call() -> None:
    cast_to: list[object] = []
    async with open_side("worker") as worker, open_side("alice") as alice:
        alice.serve("kvs", store=cast_to.append)
        async with joined(worker, alice, ring="confined") as (ours, _):
            for target in (b"/kvs/store", b"bob/kvs/store", b"/no/such"):
                with pytest.raises(NotPermitted, match="cluster = false"):
                    await call_as(ours, target, 1)
            ours.cast(frames.call_body(b"/kvs/store", b""), dumps([1]))
            with pytest.raises(NotPermitted):
                await call_as(ours, b"/kvs/store", 1)
            assert alice.calls.refused_count == 1
            assert cast_to == []


async def test_a_function_may_be_told_who_calls() -> None:
    async with open_side("worker") as worker, open_side("alice") as alice:
        target = b"process/attach"
        export = make_export(target, inline=lambda caller, word: [caller.ring, word])
        export.rings = frozenset({"worker"})
        export.with_endpoint = True
        alice.exports[target] = export
        async with joined(worker, alice, ring="worker") as (ours, _):
            assert await call_as(ours, b"/process/attach", "x") == ["worker", "x"]
            many = frames.call_body(b"/process/attach", b"", flags=frames.FLAG_MANY)
            with pytest.raises(NotPermitted, match="one call at a time"):
                await ours.call(many, dumps([["x"], ["y"]]), trio.current_time() + 5)
            ours.cast(frames.call_body(b"/process/attach", b""), dumps(["x"]))
            assert await call_as(ours, b"/process/attach", "y") == ["worker", "y"]
            assert alice.calls.refused_count == 1


async def test_raw_casts_come_with_their_endpoint_and_undecoded() -> None:
    seen: list[tuple[str, bytes]] = []
    async with open_side("worker") as worker, open_side("alice") as alice:
        target = b"process/signals"
        export = make_export(target, rings=frozenset({"worker"}))
        export.raw = lambda endpoint, data: seen.append((endpoint.name, data))
        alice.exports[target] = export
        async with joined(worker, alice, ring="worker") as (ours, _):
            ours.cast(frames.call_body(target, b""), b"\xff raw")
            await trio.testing.wait_all_tasks_blocked()
        async with joined(worker, alice, ring="member") as (ours, _):
            ours.cast(frames.call_body(target, b""), b"no member's")
            await trio.testing.wait_all_tasks_blocked()
            ours.cast(frames.call_body(b"/" + target, b""), b"nor with a node")
            await trio.testing.wait_all_tasks_blocked()
        assert seen == [("alice", b"\xff raw")]
        assert alice.calls.refused_count == 2
