"""The normal form in which Erlang's outcomes and ours are compared, and the table of our cases.

Values: strings, numbers, None (Erlang's ``undefined``), tuples, lists and dicts are themselves; a
pid is the role that the case gave it (`role`), else "pid"; a ref is "ref"; a function is "fun"; the
name of this node is "here". Notices take Erlang's shapes: ``("DOWN", "ref", "process", pid,
reason)``, ``("EXIT", pid, reason)``, ``("nodedown", node)``.
Outcomes: None where Erlang's function always gives ``true`` or ``ok`` (`done`); exceptions of calls
are Erlang's exits in the caller (`caught`).

A case is a coroutine function with the name of its twin in erlang/*.erl, registered by `case`, or
by `differs` where we chose otherwise: then both outcomes are asserted, and `row` names the line of
daemon/docs/OTP.md that says why.
"""

from __future__ import annotations

import ast
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import trio.testing

from drupelet import Down, Exit, NodeDown, NodeUp, Pid, Ref, process
from drupelet.errors import (
    CallError,
    DrupeletError,
    NoConnection,
    ProcessDown,
    ProcessExit,
    RemoteError,
    Timeout,
)

Body = Callable[[], Awaitable[object]]
Marked = TypeVar("Marked", bound=Callable[..., Any])

SAME = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One case of ours. `ours` is SAME, or what ours gives where Erlang gives `otp`."""

    name: str
    body: Body
    otp: object = SAME
    ours: object = SAME
    row: str = ""


CASES: dict[str, dict[str, Case]] = {}  # by group, by name


def _add(body: Body, **fields: Any) -> Body:
    group = CASES.setdefault(body.__module__.rsplit(".", 1)[-1], {})
    name = body.__name__
    assert not any(name in cases for cases in CASES.values()), f"two cases are called {name}"
    group[name] = Case(name=name, body=body, **fields)
    return body


def case(body: Body) -> Body:
    """A case with the same outcome in both worlds."""
    return _add(body)


def differs(row: str, *, otp: object, ours: object) -> Callable[[Body], Body]:
    """A case with different outcomes; `row` is the key of the difference in daemon/docs/OTP.md."""
    assert otp != ours
    return lambda body: _add(body, row=row, otp=otp, ours=ours)


def in_real_time(body: Marked) -> Marked:
    """For a case that waits for a thread: the clock that jumps does not know of threads."""
    _real_time.add(body)
    return body


_real_time: set[Callable[..., Any]] = set()


# -- the normal form

_roles: dict[Pid, str] = {}
_nodes: dict[str, str] = {}


def role(pid: Pid, name: str) -> Pid:
    """Call this pid so in outcomes."""
    _roles[pid] = name
    return pid


def forget_roles(nodes: Mapping[str, str] | None = None) -> None:
    """Before each case. `nodes`: what nodes are called in outcomes."""
    _roles.clear()
    _nodes.clear()
    _nodes.update(nodes or {})


def normal(value: object) -> object:
    """`value` in the normal form."""
    match value:
        case Down(_, pid, reason):
            return ("DOWN", "ref", "process", normal(pid), normal(reason))
        case Exit(pid, reason):
            return ("EXIT", normal(pid), normal(reason))
        case NodeDown(node):
            return ("nodedown", normal(node))
        case NodeUp(node):
            return ("nodeup", normal(node))
        case Pid():
            return _roles.get(value, "pid")
        case Ref():
            return "ref"
        case str():
            return _nodes.get(value, value)
        case tuple():
            return tuple(normal(each) for each in value)
        case list():
            return [normal(each) for each in value]
        case dict():
            return {normal(key): normal(each) for key, each in value.items()}
        case int() | float() | None:
            return value
    return "fun" if callable(value) else repr(value)


def parse(lines: list[str]) -> dict[str, object]:
    """What Erlang printed: ``name => literal`` a line."""
    outcomes = {}
    for line in lines:
        name, arrow, literal = line.partition(" => ")
        assert arrow, f"Erlang printed {line!r}"
        assert name not in outcomes, f"two cases of Erlang are called {name}"
        outcomes[name] = ast.literal_eval(literal)
    return outcomes


# -- running ours


def run_case(body: Body) -> object:
    """A case alone, as the first process of its own runtime; its outcome in the normal form.

    The clock jumps when all wait: a busy machine changes no outcome, and nothing is slept.
    """

    async def main() -> object:
        forget_roles({process.node(): "here"})
        role(process.self(), "self")
        return normal(await body())

    clock = None if body in _real_time else trio.testing.MockClock(autojump_threshold=0)
    return process.run(main, clock=clock)


# -- outcomes


def done(value: object) -> bool:
    """For what always gives ``true`` or ``ok`` in Erlang and None here."""
    assert value is None, value
    return True


async def caught(awaitable: Awaitable[object]) -> object:
    """What an expression gives, or what it raises, as Erlang's `caught/1` has it."""
    try:
        return await awaitable
    except (CallError, ProcessExit) as error:
        return ("exit", exit_of(error))


def exit_of(error: DrupeletError) -> object:
    """The exit reason that Erlang has for the failure of a call (its place left out)."""
    match error:
        case ProcessExit(reason=reason):
            return reason
        case ProcessDown(reason=reason):
            return (reason, "in_call")
        case Timeout():
            return ("timeout", "in_call")
        case NoConnection():
            return ("nodedown", "in_call")
        case RemoteError(kind=kind):
            return ("raised", kind)
    raise error


async def raised(awaitable: Awaitable[object]) -> object:
    """The class of what an expression raises."""
    try:
        return ("gave", await awaitable)
    except Exception as error:
        return ("raised", type(error).__name__)
