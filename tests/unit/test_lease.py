"""By whose right code runs: nobody's, unless somebody says so; what it starts inherits it."""

from __future__ import annotations

import trio

from drupelet.lease import Lease, lease_var


class Right:
    def add(self, what: object, end: object) -> None: ...

    def done(self, what: object) -> None: ...

    def linger(self, what: object, runs: object) -> None: ...


async def test_tasks_and_trios_threads_inherit_it() -> None:
    assert lease_var.get() is None
    seen: list[Lease | None] = []

    async def look() -> None:
        seen.append(lease_var.get())
        seen.append(await trio.to_thread.run_sync(lease_var.get))

    right = Right()
    async with trio.open_nursery() as nursery:
        token = lease_var.set(right)
        nursery.start_soon(look)
        lease_var.reset(token)
        nursery.start_soon(look)
    assert sorted(map(str, seen)) == sorted(map(str, [right, right, None, None]))
