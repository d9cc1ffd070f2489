"""Pairing between nodes that have nothing in common but a relay, which may be hostile."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from drupelet.errors import NotPermitted, RemoteError
from drupelet.node import Node
from drupelet.relay.service import Relay
from drupelet.services import joining, pairing, relay_link, relayed_pairing
from drupelet.wire import relay as wire
from drupelet.wire.codec import dumps, loads
from drupelet.wire.keys import key_to_text
from drupelet.wire.pairing import (
    Invitation,
    code_from_text,
    decode_invitation,
    encode_invitation,
    make_code,
)
from drupelet.wire.relayed_pairing import (
    Ask,
    encode_answer,
    encode_ask,
    plate_of,
)
from tests.unit.services.relayed import nodes
from tests.unit.services.test_joining import search, seen
from tests.unit.services.test_pairing import waiting

NOWHERE = [("127.0.0.1", 1)]  # an address at which nobody listens


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "RELAY_AFTER_S", 0.05)
    monkeypatch.setattr(joining, "FIND_S", 5.0)


def without_addresses(*several: Node) -> None:
    for node in several:
        assert node.relayed_pairing is not None
        node.relayed_pairing._addresses = lambda: NOWHERE


def of_the_same_plate(code: str) -> str:
    """Another code that is looked for in the same place."""
    numbers = range(1, 100_000)
    codes = (make_code(number.to_bytes(16, "big")) for number in numbers)
    return next(each for each in codes if plate_of(each) == plate_of(code) and each != code)


async def test_a_grant_by_eight_letters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with nodes(tmp_path, monkeypatch, "alice", "bob") as (relay, (alice, bob)):
        async with waiting(alice, "light", {"functions": ["temp"]}) as (code, outcomes):
            answer = await search(bob, code)
        assert (answer["name"], answer["key"]) == ("alice", key_to_text(alice.key))
        assert (answer["by"], answer["host"], answer["gives"]) == ("relay", "", "grant")
        assert "temp" in answer["sentence"]
        key = key_to_text(bob.key)
        assert outcomes == [{"outcome": "paired", "by": "relay", "name": "bob", "key": key}]
        assert await bob.call("alice", "light", "temp") == 20
        with pytest.raises(NotPermitted):
            await bob.call("alice", "light", "on")
        assert len(bob.credentials.psks) == 1
        while relay.gauges()["plates"]:  # it is taken back
            await trio.testing.wait_all_tasks_blocked(0.01)


async def test_members_whose_addresses_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    async with nodes(tmp_path, monkeypatch, "alice", "bob") as (_, (alice, bob)):
        async with waiting(alice) as (code, _):
            answer = await search(bob, code)
        assert (answer["by"], answer["gives"], answer["linked"]) == ("relay", "member", True)
        assert bob.credentials.psks[0] == alice.credentials.psks[0]
        assert await bob.call("alice", "light", "temp") == 20
        for secret in (code, code_from_text(code), await alice.keys.cookie_text()):
            assert secret not in caplog.text


async def test_one_that_can_be_reached_is_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with nodes(tmp_path, monkeypatch, "alice", "bob") as (_, (alice, bob)):
        without_addresses(alice)  # she dials him: he has said where he is
        async with waiting(alice) as (code, _):
            assert (await search(bob, code))["linked"]


async def test_members_that_cannot_reach_each_other_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joining, "LINK_S", 0.5)
    async with nodes(tmp_path, monkeypatch, "alice", "bob") as (_, (alice, bob)):
        without_addresses(alice, bob)
        async with waiting(alice) as (code, outcomes):
            answer = await search(bob, code)
        assert (answer["by"], answer["linked"]) == ("relay", False)
        assert answer["addresses"] == [["127.0.0.1", 1]]
        assert outcomes[0]["outcome"] == "paired"
        assert bob.credentials.psks[0] == alice.credentials.psks[0]


@pytest.mark.error_log
async def test_a_disk_that_is_full_ends_the_pairing_and_not_the_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with nodes(tmp_path, monkeypatch, "alice", "bob") as (_, (alice, bob)):

        async def full(*terms: object) -> dict[str, object]:
            await trio.lowlevel.checkpoint()
            raise OSError("no space left on the device")

        monkeypatch.setattr(alice.grants, "issue", full)
        async with waiting(alice, "light", {}) as (code, outcomes):
            with pytest.raises(RemoteError, match="^OSError: .*its log says why"):
                await search(bob, code)
        assert outcomes[0]["outcome"] == "cancelled"
        assert await alice.call("alice", "light", "temp") == 20


async def test_on_one_network_the_relay_is_not_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joining, "RELAY_AFTER_S", 10.0)
    async with nodes(tmp_path, monkeypatch, "alice", "bob") as (relay, (alice, bob)):
        async with waiting(alice) as (code, _):
            seen(bob, alice)
            assert (await search(bob, code))["by"] == "link"
        assert relay.counts["plates_looked_up"] == 0


async def test_a_typing_error_burns_nothing_and_a_guess_burns_the_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joining, "FIND_S", 0.3)
    async with nodes(tmp_path, monkeypatch, "alice", "bob", "eve") as (_, (alice, bob, eve)):
        async with waiting(alice) as (code, outcomes):
            plain = code_from_text(code)
            mistyped = ("B" if plain[0] == "A" else "A") + plain[1:]
            with pytest.raises(RemoteError, match="^nobody_found: .*knows of no such code"):
                await search(bob, mistyped)
            assert not outcomes
            with pytest.raises(RemoteError, match="^wrong_code"):
                await search(eve, of_the_same_plate(plain))
            while not outcomes:
                await trio.lowlevel.checkpoint()
            expected = {"outcome": "burnt", "by": "relay", "name": "eve"}
            assert outcomes == [expected | {"key": key_to_text(eve.key)}]
            with pytest.raises(RemoteError, match="^nobody_found"):
                await search(bob, code)
        assert len(bob.credentials.psks) == len(eve.credentials.psks) == 1


async def test_an_invitation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "LOOK_S", 0.3)
    async with nodes(tmp_path, monkeypatch, "alice", "bob") as (_, (alice, bob)):
        assert alice.relay is not None and bob.relay is not None
        async with trio.open_nursery() as nursery:
            shown: Any = await alice.pairing.open("light", {})
            nursery.start_soon(alice.pairing.wait)
            invitation = decode_invitation(shown["invitation"])
            assert (invitation.relay, shown["relay"]) == (alice.relay.url, alice.relay.url)

            def changed(**fields: Any) -> str:
                known = {
                    "code": invitation.code,
                    "key": alice.key,
                    "name": "alice",
                    "relay": invitation.relay,
                    "addresses": (("127.0.0.1", 1),),
                }
                return encode_invitation(Invitation(**{**known, **fields}))

            with pytest.raises(RemoteError, match="another node shows that"):
                await search(bob, changed(key=bytes(32)))
            bob.relay.urls = ("https://elsewhere.example",)
            other = "ABCDEFGH" if plate_of(invitation.code) != plate_of("ABCDEFGH") else "ABCDEFGJ"
            with pytest.raises(RemoteError, match=f"^other_relay: .*is at {alice.relay.url}"):
                await search(bob, changed(code=other))
            assert (await search(bob, changed()))["by"] == "relay"


async def test_without_a_relay_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "FIND_S", 0.1)
    monkeypatch.setattr(relay_link, "ONLINE_S", 0.1)
    async with nodes(tmp_path, monkeypatch, "alice", "bob") as (_, (alice, bob)):
        bob.pairing._joining._relayed = None
        with pytest.raises(RemoteError, match="^nobody_found: .*; this node is at no relay"):
            await search(bob, "ABCD-EFGH")
        assert alice.relay is not None
        link, alice.relay._online = alice.relay, trio.Event()
        async with trio.open_nursery() as nursery:
            shown: Any = await alice.pairing.open("light", {})
            nursery.start_soon(alice.pairing.wait)
            assert (shown["relay"], shown["relay_problem"]) == ("", "it cannot be reached now")
            with pytest.raises(RemoteError, match="^relay_down: .*cannot be reached now"):
                await search(alice, "ABCD-EFGH")
            link._online.set()
            alice.pairing.cancel()


async def test_a_relay_that_forgot_the_code_is_told_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairing, "SHOW_AGAIN_S", 0.05)
    async with nodes(tmp_path, monkeypatch, "alice", "bob") as (relay, (alice, bob)):
        async with waiting(alice, "light", {}) as (code, _):
            relay._plates.take_back(alice.key)
            while not relay.gauges()["plates"]:
                await trio.testing.wait_all_tasks_blocked(0.01)
            assert (await search(bob, code))["by"] == "relay"


async def test_a_code_whose_plate_is_taken_is_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes = ["ABCDEFGH", "ABCDEFGJ"]
    monkeypatch.setattr(pairing, "make_code", lambda entropy: codes.pop(0))
    async with nodes(tmp_path, monkeypatch, "alice", "bob") as (relay, (alice, bob)):
        relay._plates.show(bob.key, plate_of("ABCDEFGH"), 300, trio.current_time())
        async with waiting(alice, "light", {}) as (code, _):
            assert code == "ABCD-EFGJ"
            assert (await search(bob, code))["name"] == "alice"


async def test_who_looks_too_often_is_told_when_to_come_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joining, "FIND_S", 0.1)
    async with nodes(tmp_path, monkeypatch, "alice", "bob") as (_, (_, bob)):
        for number in range(6):
            with pytest.raises(RemoteError) as caught:
                await search(bob, make_code(number.to_bytes(16, "big")))
        assert caught.value.kind == "relay_busy"
        assert "again in" in caught.value.message


# -- a hostile relay


Alter = Callable[[bytes, wire.Pair], list[tuple[bytes, wire.Pair]]]


def hostile(monkeypatch: pytest.MonkeyPatch, relay: Relay, alter: Alter) -> list[bytes]:
    """It passes on what `alter` makes of each word; all that it has seen."""
    seen_there: list[bytes] = []
    send = relay.mail._send

    async def altered(key: bytes, said: Any, kind: int) -> None:
        if kind != wire.PAIRING:
            return await send(key, said, kind)
        seen_there.append(said.body)
        for sender, word in alter(key, said):
            await send(sender, word, kind)
        return None

    monkeypatch.setattr(relay.mail, "_send", altered)
    return seen_there


async def test_a_relay_in_the_middle_burns_the_code_and_learns_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says that its own key shows the code, and passes everything on under that key."""
    async with nodes(tmp_path, monkeypatch, "alice", "bob", "eve") as (relay, (alice, bob, eve)):
        seed = eve.identity.seed
        asked: dict[bytes, bytes] = {}  # id: who has asked, here

        def in_the_middle(key: bytes, word: wire.Pair) -> list[tuple[bytes, wire.Pair]]:
            fields = loads(loads(word.body)[0])  # what is signed can be read
            if word.re is None:
                asked[word.id] = key
                ask = Ask(run=fields[2], step=fields[3], name="bob", payload=fields[5])
                body, to = encode_ask(seed, alice.key, ask), alice.key
            else:
                to = asked[word.re]
                answer = fields[4]
                if answer is None:
                    answer = RemoteError(fields[5][1], fields[5][2])
                body = encode_answer(seed, to, fields[2], word.re, answer)
            changed = wire.Pair(ref=0, to=to, plate=None, id=word.id, re=word.re, body=body)
            return [(eve.key, changed)]

        overheard = hostile(monkeypatch, relay, in_the_middle)
        answer_of = relay.answer

        async def lies(key: bytes, message: wire.FromNode, address: str = "") -> Any:
            if isinstance(message, wire.FindPlate):
                return [eve.key, "alice"]
            if isinstance(message, wire.Pair) and key == bob.key:
                return await relay.mail._send(key, message, wire.PAIRING)
            return await answer_of(key, message, address)

        monkeypatch.setattr(relay, "answer", lies)
        async with waiting(alice) as (code, outcomes):
            with pytest.raises(RemoteError, match="^wrong_code"):
                await search(bob, code)
            while not outcomes:
                await trio.lowlevel.checkpoint()
        assert (outcomes[0]["outcome"], outcomes[0]["key"]) == ("burnt", key_to_text(eve.key))
        assert len(overheard) == 4  # a share each, bob's proof, and that it was wrong
        cookie = (await alice.keys.cookie_text()).encode()
        assert not any(cookie in each for each in overheard)
        assert len(bob.credentials.psks) == 1


async def test_a_relay_in_the_middle_that_changes_no_key_learns_nothing_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with nodes(tmp_path, monkeypatch, "alice", "bob") as (relay, (alice, bob)):
        overheard = hostile(monkeypatch, relay, lambda key, word: [(key, word)])
        async with waiting(alice) as (code, _):
            assert (await search(bob, code))["linked"]
        secrets = [(await alice.keys.cookie_text()).encode(), code_from_text(code).encode()]
        secrets += [each[:16] for each in alice.credentials.psks]
        assert len(overheard) == 6
        for each in overheard:
            assert not any(secret in each for secret in secrets)


async def test_what_comes_twice_is_heard_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with nodes(tmp_path, monkeypatch, "alice", "bob") as (_, (alice, bob)):
        assert alice.relay is not None and bob.relay is not None
        for node in (alice, bob):
            assert node.relay is not None
            take = node.relay.on_kind[wire.PAIRING]

            def twice(message: wire.Deliver, take: Any = take) -> None:
                take(message)
                take(message)

            node.relay.on_kind[wire.PAIRING] = twice
        async with waiting(alice, "light", {}) as (code, outcomes):
            assert (await search(bob, code))["by"] == "relay"
        assert outcomes[0]["outcome"] == "paired"


@pytest.mark.parametrize("at", range(6))
async def test_a_word_that_is_altered_or_lost_hands_nothing_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    monkeypatch.setattr(relayed_pairing, "ANSWER_S", 0.5)
    async with nodes(tmp_path, monkeypatch, "alice", "bob") as (relay, (alice, bob)):
        count = [0]

        def alter(key: bytes, word: wire.Pair) -> list[tuple[bytes, wire.Pair]]:
            count[0] += 1
            if count[0] - 1 != at:
                return [(key, word)]
            [content, signature] = loads(word.body)
            content = content[:-1] + bytes([content[-1] ^ 1])
            body = dumps([content, signature])
            return [(key, wire.Pair(ref=0, to=word.to, plate=None, id=word.id, re=word.re,
                                    body=body))]  # fmt: skip

        hostile(monkeypatch, relay, alter)
        async with waiting(alice, "light", {}) as (code, outcomes):
            if at >= 4:  # bob has it; that she has heard so is lost
                assert (await search(bob, code))["gives"] == "grant"
            else:
                with pytest.raises(RemoteError) as caught:
                    await search(bob, code)
                assert caught.value.kind in ("code_gone", "pair_slow", "relay_silent")
        assert len(bob.grants.accepted.files()) == (at >= 4)
        assert [each["outcome"] for each in outcomes] == ["paired" if at == 5 else "cancelled"]
