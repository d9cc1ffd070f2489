"""`run`: the first process's value or exception is the program's."""

from __future__ import annotations

import traceback

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


def test_a_traceback_has_the_frames_of_the_author() -> None:
    async def main() -> None:
        await send(5, "hello")  # type: ignore[arg-type]

    with pytest.raises(TypeError, match="a process is a Pid") as caught:
        run(main)
    names = [each.name for each in traceback.extract_tb(caught.value.__traceback__)]
    assert names == ["test_a_traceback_has_the_frames_of_the_author", "run", "main"]


def test_what_is_no_first_process() -> None:
    async def main() -> None:
        pass

    with pytest.raises(TypeError, match=r"write run\(main\) and not run\(main\(\)\)"):
        run(main())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="run takes an async function, not 5"):
        run(5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="write `async def plain`") as caught:
        run(plain)
    names = [each.name for each in traceback.extract_tb(caught.value.__traceback__)]
    assert names == ["test_what_is_no_first_process", "run"]


def plain() -> None:
    """No process: it waits for nothing."""
