"""Signals between processes: what travels when a process sends, links, monitors, spawns or ends.

Decides the bytes of one signal. Signals follow each other in the body of a CAST to
``process/signals`` between a runtime (a worker or a client, which runs processes) and its daemon,
and on a line between two daemons (`core/lines.py`). A daemon reads the header and forwards the
body unopened.

    signal = length:u32 kind:u8 to_node_length:u8 to_name_length:u8 from_node_length:u8
             to_incarnation:u64 to_number:u64 from_incarnation:u64 from_number:u64 ref:u64
             to_node to_name from_node body          length counts what follows it; big endian

Addresses
- A pid's number is ``serial << 40 | count``. `serial` names the runtime: 1, 2, ... in the order in
  which runtimes attached to their daemon since it started, never reused; `count` the process.
- ``count`` 0 is the runtime itself; number 0 is the daemon.
- With a `to_name` the receiver is a registered name (or, for SPAWN, a module) on `to_node`, and
  `to_incarnation` and `to_number` are 0. A name of a zero byte and 32 hexadecimal digits is a proxy
  pid, which `to_node`, the sender's own daemon, holds: SEND, MONITOR and DEMONITOR only.
- `ref` is the number of a Ref. It was made by the node of `from` in LINK, MONITOR, DEMONITOR, ASK
  and SPAWN, and by the node of `to` in UNLINK, DOWN, REPLY and SPAWNED; 0 elsewhere. That of an
  UNLINK is of the last LINK that `from` got and 0 for none: a later one has crossed it and holds.

| kind      | body                               | meaning                                         |
|-----------|------------------------------------|-------------------------------------------------|
| SEND      | message                            | a message                                       |
| LINK      |                                    | `from` has linked itself to `to`                |
| UNLINK    |                                    | and no more                                     |
| EXIT      | reason                             | `from` ended, and was linked to `to`            |
| EXIT_SENT | reason                             | `from` called ``exit(to, reason)``              |
| MONITOR   |                                    | `from` wants DOWN when `to` ends                |
| DEMONITOR |                                    | and no more                                     |
| DOWN      | reason                             | `from` ended (or was not there: ``noproc``)     |
| ASK       | request                            | MONITOR, and a request that REPLY answers       |
| REPLY     | value                              | the answer; ends the monitor too                |
| SPAWN     | [function, args, digest, options]  | start a process; `to_name` is its module        |
| SPAWNED   | null or error fields               | `from` is the new process                       |
| PAUSE     | [[name, node], ...] or empty       | to a runtime: `from` takes no more, hold back   |
| RESUME    |                                    | to a runtime: `from` takes more                 |
| TRACE     | bool                               | `from` wants a copy of every message of `to`    |
| UP        | name of what runs there            | runtime or (number 0) node `from` is there      |
| GONE      | [reason, [name, ...]]              | runtime or (number 0) node `from` is gone       |
| GROUP     | see process/groups.py              | process groups, from runtime to runtime         |

To ``number 0`` (a daemon) goes ASK with ``["register", name, pid]``, ``["unregister", name]``,
``["whereis", name]`` or ``["registered"]``; it answers null or ``["error", text]``; null; a pid or
null; a list of ``[name, pid]``. With ref 0 nobody waits for an answer. To a runtime goes ASK with
``["processes"]``. The body of GONE is ``[reason, [name, ...]]``: the names that went with it, so
that those who watch by name are told; a runtime answers the GONE of a node with an empty one. The
body of PAUSE is the ``[name, node]`` pairs of `from`.

References: Erlang/OTP, "Distribution Protocol", control messages; the ASK is OTP's monitor with an
alias (`erlang:monitor/3`), in one message because every `GenServer.call` needs both.
Rejected: CBOR headers (2 us more per hop); a stream per pair of processes (memory).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from drupelet.errors import RemoteProtocolError
from drupelet.wire.ids import Pid, ProxyPid, check_node, make_pid
from drupelet.wire.limits import BODY_BYTES_MAX

SEND: Final = 1
LINK: Final = 2
UNLINK: Final = 3
EXIT: Final = 4
EXIT_SENT: Final = 5
MONITOR: Final = 6
DEMONITOR: Final = 7
DOWN: Final = 8
ASK: Final = 9
REPLY: Final = 10
SPAWN: Final = 11
SPAWNED: Final = 12
PAUSE: Final = 13
RESUME: Final = 14
TRACE: Final = 15
UP: Final = 16
GONE: Final = 17
GROUP: Final = 18
KIND_MAX: Final = 18

SERIAL_SHIFT: Final = 40  # 10**12 processes per runtime: 2 years at 20,000 a second
SERIAL_MAX: Final = (1 << 23) - 1  # a pid's number stays below 2**63
COUNT_MASK: Final = (1 << SERIAL_SHIFT) - 1

HEADER: Final = struct.Struct(">IBBBBQQQQQ")
HEADER_BYTES: Final = HEADER.size
_LENGTH_BYTES: Final = 4
KIND_PLACE: Final = 4  # of a signal's kind in its bytes
SIGNAL_BYTES_MAX: Final = HEADER_BYTES + 3 * 255 + BODY_BYTES_MAX

PROXY_MARK: Final = "\0"  # no process can be registered under such a name

NOPROC: Final = "noproc"
NOCONNECTION: Final = "noconnection"

_unpack = HEADER.unpack_from
_unpack_length = struct.Struct(">I").unpack_from
_pack = HEADER.pack


class Signal(NamedTuple):
    """One signal, its header decoded. A NamedTuple: the hot path (adr/0003)."""

    kind: int
    to_node: str
    to_name: str
    to_incarnation: int
    to_number: int
    from_node: str
    from_incarnation: int
    from_number: int
    ref: int
    body: bytes

    @property
    def sender(self) -> Pid:
        """`from` as a Pid. Raises: `RemoteProtocolError` where that is no node's name."""
        return _pid(self.from_node, self.from_incarnation, self.from_number)

    @property
    def receiver(self) -> Pid:
        """`to` as a Pid. Raises: `RemoteProtocolError` where that is no node's name."""
        return _pid(self.to_node, self.to_incarnation, self.to_number)


def _pid(node: str, incarnation: int, number: int) -> Pid:
    """Of numbers that `decode_signal` looked at."""
    try:
        check_node(node)
    except ValueError as error:
        raise RemoteProtocolError(f"address in a signal: {error}") from None
    return make_pid(node, incarnation, number)


def encode_signal(
    kind: int, to: Pid, sender: Pid, ref: int = 0, body: bytes = b"", *, name: str = ""
) -> bytes:
    """One signal as bytes. With `name`, only the node of `to` counts."""
    to_node = to.node.encode()
    to_name = name.encode()
    from_node = sender.node.encode()
    length = HEADER_BYTES - _LENGTH_BYTES + len(to_node) + len(to_name) + len(from_node) + len(body)
    header = _pack(
        length,
        kind,
        len(to_node),
        len(to_name),
        len(from_node),
        0 if name else to.incarnation,
        0 if name else to.number,
        sender.incarnation,
        sender.number,
        ref,
    )
    return b"".join((header, to_node, to_name, from_node, body))


def proxy_name(proxy: ProxyPid) -> str:
    """The `to_name` of a proxy pid."""
    return PROXY_MARK + proxy.secret.hex()


def proxy_secret(name: str) -> bytes:
    """The reverse, of a `to_name` that begins with PROXY_MARK; what is none is nobody's."""
    try:
        return bytes.fromhex(name[1:])
    except ValueError:
        return b""


def split_signals(data: bytes) -> Iterator[tuple[Signal, bytes]]:
    """Every signal in `data` with its own bytes. Raises: `RemoteProtocolError` unless they fill it.

    Signals before a malformed one are yielded.
    """
    position = 0
    end = len(data)
    while position < end:
        signal, following = decode_signal(data, position)
        yield signal, data[position:following]
        position = following


class SignalCutter:
    """Byte machine: a stream of signals, cut anywhere, in; whole signals out, still joined.

    Keeps at most one unfinished signal, of SIGNAL_BYTES_MAX bytes.
    """

    __slots__ = ("_missing", "_rest")

    def __init__(self) -> None:
        self._rest = bytearray()
        self._missing = 0  # bytes before which a look at the rest tells nothing new

    def receive_data(self, data: bytes) -> bytes:
        """Take bytes as they came; return those that are whole signals now, maybe none.

        Raises: `RemoteProtocolError`; the stream is then of no more use.
        """
        if self._rest:
            self._rest += data
            if len(self._rest) < self._missing:
                return b""
            data = bytes(self._rest)
            self._rest.clear()
        position = 0
        end = len(data)
        self._missing = 0
        while end - position >= _LENGTH_BYTES:
            (length,) = _unpack_length(data, position)
            if not HEADER_BYTES <= length + _LENGTH_BYTES <= SIGNAL_BYTES_MAX:
                raise RemoteProtocolError("length of a signal out of range")
            following: int = position + _LENGTH_BYTES + length
            if following > end:
                self._missing = following - position
                break
            position = following
        if position == end:
            return data
        self._rest += memoryview(data)[position:]
        return data[:position]


def decode_signal(data: bytes, position: int = 0) -> tuple[Signal, int]:
    """The signal at `position`, and where it ends. Raises: `RemoteProtocolError`."""
    if len(data) - position < HEADER_BYTES:
        raise RemoteProtocolError("signal header cut off")
    (
        length,
        kind,
        to_node_length,
        to_name_length,
        from_node_length,
        to_incarnation,
        to_number,
        from_incarnation,
        from_number,
        ref,
    ) = _unpack(data, position)
    following = position + _LENGTH_BYTES + length
    to_name_start = position + HEADER_BYTES + to_node_length
    from_node_start = to_name_start + to_name_length
    body_start = from_node_start + from_node_length
    if following > len(data) or body_start > following or not 0 < kind <= KIND_MAX:
        raise RemoteProtocolError("malformed signal")
    if (to_number | to_incarnation | from_number | from_incarnation | ref) >> 63:
        raise RemoteProtocolError("number of a signal out of range")
    try:
        return (
            Signal(
                kind,
                data[position + HEADER_BYTES : to_name_start].decode(),
                data[to_name_start:from_node_start].decode(),
                to_incarnation,
                to_number,
                data[from_node_start:body_start].decode(),
                from_incarnation,
                from_number,
                ref,
                data[body_start:following],
            ),
            following,
        )
    except UnicodeDecodeError:
        raise RemoteProtocolError("name in a signal is not UTF-8") from None
