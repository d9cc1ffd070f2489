"""What callers are told of failures in a worker."""

from __future__ import annotations

import pytest

from drupelet.errors import NotSendable, RemoteError
from drupelet.worker import failures
from drupelet.worker.targets import Target


class Mute(Exception):
    def __str__(self) -> str:
        raise ValueError


def raised(error: Exception) -> Exception:
    with pytest.raises(type(error)) as caught:
        raise error
    return caught.value


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (ValueError("bad"), "ValueError", "bad"),
        (RemoteError("too_hot", "wait"), "too_hot", "wait"),
        (NotSendable("a lambda"), "not_sendable", "the value: a lambda"),
        (MemoryError(), "MemoryError", failures.NO_MEMORY),
        (Mute(), "Mute", "(the exception has no text)"),
        (ValueError("x" * 3_000), "ValueError", "x" * failures.MESSAGE_CHARS_MAX),
    ],
)
def test_an_exception_is_an_answer(error: Exception, kind: str, message: str) -> None:
    told = failures.as_call_error(raised(error))
    assert isinstance(told, RemoteError)
    assert (told.kind, told.message) == (kind, message)
    assert ("test_failures.py" in told.traceback_text) == (kind in ("ValueError", "Mute"))


def test_arguments() -> None:
    target = Target("add", lambda a, b: a + b)
    told = failures.bad_arguments(target, failures.describe_count([1]))
    assert (told.kind, told.message) == ("badarg", f"{target.shown}: 1 argument given")
    assert failures.describe_count(1) == "the arguments are not one array"
    assert failures.overloaded().kind == "overloaded"
