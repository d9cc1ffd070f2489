"""Processes that are older than their program's share in a node: what others call them.

Decides how a program becomes part of a node while it runs (`net_kernel.start`) without its
processes becoming others: here each keeps the pid that it has, so that links, monitors, supervisors
and variables stay right; on the wire it has a pid of the node. Signals are rewritten on their way,
headers and bodies.

Rule: costs nothing where there is no such process: in workers, in a shell, in what starts later.

References: Erlang, where a local pid gets its node's name when it leaves.
Rejected: giving processes new pids (what holds the old one would have to be found, also in the
variables of programs).
"""

from __future__ import annotations

from collections.abc import Iterable

from drupelet.errors import NotSendable, RemoteProtocolError
from drupelet.wire.codec import dumps, loads
from drupelet.wire.ids import Pid, make_pid
from drupelet.wire.messages.processes import COUNT_MASK, Signal, decode_signal, encode_signal
from drupelet.wire.notices import CLASSES

Names = dict[Pid, Pid]


class Outside:
    """What the processes `pids` are called outside of a runtime that is `runtime` now."""

    def __init__(self, pids: Iterable[Pid], runtime: Pid) -> None:
        node, incarnation, base = runtime.node, runtime.incarnation, runtime.number
        self._out: Names = {
            pid: make_pid(node, incarnation, base | pid.number & COUNT_MASK) for pid in pids
        }
        self._in: Names = {there: here for here, there in self._out.items()}

    def __contains__(self, pid: Pid) -> bool:
        return pid in self._out

    def outward(self, data: bytes) -> bytes:
        """A signal that leaves."""
        signal, _ = decode_signal(data)
        sender = signal.sender
        return encode_signal(
            signal.kind,
            make_pid(signal.to_node, signal.to_incarnation, signal.to_number),
            self._out.get(sender, sender),
            signal.ref,
            _body(signal.body, self._out),
            name=signal.to_name,
        )

    def inward(self, signal: Signal) -> Signal:
        """A signal that came."""
        to = make_pid(signal.to_node, signal.to_incarnation, signal.to_number)
        here = self._in.get(to, to)
        return signal._replace(
            to_node=here.node,
            to_incarnation=here.incarnation,
            to_number=here.number,
            body=_body(signal.body, self._in),
        )


def _body(body: bytes, names: Names) -> bytes:
    if not body:
        return body
    try:
        return dumps(_renamed(loads(body), names))
    except (RemoteProtocolError, NotSendable):  # no value, or full to the last byte
        return body


def _renamed(value: object, names: Names) -> object:
    if isinstance(value, Pid):
        return names.get(value, value)
    if isinstance(value, list):
        return [_renamed(each, names) for each in value]
    if isinstance(value, tuple):
        return tuple(_renamed(each, names) for each in value)
    if isinstance(value, dict):
        return {key: _renamed(each, names) for key, each in value.items()}
    if isinstance(value, CLASSES):
        fields = (getattr(value, name) for name in type(value).__slots__)
        return type(value)(*[_renamed(each, names) for each in fields])  # type: ignore[arg-type]
    return value


__all__ = ["Outside"]
