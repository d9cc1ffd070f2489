"""Notices: the messages that the system itself puts into a mailbox.

Decides their shape, and which fields they have as data: they are data like any other message (codec
tag 92 round ``[index, field...]``), so they can be sent on to another process. They match by class:

    match await receive():
        case Down(ref=ref, pid=pid, reason=reason): ...
        case Exit(pid=pid, reason=reason): ...
        case NodeDown(node=node): ...

References: Erlang's ``{'DOWN', Ref, process, Pid, Reason}``, ``{'EXIT', Pid, Reason}``,
``{nodeup, Node}`` and ``{nodedown, Node}``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from drupelet.wire.ids import Pid, ProxyPid, Ref


@dataclass(frozen=True, slots=True, kw_only=False)
class Down:
    """A monitored process ended. `pid` is ``(name, node)`` where a name was monitored.

    `reason`: "normal", "shutdown", "killed", "noproc" (it was not there), "noconnection" (its node
    is out of sight), ``(class name, message)`` of the exception that ended it, or what it gave.
    """

    ref: Ref
    pid: Pid | ProxyPid | tuple[str, str]
    reason: object


@dataclass(frozen=True, slots=True)
class Exit:
    """A linked process ended, or somebody called ``exit(pid, reason)``; for who traps exits."""

    pid: Pid
    reason: object


@dataclass(frozen=True, slots=True)
class NodeUp:
    """A node was connected (`monitor_nodes`)."""

    node: str


@dataclass(frozen=True, slots=True)
class NodeDown:
    """A node is out of sight (`monitor_node`, `monitor_nodes`)."""

    node: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """What a process gets when another one asks it (`ask`, `GenServer.call`).

    `caller` is ``(pid, ref)``: plain data, so that another process can answer: `reply(caller, v)`.
    """

    caller: tuple[Pid, Ref]
    request: object


Notice: TypeAlias = Down | Exit | NodeUp | NodeDown | Request

# By index on the wire.
CLASSES: Final[tuple[type[Notice], ...]] = (Down, Exit, NodeUp, NodeDown, Request)


def notice_fields(notice: Notice) -> list[object]:
    """``[index, field...]``. Raises: `ValueError` for a field of another type than it must have."""
    match notice:
        case Down(Ref() as ref, (Pid() | ProxyPid()) as pid, reason):
            return [0, ref, pid, reason]
        case Down(Ref() as ref, (str(name), str(node)) as pid, reason) if type(pid) is tuple:
            return [0, ref, (name, node), reason]
        case Exit(Pid() as pid, reason):
            return [1, pid, reason]
        case NodeUp(str(node)):
            return [2, node]
        case NodeDown(str(node), str(reason)):
            return [3, node, reason]
        case Request((Pid(), Ref()) as caller, request) if type(caller) is tuple:
            return [4, caller, request]
    raise ValueError(f"a {type(notice).__name__} with a field of another type than it must have")


def notice_from_fields(fields: Sequence[object]) -> Notice:
    """The reverse of `notice_fields`. Raises: `ValueError`."""
    match fields:
        case [int(index), *rest] if type(index) is int and 0 <= index < len(CLASSES):
            if len(rest) == len(CLASSES[index].__match_args__):
                notice = CLASSES[index](*rest)  # type: ignore[arg-type]
                notice_fields(notice)
                return notice
    raise ValueError("not the fields of a notice")
