"""Waiters: every end of an admitted call is counted once; the last of many wakes its task."""

from __future__ import annotations

from typing import Any, cast

import pytest
import trio
import trio.testing

from drupelet.errors import NoConnection, RemoteError, Timeout
from drupelet.services import waiters
from drupelet.services.waiters import Admitted, Gather


class Origin:
    """An endpoint that writes down what it would answer."""

    def __init__(self) -> None:
        self.closed = False
        self.answers: list[object] = []

    def reply(self, ident: int, body: bytes) -> None:
        self.answers.append((ident, body))

    def reply_error(self, ident: int, error: Exception) -> None:
        self.answers.append((ident, error))


def admitted() -> tuple[Origin, Admitted, list[str]]:
    origin, ended = Origin(), list[str]()
    return origin, Admitted(cast(Any, origin), 7, ended.append), ended


def test_an_answer_goes_to_the_stranger_and_ends_it() -> None:
    origin, waiter, ended = admitted()
    waiter.answer(b"\0value")
    assert origin.answers == [(7, b"value")]
    waiter.end()
    assert ended == ["ok"]


def test_a_stranger_that_cancels() -> None:
    origin, waiter, ended = admitted()
    waiter.end()
    assert (origin.answers, ended) == ([], ["cancelled"])


def test_a_failure_too() -> None:
    origin, waiter, ended = admitted()
    error = Timeout(maybe_ran=True)
    waiter.answer(error)
    assert (origin.answers, ended) == ([(7, error)], ["Timeout"])


def raised(line: int) -> RemoteError:
    place = f'  File "/home/alice/light.py", line {line}, in temp\n    key = 7'
    return RemoteError("ValueError", "no", f"Traceback:\n{place}\nValueError: no")


def test_a_traceback_goes_to_the_log_once_and_to_no_stranger(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiters, "_told", set())
    caplog.set_level("INFO", "drupelet.grants")
    origin, _, ended = admitted()
    for line in (5, 5, *range(waiters.PLACES_MAX + 1)):
        Admitted(cast(Any, origin), 7, ended.append).answer(raised(line))
    for _, error in cast(Any, origin.answers):
        assert (error.kind, error.message, error.traceback_text) == ("ValueError", "no", "")
    assert set(ended) == {"RemoteError:ValueError"}
    assert "line 5, in temp" in caplog.messages[0]
    assert len(caplog.messages) == waiters.PLACES_MAX  # and no more, however many there are


def test_one_whose_stranger_is_gone_is_counted_all_the_same() -> None:
    origin, waiter, ended = admitted()
    origin.closed = True
    waiter.answer(NoConnection("closed"))
    assert (origin.answers, ended) == ([], ["NoConnection"])


async def test_the_last_answer_wakes_the_task() -> None:
    gathers: list[Gather] = []

    async def wait() -> None:
        gathers.append(Gather(trio.lowlevel.current_task(), 2))
        await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.SUCCEEDED)

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            (gather,) = gathers
            error = Timeout(maybe_ran=False)
            gather.answer(2, b"two")
            gather.answer(4, error)
    assert gather.bodies == {2: b"two", 4: error}


def test_its_value_is_converted_at_the_border_or_refused_there() -> None:
    origin, ended = Origin(), list[str]()

    def convert(body: bytes) -> bytes:
        if body == b"pid":
            raise RemoteError("NotSendable", "a Down cannot go to a stranger")
        return body.upper()

    Admitted(cast(Any, origin), 7, ended.append, convert).answer(b"\0value")
    Admitted(cast(Any, origin), 8, ended.append, convert).answer(b"\0pid")
    Admitted(cast(Any, origin), 9, ended.append, convert).answer(Timeout(maybe_ran=True))
    assert origin.answers[0] == (7, b"VALUE")
    assert ended == ["ok", "RemoteError:NotSendable", "Timeout"]


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("[Errno 2] No such file or directory: '/home/alice/secret.txt'",
         "[Errno 2] No such file or directory: '(a file)'"),
        ("cannot read /etc/shadow, nor /root", "cannot read (a file), nor (a file)"),
        ("1/2 of it, km/h, and/or; https://x.org/a/b", None),
    ],
)  # fmt: skip
def test_what_a_function_raised_by_mistake_names_no_file(message: str, told: str | None) -> None:
    origin, waiter, _ = admitted()
    waiter.answer(RemoteError("FileNotFoundError", message, 'File "/home/alice/light.py", line 3'))
    ((_, error),) = cast(Any, origin.answers)
    assert (error.message, error.traceback_text) == (told or message, "")


def test_a_functions_own_words_are_its_own_and_the_workers_are_none() -> None:
    origin, _, _ = admitted()
    own = RemoteError("too_hot", "see /kitchen/manual")
    other = RemoteError("undef", "this worker has no light/on; did you mean light/secret?")
    for error in (own, other):
        Admitted(cast(Any, origin), 7, list[str]().append).answer(error)
    told = [error.message for _, error in cast(Any, origin.answers)]
    assert told == ["see /kitchen/manual", "it is not there any more"]


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("file_wont_compile", "mission_refused"), ("invalid_export", "mission_refused"),
        ("mission_refused", "mission_refused"), ("undef", "mission_refused"),
        ("mission_crashed", "mission_backoff"), ("mission_stuck", "mission_backoff"),
        ("mission_backoff", "mission_backoff"), ("badarg", "badarg"),
    ],
)  # fmt: skip
def test_why_a_mission_does_not_run(kind: str, told: str) -> None:
    error = waiters.without_files(RemoteError(kind, "/home/alice/light.py:3: bad"), "light")
    assert error.kind == told
    assert ("/home" in error.message) == (kind == "badarg")
