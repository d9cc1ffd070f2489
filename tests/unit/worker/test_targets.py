from __future__ import annotations

import socket
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from uuid import UUID

import pytest

from drupelet.wire.ids import Pid
from drupelet.worker.targets import IN_THREAD, INLINE, TASK, Target, signature_problems


def plain(a: int, b: str = "x") -> bool:
    return True


async def waits() -> None: ...


def test_how_a_target_runs() -> None:
    assert Target("f", plain).how == INLINE
    assert Target("f", plain, where="thread").how == IN_THREAD
    assert Target("f", waits, where="thread").how == TASK


def test_arity_and_what_is_shown() -> None:
    target = Target("boil", plain)
    assert (target.arity_min, target.arity_max) == (1, 2)
    assert target.shown == "boil(a: int, b: str = 'x') -> bool"
    assert len(Target("n" * 120, plain).shown) == 100


class Unshown:
    def __repr__(self) -> str:
        raise ValueError


def default(a: object = Unshown()) -> None: ...


def test_a_default_that_cannot_be_shown() -> None:
    assert Target("f", default).shown == "f(a: object = ...) -> None"


class Kettle(typing.TypedDict):
    litres: float


Name = typing.NewType("Name", str)
T = typing.TypeVar("T")


def good(
    a: int | None,
    b: list[tuple[int, ...]],
    c: Mapping[str, Sequence[bytes]],
    d: typing.Any,
    e: datetime,
    f: UUID,
    g: Kettle,
    h: Name,
    i: typing.Literal["x", 3],
    j: typing.Annotated[int, "metres"],
    k: Pid,
    l: dict[str, object] | str,  # noqa: E741
    m: typing.Optional[float],  # noqa: UP045
    n=None,  # type: ignore[no-untyped-def]
) -> typing.Never: ...


def test_types_that_are_data() -> None:
    assert list(signature_problems("good", good)) == []


def bad(
    a: Callable[[], int],
    b: socket.socket,
    c: list[Unshown],
    d: 3,  # type: ignore[valid-type]
    e: NoSuchType,  # type: ignore[name-defined]  # noqa: F821
    f: [],  # type: ignore[valid-type]
    *rest: int,
    only: int,
    **more: int,
) -> Iterator[int]: ...


def test_every_problem_is_told_at_once() -> None:
    problems = list(signature_problems("bad", bad))
    assert len(problems) == 10
    for word in ("*rest", "**more", "only by keyword", "NoSuchType", "3 is not a type", "socket"):
        assert any(word in problem for problem in problems), word


def counts() -> Iterator[int]:
    yield 1


async def counts_later():  # type: ignore[no-untyped-def]
    yield 1


@pytest.mark.parametrize("function", [counts, counts_later])
def test_generators_are_refused(function: Callable[..., object]) -> None:
    assert "generator" in next(signature_problems("f", function))


def test_a_function_without_a_signature() -> None:
    assert "no signature" in next(signature_problems("f", max))
