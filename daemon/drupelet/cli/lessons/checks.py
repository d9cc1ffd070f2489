"""What a check is, and the words in which it fails: expected, seen, a hint.

Decides how strict a check is: `prints` wants its lines in their order and lets others stand between
them, so that a learner may print more; every other check talks to what the program defines.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from drupelet.cli.lessons.program import Loaded
from drupelet.process import ReceiveTimeout, receive

if TYPE_CHECKING:
    from drupelet.cli.lessons.stage import Stage

ANSWER_S: Final = 2.0  # for an answer to a check's message; real nodes need some ms
_SHOWN_CHARS_MAX: Final = 400


class Wrong(Exception):
    """A check found something else than it expected; both in words."""

    def __init__(self, expected: str, seen: str) -> None:
        super().__init__(f"expected {expected}, saw {seen}")
        self.expected = expected
        self.seen = _short(seen)


@dataclass(frozen=True, slots=True)
class Run:
    """What a check looks at: the program, what it printed, the stage it ran on."""

    program: Loaded
    printed: tuple[str, ...]
    stage: Stage

    @property
    def here(self) -> str:
        """The node where `main` ran."""
        return self.stage.names[0]

    @property
    def there(self) -> str:
        """Another node: the first of ``nodes()``."""
        return self.stage.names[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that must hold. `test` raises `Wrong`; `hint`: where to look when it does."""

    what: str
    test: Callable[[Run], Awaitable[None]]
    hint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What came of a check; the other texts are empty when it is `ok`."""

    what: str
    ok: bool
    expected: str = ""
    seen: str = ""
    hint: str = ""


def prints(*lines: str, what: str = "", hint: str) -> Check:
    """The program prints these lines, in this order.

    In a line ``...`` is anything, ``{here}``, ``{there}`` and ``{third}`` are the nodes.
    """

    async def test(run: Run) -> None:
        names = dict(zip(("here", "there", "third"), run.stage.names, strict=False))
        rest = list(run.printed)
        for line in lines:
            wanted = line.format(**names)
            pattern = re.compile(re.escape(wanted).replace(re.escape("..."), ".*"))
            while rest and not pattern.fullmatch(rest[0]):
                rest.pop(0)
            if not rest:
                seen = " | ".join(run.printed)
                raise Wrong(f"the line: {wanted}", f"the lines: {seen}" if seen else "no line")
            rest.pop(0)

    return Check(what=what or f"it prints: {lines[-1]}", test=test, hint=hint)


def equal(question: str, expected: object, seen: object) -> None:
    """Raises: `Wrong`. `question`: what was done to see it."""
    if seen != expected:
        raise Wrong(f"{expected!r} {question}", repr(seen))


async def answer(question: str, pattern: object = None, *, timeout: float = ANSWER_S) -> Any:
    """The next message that fits. Raises: `Wrong` when none comes."""
    try:
        return await receive(pattern, timeout=timeout)
    except ReceiveTimeout:
        raise Wrong(f"{_wanted(pattern)} {question}", f"nothing within {timeout:g} s") from None


def _wanted(pattern: object) -> str:
    if isinstance(pattern, type):
        return f"a {pattern.__name__}"
    return "a message" if pattern is None or callable(pattern) else f"the message {pattern!r}"


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARS_MAX else f"{text[: _SHOWN_CHARS_MAX - 1]}…"


__all__ = ["Check", "Run", "Verdict", "Wrong", "answer", "equal", "prints"]
