"""A member's name is its own, also before it is met again."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
import trio

from drupelet.errors import ConfigError, NoConnection, RemoteError
from drupelet.services.known_members import KnownMembers
from drupelet.services.links import Links, NodeEvent
from drupelet.wire.grant_files import decode_grant_file
from drupelet.wire.limits import MEMBERS_KEPT_MAX
from tests.unit.services.lights import grant, nodes
from tests.unit.services.nodes import open_small_node, wait_up


async def test_a_grant_under_a_members_name_is_not_used_before_that_is_met(tmp_path: Path) -> None:
    """A stranger is called anne, as a member that is switched off when this node starts."""
    (tmp_path / "strangers").mkdir()
    async with nodes(tmp_path / "strangers", "anne") as (impostor,):
        async with (
            open_small_node(tmp_path, "bob") as bob,
            open_small_node(tmp_path, "anne", bob) as anne,
        ):
            await wait_up(bob, "anne")
            made = await grant(impostor, bob)
            with pytest.raises(RemoteError, match="the name of a member of this cluster"):
                await bob.grants.accept(made["text"])
            while len(bob.known._store.load()) < 1:
                await trio.lowlevel.checkpoint()
            key = anne.key
        async with open_small_node(tmp_path, "bob") as bob:
            assert bob.known.key_of("anne") == bob.known.key_of("anne@shire") == key
            with pytest.raises(RemoteError, match="the name of a member of this cluster"):
                await bob.grants.accept(made["text"])
            # one that was kept before the name was known:
            bob.grants.accepted.keep([decode_grant_file(made["text"])])
            with pytest.raises(NoConnection):
                await bob.call("anne", "light", "temp")


class FakeLinks:
    def listen(self, listener: object) -> None: ...


def known(directory: Path) -> KnownMembers:
    return KnownMembers(directory, lambda name: None, cast(Links, FakeLinks()))


def up(name: str, key: bytes = b"k" * 32, kind: str = "up") -> NodeEvent:
    return NodeEvent(kind=kind, name=name, key=key, incarnation=1, reason="")


def test_the_last_key_of_a_name_counts_and_the_oldest_name_goes_first(tmp_path: Path) -> None:
    members = known(tmp_path)
    members.on_node(up("anne", kind="down"))
    assert members.keys() == {}
    members.on_node(up("anne", b"1" * 32))
    members.on_node(up("sam"))
    members.on_node(up("anne", b"2" * 32))
    assert members.key_of("anne") == b"2" * 32
    assert list(members.keys()) == ["sam", "anne"]
    for number in range(MEMBERS_KEPT_MAX - 1):
        members.on_node(up(f"n{number}"))
    assert len(members.keys()) == MEMBERS_KEPT_MAX
    assert members.key_of("sam") is None and members.key_of("anne") is not None


async def test_what_could_not_be_kept_is_kept_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("drupelet.services.known_members.AGAIN_S", 0.0)
    members = known(tmp_path)
    saved: list[dict[str, bytes]] = []

    def save(found: dict[str, bytes]) -> None:
        saved.append(found)
        if len(saved) == 1:
            raise ConfigError("the disk is full", mend="make room", file="members")

    members._store.save = save  # type: ignore[method-assign]
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(members.run)
            members.on_node(up("anne"))
            while len(saved) < 2:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
    assert saved == [{"anne": b"k" * 32}] * 2
    assert "members_unkept" in caplog.text


def test_a_damaged_file_leaves_names_free(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "members").write_bytes(b"x")
    (tmp_path / "members").chmod(0o600)
    members = known(tmp_path)
    members.restore()
    assert members.keys() == {}
    assert "members_damaged" in caplog.text
