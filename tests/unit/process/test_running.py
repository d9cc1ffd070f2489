"""`run`: the first process's value or exception is the program's."""

from __future__ import annotations

import pytest

from drupelet.process import exit, run, self, send, spawn


def test_the_value_of_the_first_process() -> None:
    async def main(number: int) -> int:
        return number + 1

    assert run(main, 41) == 42


def test_the_exception_of_the_first_process_comes_as_it_is() -> None:
    async def main() -> None:
        raise LookupError("not here")

    with pytest.raises(LookupError, match="not here"):  # and no group of it
        run(main)


def test_the_first_process_can_be_ended() -> None:
    async def main() -> None:
        me = self()
        await spawn(lambda: exit(me, "boom"))
        while True:
            await send(me, "again")

    with pytest.raises(RuntimeError, match="boom"):
        run(main)
