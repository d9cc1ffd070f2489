"""A runtime without a transport: what is elsewhere is out of sight, and that is told."""

from __future__ import annotations

from drupelet.process import (
    Down,
    Exit,
    Pid,
    flush,
    link,
    monitor,
    node,
    receive,
    run,
    send,
    trap_exit,
    unlink,
)

ELSEWHERE = Pid("bob", 7, 42)


def test_a_monitor_of_what_is_not_there_is_answered() -> None:
    async def main() -> list[object]:
        for target in ("nobody", ("nobody", "bob"), ELSEWHERE):
            ref = monitor(target)
            message = await receive(Down, timeout=1)
            assert message.ref == ref
            told.append((message.pid, message.reason))
        return await flush()

    told: list[object] = []
    assert run(main) == []
    assert told == [
        (("nobody", "nonode@nohost"), "noproc"),
        (("nobody", "bob"), "noconnection"),
        (ELSEWHERE, "noconnection"),
    ]


def test_a_link_to_what_is_elsewhere_is_answered() -> None:
    async def main() -> object:
        assert node() == "nonode@nohost"
        trap_exit(True)
        link(ELSEWHERE)
        message = await receive(timeout=1)
        unlink(ELSEWHERE)  # it is no link any more
        await send(ELSEWHERE, "hello")
        return message, await flush()

    assert run(main) == (Exit(ELSEWHERE, "noconnection"), [])
