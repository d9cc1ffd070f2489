"""A member that was away at a revocation hears of it when it comes back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from drupelet.core.grants import Revocation
from drupelet.errors import RemoteError, Revoked
from drupelet.node import Node
from drupelet.services import telling
from drupelet.services.links import NodeEvent
from drupelet.wire import frames
from drupelet.wire.codec import dumps
from drupelet.wire.keys import key_to_text
from tests.unit.services.lights import LIGHT, TOML
from tests.unit.services.nodes import open_small_node, wait_up


@asynccontextmanager
async def member(directory: Path, name: str, *known: Node) -> AsyncIterator[Node]:
    missions = directory / name / "missions.d"
    missions.mkdir(parents=True, exist_ok=True)
    (missions / "light.toml").write_text(TOML)
    (missions / "light.py").write_text(LIGHT)
    async with open_small_node(directory, name, *known) as node:
        yield node


async def show(bob: Node, anne: Node, data: bytes) -> object:
    """Bob shows a grant of Alice's on a link to Anne, who is a member of hers."""
    endpoint = await bob.links.stranger_links.dial("127.0.0.1", anne.port, anne.key)
    prefix = frames.call_body(b"grants/present", b"", timeout_ms=5_000)
    args = dumps([data, bob.key, b""])
    return await endpoint.call(prefix, args, trio.current_time() + 5)


async def until_refused(bob: Node, anne: Node, data: bytes) -> None:
    while True:
        try:
            await show(bob, anne, data)
        except Revoked:
            return


async def test_refused_within_a_second_of_its_return(tmp_path: Path) -> None:
    with trio.fail_after(50):
        async with AsyncExitStack() as stack:
            alice = await stack.enter_async_context(member(tmp_path, "alice"))
            bob = await stack.enter_async_context(open_small_node(tmp_path, "bob", cookie="b"))
            async with member(tmp_path, "anne", alice) as anne:
                await wait_up(anne, "alice")
                await anne.grants.issue("light", "", {})  # she lets strangers in
                made = await alice.grants.issue("light", key_to_text(bob.key), {})
                await bob.grants.accept(str(made["text"]))
                (held,) = bob.grants.held("alice")
                await show(bob, anne, held.data)
            await wait_up(alice, "anne", up=False)
            answer = await alice.grants.revoke(str(made["id"]))
            assert answer["members"] == {"anne": False}
            async with member(tmp_path, "anne", alice) as anne:
                await wait_up(anne, "alice")
                came_at = trio.current_time()
                await until_refused(bob, anne, held.data)
                span_s = trio.current_time() - came_at
                print(f"refused {span_s * 1_000:.0f} ms after it came back")
                assert span_s < 1
            async with member(tmp_path, "anne") as anne:  # it was kept: nobody tells it again
                kept = anne.grants.revoked_by(alice.key)
                assert [each.ids for each in kept] == [frozenset({held.id})]


class FakeCalls:
    """A member that answers from a list, the last answer for ever."""

    def __init__(self, *answers: object) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, Any]] = []

    async def call(
        self, node: str, mission: str, function: str, *args: object, timeout: float
    ) -> object:
        await trio.lowlevel.checkpoint()
        assert (node, mission, timeout) == ("anne", "grants", telling.TELL_S)
        self.asked.append((function, args[0]))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


OWN = [Revocation(issuer=b"a" * 32, ids=frozenset({b"1" * 16}), keys=frozenset(), sequence=1)]


def event(kind: str) -> NodeEvent:
    return NodeEvent(kind=kind, name="anne", key=b"n" * 32, incarnation=1, reason="")


@asynccontextmanager
async def told(calls: FakeCalls, own: list[Revocation] = OWN) -> AsyncIterator[telling.Telling]:
    teller = telling.Telling(calls, lambda: own)  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(teller.run)
        teller.on_node(event("up"))
        yield teller
        nursery.cancel_scope.cancel()


async def test_who_knows_it_all_is_told_nothing(autojump_clock: Any) -> None:
    calls = FakeCalls(True)
    async with told(calls) as teller:
        await trio.sleep(60)
        assert [each for each, _ in calls.asked] == ["told"]
        teller.on_node(event("down"))
        teller.on_node(event("up"))
        await trio.sleep(60)
        assert [each for each, _ in calls.asked] == ["told"] * 2


async def test_who_revoked_nothing_asks_nobody(autojump_clock: Any) -> None:
    calls = FakeCalls(True)
    async with told(calls, []):
        await trio.sleep(60)
    assert calls.asked == []


async def test_a_member_that_refuses_is_asked_again_while_it_is_up(
    autojump_clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    full = RemoteError("not_durable", "the disk is full")
    calls = FakeCalls(False, full, False, True)
    async with told(calls):
        await trio.sleep(60)
    assert [each for each, _ in calls.asked] == ["told", "catch_up", "told", "catch_up"]
    assert "revocations_untold to=anne" in caplog.text
    calls = FakeCalls(False, full)
    async with told(calls) as teller:
        await trio.sleep(telling.AGAIN_S * 2.5)
        count = len(calls.asked)
        teller.on_node(event("down"))
        await trio.sleep(60)
        assert len(calls.asked) == count > 2


async def test_one_of_an_older_version_is_left_alone(autojump_clock: Any) -> None:
    calls = FakeCalls(RemoteError("undef", "no function told"))
    async with told(calls):
        await trio.sleep(60)
    assert len(calls.asked) == 1
