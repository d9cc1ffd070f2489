"""The audit: what is written of calls from outside, and what a card that fails costs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio
import trio.testing

from drupelet.errors import NotPermitted, RemoteError, Revoked
from drupelet.services import audit
from drupelet.services.audit import Audit
from drupelet.store.audit import AuditLog
from drupelet.wire.keys import key_to_text
from tests.unit.services.lights import grant, nodes


def made(directory: Path) -> Audit:
    return Audit(AuditLog(directory / "audit"), "boot", clock=lambda: 1_000.0)


async def test_a_log_that_nobody_needed_is_not_there(tmp_path: Path) -> None:
    log = made(tmp_path)
    await log.flush()
    assert not (tmp_path / "audit").exists()
    assert await log.read() == []


async def test_what_is_noted_is_read_and_verified(tmp_path: Path) -> None:
    log = made(tmp_path)
    for number in range(5):
        log.note("call", mission="kitchen" if number % 2 else "garden", function=f"f{number}")
    assert [each["function"] for each in await log.read("kitchen")] == ["f1", "f3"]
    assert [each["function"] for each in await log.read(count_max=2)] == ["f3", "f4"]
    assert await log.read(since_s=-1.0) == []
    assert len(await log.read(since_s=1.0)) == 5
    verdict = await log.verify()
    assert (verdict["good"], verdict["entries"], verdict["broken"]) == (True, 5, "")
    assert verdict["remembered"] is None
    log.note("call", mission="kitchen")
    assert (await log.verify(str(verdict["hash"])))["remembered"] is True
    assert (await log.verify("ab" * 32))["remembered"] is False
    for bad in ("x", 3):
        with pytest.raises(RemoteError, match="remembered is a hash"):
            await log.verify(bad)  # type: ignore[arg-type]
    for bad in (0, audit.READ_MAX + 1, "x"):
        with pytest.raises(RemoteError, match="count_max"):
            await log.read(count_max=bad)  # type: ignore[arg-type]


async def test_a_change_is_named(tmp_path: Path) -> None:
    log = made(tmp_path)
    log.note("call", mission="kitchen")
    log.note("call", mission="kitchen")
    await log.flush()
    path = tmp_path / "audit" / "00000001.log"
    path.write_bytes(path.read_bytes().replace(b"kitchen", b"kitcher", 1))
    verdict = await log.verify()
    assert not verdict["good"]
    assert str(verdict["broken"]).startswith("00000001.log at byte 0: ")


async def test_refusals_are_sampled(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    log = made(tmp_path)
    for _ in range(500):
        log.refused("eve", "kitchen", "boil", "NotPermitted")
    log.refused("eve", "kitchen", "boil", "RateLimited")
    assert [each["count"] for each in await log.read()] == [1, 1]
    autojump_clock.jump(audit.SAMPLE_S)
    entries = await log.read()
    assert [(each["outcome"], each["count"]) for each in entries] == [
        ("NotPermitted", 1), ("RateLimited", 1), ("NotPermitted", 499)
    ]  # fmt: skip


async def test_kinds_at_the_maximum_and_one_above(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    log = made(tmp_path)
    for number in range(audit.KINDS_MAX + 50):
        log.refused("eve", "kitchen", f"f{number}", "NotPermitted")
    assert len(log._refused) == audit.KINDS_MAX + 1  # and those that are counted together
    autojump_clock.jump(audit.SAMPLE_S)
    entries = await log.read()
    assert entries[-1]["outcome"] == "others" and entries[-1]["count"] == 49


async def test_entries_at_the_maximum_and_one_above(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "QUEUE_MAX", 3)
    log = made(tmp_path)
    for number in range(5):
        log.note("call", function=f"f{number}")
    assert log.lost_count == 2
    entries = await log.read()
    assert [each["what"] for each in entries] == ["call"] * 3 + ["damaged"]
    assert entries[-1]["count"] == 2
    assert log.lost_count == 0


@pytest.mark.error_log("the card fails on purpose")
async def test_a_card_that_fails_costs_entries_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    log = made(tmp_path)
    log.note("call", function="one")
    await log.flush()

    def fail(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", fail)
    log.note("call", function="two")
    await log.flush()
    assert "audit_failed what=[Errno 5]" in caplog.text
    monkeypatch.undo()
    log.note("call", function="three")
    entries = await log.read()
    assert [each["what"] for each in entries][-2:] == ["call", "damaged"]
    assert (await log.verify())["good"]


async def test_what_waits_is_written_at_the_end(tmp_path: Path) -> None:
    log = made(tmp_path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.run)
        log.note("call", function="last")
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    log.note("call", function="too late")
    assert [each["function"] for each in await made(tmp_path).read()] == ["last"]


async def test_a_half_written_end_is_told(tmp_path: Path) -> None:
    log = made(tmp_path)
    log.note("call")
    await log.flush()
    path = tmp_path / "audit" / "00000001.log"
    path.write_bytes(path.read_bytes() + b"\0\0\0\x50half")
    after = made(tmp_path)
    after.note("call", function="after")
    entries = await after.read()
    assert [each["what"] for each in entries] == ["call", "damaged", "call"]
    assert "8 bytes at the end of 00000001.log" in str(entries[1]["note"])
    assert (await after.verify())["good"]


async def test_calls_of_strangers_are_logged_with_who_they_were(tmp_path: Path) -> None:
    async with nodes(tmp_path, "alice", "bob", "charlie") as (alice, bob, charlie):
        made = await grant(alice, None, functions=["temp", "slow"])
        for node in (bob, charlie):
            await node.grants.accept(made["text"])
            await node.call("alice", "light", "temp")
        with pytest.raises(NotPermitted):
            await charlie.call("alice", "light", "on")
        async with trio.open_nursery() as nursery:

            async def slow() -> None:
                with pytest.raises(Revoked):
                    await bob.call("alice", "light", "slow", 60, timeout=90)

            nursery.start_soon(slow)
            while not len(alice.holdings):
                await trio.lowlevel.checkpoint()
            await alice.grants.revoke(made["id"])
        entries = await alice.audit.read()
        assert [(each["what"], each["outcome"]) for each in entries] == [
            ("granted", ""), ("call", "ok"), ("call", "ok"), ("refused", "NotPermitted"),
            ("call", "Revoked"), ("revoked", ""),
        ]  # fmt: skip
        callers = [key_to_text(each.key) for each in (bob, charlie, charlie, bob)]
        assert [each["caller"] for each in entries[1:5]] == callers
        assert (await alice.audit.verify())["good"]
        assert [each["what"] for each in await alice.audit.read("light", None, 1)] == ["revoked"]
        await alice.grants.issue("light", f"  {key_to_text(bob.key)}\n", {})  # as it was copied
        (entry,) = await alice.audit.read("light", None, 1)
        assert (entry["what"], entry["caller"]) == ("granted", key_to_text(bob.key))
