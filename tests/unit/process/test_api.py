"""The functions of the process model: what they say of processes that are not this program's."""

from __future__ import annotations

import pytest

from drupelet.errors import ProcessDown
from drupelet.process import (
    Pid,
    exit,
    is_process_alive,
    monitor,
    process_info,
    receive,
    self,
    spawn,
)
from tests.unit.process.values import alone


async def waits() -> None:
    await receive("never")


def test_of_its_own_processes_a_program_knows_who_lives() -> None:
    async def main() -> None:
        pid = await spawn(waits)
        assert is_process_alive(pid) and is_process_alive(self())
        assert process_info(pid)["pid"] == pid
        monitor(pid)
        exit(pid, "boom")
        assert not is_process_alive(pid)  # it still unwinds
        await receive()
        assert not is_process_alive(pid)
        with pytest.raises(ProcessDown):
            process_info(pid)

    alone(main)


@pytest.mark.parametrize("ask", [is_process_alive, process_info])
def test_of_others_it_does_not_guess(ask: object) -> None:
    async def main() -> None:
        mine = self()
        for pid in (Pid("elsewhere", 1, 1), Pid(mine.node, mine.incarnation + 1, mine.number)):
            with pytest.raises(ValueError, match="is a process of elsewhere"):
                ask(pid)  # type: ignore[operator]
        with pytest.raises(TypeError, match="takes a Pid"):
            ask("a name")  # type: ignore[operator]

    alone(main)
