"""`drupelet why`: each step that can break, with its reason and its mend; whole nodes."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import trio

from drupelet.config_values import Peer
from drupelet.core.candidates import Candidate
from drupelet.errors import REASONS
from drupelet.node import Node, open_node
from drupelet.services import diagnosis
from drupelet.services.diagnosis import MENDS, Diagnosis
from drupelet.wire.epmd import MapperEntry
from drupelet.wire.grant_files import GrantFile, encode_grant_file
from drupelet.wire.grants import Terms, issue
from tests.unit.services import relayed
from tests.unit.services.nodes import make_config, open_small_node, wait_up


async def why(node: Node, *words: str) -> dict[str, Any]:
    """What the operator is told, within the bounds of the command."""
    with trio.fail_after(10):
        export = node.missions.exports[b"node/why"]
        inline = cast(Callable[..., Any], export.inline)
        found = await inline(*words)
    assert isinstance(found, dict)
    assert found["ok"] is (found["step"] is None)
    return found


def steps(found: dict[str, Any]) -> list[str]:
    return [str(each["step"]) for each in found["steps"]]


@pytest.mark.parametrize("reason", sorted(MENDS))
def test_every_mend_can_be_told(reason: str) -> None:
    walk = Diagnosis("gandalf")
    found = walk.broken("some", reason)
    assert found["mend"]
    assert "{" not in str(found["mend"])
    assert found["detail"] == REASONS.get(reason, reason)


def test_a_name_with_braces_is_only_a_name() -> None:
    found = Diagnosis("{host.__class__}").broken("name", "no_such_node")
    assert "{host.__class__}@ADDRESS" in str(found["mend"])


async def test_nothing_is_wrong(tmp_path: Path) -> None:
    async with open_small_node(tmp_path, "gandalf") as gandalf:
        gandalf.serve("kettle", {"boil": lambda: True})
        async with open_small_node(tmp_path, "bilbo", gandalf) as bilbo:
            await wait_up(bilbo, "gandalf")
            found = await why(bilbo, "gandalf", "kettle", "boil")
            assert found["ok"] is True
            assert steps(found) == ["name", "call", "clock", "mission", "function", "code"]
            assert "does not matter" in found["steps"][2]["detail"]
            itself = await why(bilbo, "bilbo")
            assert itself["ok"] is True
            assert "is this node" in itself["steps"][0]["detail"]


async def test_a_node_that_is_not_linked_yet_is_walked_to(tmp_path: Path) -> None:
    async with open_small_node(tmp_path, "gandalf") as gandalf:
        async with open_node(make_config(tmp_path, "bilbo")) as bilbo:
            bilbo.membership.candidate(
                Candidate(
                    source="static",
                    host="127.0.0.1",
                    port=gandalf.port,
                    name="gandalf",
                    key_prefix="",
                ),
                trio.current_time(),
            )
            found = await why(bilbo, "gandalf")
            assert found["ok"] is True
            assert steps(found)[:2] == ["name", "port"]


async def test_unknown_names_have_near_ones(tmp_path: Path) -> None:
    async with open_small_node(tmp_path, "gandalf") as gandalf:
        async with open_small_node(tmp_path, "bilbo", gandalf) as bilbo:
            await wait_up(bilbo, "gandalf")
            found = await why(bilbo, "gandlaf")
            assert (found["step"], found["reason"]) == ("name", "no_such_node")
            assert "did you mean gandalf?" in found["detail"]


async def test_a_closed_port_a_strange_service_and_the_better_of_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("drupelet.services.links.HANDSHAKE_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        quiet = silent.getsockname()[1]
        with socket.create_server(("127.0.0.1", 0)) as gone:
            closed = gone.getsockname()[1]
        for ports, step, reason in [
            ((closed,), "port", "port_closed"),
            ((closed, quiet), "port", "silent"),  # the one that came further is more telling
        ]:
            peers = tuple(Peer(name="gandalf", host="127.0.0.1", port=each) for each in ports)
            async with open_node(make_config(tmp_path, "bilbo", peers=peers)) as bilbo:
                found = await why(bilbo, "gandalf")
                assert (found["step"], found["reason"]) == (step, reason)
                assert found["mend"]


async def test_another_cookie(tmp_path: Path) -> None:
    async with open_small_node(tmp_path, "gandalf") as gandalf:
        async with open_small_node(tmp_path, "bilbo", gandalf, cookie="other") as bilbo:
            for _ in range(2):  # also while the door is shut for our failure
                found = await why(bilbo, "gandalf")
                assert (found["step"], found["reason"]) == ("cookie", "bad_cookie")
                assert steps(found) == ["name", "port", "cookie"]


async def test_missions_functions_and_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_small_node(tmp_path, "gandalf") as gandalf:
        gandalf.serve("kettle", {"boil": lambda: True})
        async with open_small_node(tmp_path, "bilbo", gandalf) as bilbo:
            await wait_up(bilbo, "gandalf")
            found = await why(bilbo, "gandalf", "teapot")
            assert (found["step"], found["reason"]) == ("mission", "undef")
            assert "kettle" in found["detail"]
            found = await why(bilbo, "gandalf", "kettle", "pour")
            assert (found["step"], found["reason"]) == ("function", "undef")
            assert "boil" in found["detail"]

            shown = {
                "name": "kettle",
                "exports": ["boil"],
                "digest": "aa" * 16,
                "state": "ready",
                "problem": "",
                "restarts": 0,
            }
            monkeypatch.setattr(gandalf.missions, "snapshot", lambda: [shown])
            monkeypatch.setattr(bilbo.missions, "digest", lambda mission: b"\xbb" * 16)
            found = await why(bilbo, "gandalf", "kettle", "boil")
            assert (found["step"], found["reason"]) == ("code", "code_differs")
            assert "aaaaaaaaaaaa" in found["detail"]
            assert "bbbbbbbbbbbb" in found["detail"]
            for state, reason in [("backoff", "mission_crashed"), ("refused", "mission_refused")]:
                shown["state"], shown["problem"] = state, "no water"
                found = await why(bilbo, "gandalf", "kettle", "boil")
                assert (found["step"], found["reason"]) == ("mission", reason)
                assert "no water" in found["detail"]


@pytest.mark.parametrize(
    "told",
    [
        None,
        7,
        [],
        {},
        {"missions": 3, "unix_s": 0.0},
        {"missions": [3, {"no": "name"}], "unix_s": 0.0},
        {"missions": [{"name": "kettle", "exports": 5, "state": 3}], "unix_s": 0.0},
        {"unix_s": "yesterday"},
        {"unix_s": [1]},
        {"unix_s": float("nan")},
        {"unix_s": None, "missions": []},
    ],
)
async def test_whatever_a_node_tells_of_itself_is_survived(tmp_path: Path, told: object) -> None:
    async with open_small_node(tmp_path, "gandalf") as gandalf:
        gandalf.serve("node", {"info": lambda: told})
        async with open_small_node(tmp_path, "bilbo", gandalf) as bilbo:
            await wait_up(bilbo, "gandalf")
            assert (await why(bilbo, "gandalf", "kettle", "boil"))["ok"] is False


async def test_a_node_that_hangs_takes_no_longer_than_a_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diagnosis, "_STEP_S", 0.2)
    async with open_small_node(tmp_path, "gandalf") as gandalf:
        gandalf.serve("node", {"info": trio.sleep_forever})
        async with open_small_node(tmp_path, "bilbo", gandalf) as bilbo:
            await wait_up(bilbo, "gandalf")
            found = await why(bilbo, "gandalf")
            assert (found["step"], found["reason"]) == ("call", "Timeout")


async def test_a_name_that_only_the_mapper_of_this_machine_knows(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A node with another cookie never linked; its name is in the mapper all the same."""
    async with open_small_node(tmp_path, "pix", cookie="other") as pix:

        async def lookup(host: str, name: str, **_: object) -> MapperEntry | None:
            assert host == "127.0.0.1"
            return MapperEntry(name="pix", port=pix.port) if name == "pix" else None

        monkeypatch.setattr(diagnosis.epmd, "lookup", lookup)
        async with open_small_node(tmp_path, "gandalf") as gandalf:
            assert (await why(gandalf, "pix"))["reason"] == "bad_cookie"
            assert (await why(gandalf, "sauron"))["reason"] == "no_such_node"


async def test_a_mission_that_answers_nothing_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with open_small_node(tmp_path, "gandalf") as gandalf:
        entry = {
            "name": "kitchen",
            "exports": ["boil"],
            "digest": "",
            "state": "ready",
            "problem": "has answered nothing for 3 s",
            "restarts": 0,
        }
        monkeypatch.setattr(gandalf.missions, "snapshot", lambda: [entry])
        found = await why(gandalf, "gandalf", "kitchen", "boil")
        assert (found["step"], found["reason"]) == ("mission", "mission_silent")
        assert "answered nothing" in found["detail"]
        assert "thread" in found["mend"]


async def test_a_node_that_granted_something(tmp_path: Path) -> None:
    async with (
        open_small_node(tmp_path, "alice", cookie="a") as alice,
        open_small_node(tmp_path, "bob", cookie="b") as bob,
    ):
        terms = Terms(functions=("temp",))
        grant = issue(alice.identity.seed, bob.key, "light", terms, bytes(8), sequence=1)
        alice.grants.grants.issued(grant, trio.current_time())
        places = (("127.0.0.1", alice.port),)
        file = GrantFile(grant=grant, name="alice", addresses=places)
        await bob.grants.accept(encode_grant_file(file))
        for words in ((), ("light",), ("light", "temp")):
            found = await why(bob, "alice", *words)
            assert (found["ok"], steps(found)) == (
                True,
                ["name", "port", "grant", "rate"][: 4 if words else 2],
            )
        assert "this node may call temp of the mission light on alice" in str(found["steps"])
        for words, detail in (
            (("light", "on"), "no grant of alice names light.on"),
            (("kvs",), "alice granted functions of light, none of kvs"),
        ):
            found = await why(bob, "alice", *words)
            assert (found["step"], found["reason"]) == ("grant", "not_granted")
            assert found["detail"] == detail
        export = bob.missions.exports[b"node/ping_node"]
        ping = cast(Callable[..., Any], export.inline)
        assert (await ping("alice"))["ok"] is True
        wider = issue(alice.identity.seed, bob.key, "light", Terms(), bytes(8), sequence=2)
        alice.grants.grants.issued(wider, trio.current_time())
        await bob.grants.accept(encode_grant_file(replace(file, grant=wider)))
        assert (await why(bob, "alice", "light", "on"))["ok"] is True
        await alice.grants.revoke(wider.id_text)  # the link stays open for the other one
        found = await why(bob, "alice", "light", "on")
        assert (found["step"], found["reason"]) == ("grant", "revoked")
        assert (await why(bob, "alice", "light", "temp"))["ok"] is True
        hourly = Terms(functions=("dim",), rate=(1, 3_600))
        slow = issue(alice.identity.seed, bob.key, "light", hourly, bytes(8), sequence=3)
        alice.grants.grants.issued(slow, trio.current_time())
        await bob.grants.accept(encode_grant_file(replace(file, grant=slow)))
        assert (await why(bob, "alice", "light", "dim"))["ok"] is True
        now = trio.current_time()
        used = alice.grants.grants
        used.finish(used.admit(used.present(slow.data, {bob.key}, now), "dim", 0, now))
        found = await why(bob, "alice", "light", "dim")
        assert (found["step"], found["reason"]) == ("rate", "rate_limited")
        assert "a call goes through in 3" in str(found["detail"])  # some 3,600 seconds
        assert "ask the owner of alice for more" in found["mend"]
        await alice.grants.revoke(slow.id_text)
        await alice.grants.revoke(grant.id_text)
        with trio.fail_after(5):
            while bob.links.endpoint("alice") is not None:
                await trio.lowlevel.checkpoint()
        found = await why(bob, "alice", "light", "temp")
        assert (found["step"], found["reason"]) == ("grant", "revoked")
        assert "new grant" in found["mend"]
        assert (await ping("alice"))["ok"] is True  # it is there, whatever it allows
    async with open_small_node(tmp_path, "bob", cookie="b") as bob:
        found = await why(bob, "alice")
        assert (found["step"], found["reason"]) == ("port", "port_closed")


async def test_a_node_that_only_a_relay_reaches(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with relayed.nodes(tmp_path, monkeypatch, "alice", "bob") as (_, (alice, bob)):
        await relayed.give(alice, bob, bob, functions=["temp"])
        await relayed.announced(bob)
        found = await why(bob, "alice", "light", "temp")
        assert found["ok"] and steps(found) == ["name", "port", "relay", "announced", "grant"]
        assert "by websocket" in str(found["steps"])
        assert bob.relay is not None
        await alice.stop()  # out of the catalogue
        bob.relay.forget_beacon(alice.key)
        found = await why(bob, "alice", "light", "temp")
        assert (found["step"], found["reason"]) == ("announced", "not_announced")
        assert "switched off" in found["mend"]
        monkeypatch.setattr(bob.relay, "_state", "not_verified")
        monkeypatch.setattr(bob.relay, "_why", "not_verified: wait")
        found = await why(bob, "alice")
        assert (found["step"], found["reason"]) == ("relay", "relay_down")
        assert "not_verified: wait" in found["detail"] and "`drupelet relay`" in found["mend"]
        bob.grants.accepted.keep(
            replace(each, relays=("https://other.example.org",))
            for each in bob.grants.accepted.files()
        )
        bob.grants.accepted._endpoints.clear()
        found = await why(bob, "alice")
        assert (found["step"], found["reason"]) == ("relay", "no_relay")
        assert "alice is at https://other.example.org" in found["detail"]
        assert bob.relay.url in found["detail"] and "[relay] url" in found["mend"]
