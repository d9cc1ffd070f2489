"""Keys of casts that are done: many in one message, again when nobody hears it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio
import trio.testing

from drupelet.errors import CallError, NoConnection, NotPermitted
from drupelet.services import done_keys as module
from drupelet.services.done_keys import AGAIN_S, WAIT_S, DoneKeys
from drupelet.store.outbox import KeptCast
from drupelet.wire.limits import DONE_KEYS_MAX

CAST = KeptCast(
    key=b"", callee=b"a" * 32, name="alice", target="light/on", arguments=b"", left_s=0.0
)


class Callee:
    """Hears of keys, or not."""

    def __init__(self) -> None:
        self.told: list[tuple[bytes, int]] = []
        self.failure: CallError | None = None
        self.done = DoneKeys(self.tell)

    async def tell(self, cast: KeptCast, keys: list[bytes]) -> None:
        await trio.lowlevel.checkpoint()
        if self.failure is not None:
            raise self.failure
        self.told.append((cast.callee, len(keys)))

    def add(self, count: int, callee: bytes = CAST.callee) -> None:
        for number in range(count):
            self.done.add(replace(CAST, key=number.to_bytes(16, "big"), callee=callee))


@pytest.mark.parametrize("more", [0, 1])
async def test_many_in_one_message(autojump_clock: trio.testing.MockClock, more: int) -> None:
    callee = Callee()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(callee.done.run)
        callee.add(DONE_KEYS_MAX + more)
        await trio.sleep(WAIT_S + 1)
        assert callee.told == [(CAST.callee, DONE_KEYS_MAX), (CAST.callee, 1)][: 1 + more]
        assert callee.done.count == 0
        nursery.cancel_scope.cancel()


async def test_who_cannot_be_told_is_told_later(autojump_clock: trio.testing.MockClock) -> None:
    callee = Callee()
    callee.failure = NoConnection("down")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(callee.done.run)
        callee.add(2)
        callee.add(3, b"b" * 32)
        await trio.sleep(WAIT_S + 1)
        assert callee.told == [] and callee.done.count == 5
        callee.failure = None
        await trio.sleep(AGAIN_S + WAIT_S + 1)
        assert callee.told == [(CAST.callee, 2), (b"b" * 32, 3)]
        callee.failure = NotPermitted()  # it has no right any more: it need not be told
        callee.add(2)
        await trio.sleep(WAIT_S + 1)
        assert callee.done.count == 0 and len(callee.told) == 2
        nursery.cancel_scope.cancel()


def test_what_waits_at_the_maximum_and_one_above(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DONE_WAITING_MAX", 2)
    callee = Callee()
    callee.add(3)
    assert callee.done.count == 2
