"""The port mapper's decisions: which names it holds, for whom, and what it answers.

A decision machine: bytes that came on a connection go in, effects come out. The driver is
`drupelet.services.portmap_server`; the bytes are `drupelet.wire.epmd`.

Rules
- A name belongs to the connection that registered it and ends with it, at once. One connection
  holds at most one name; anything that it says afterwards ends it.
- A held name is refused to everybody else. Nobody is put out: not by KILL, not by STOP (adr/0004).
- Only a connection from this machine may register, dump, kill or stop; the last two are refused
  to it as well. Look-ups and NAMES are for whoever reaches the listener.
- At most MAPPER_PENDING_MAX connections may owe us a request, for MAPPER_REQUEST_S each. One more
  puts out the oldest: an honest asker's request comes with its connection, so a drip attack loses
  its own connections first.
- Creations count up from a random start, so that a restarted mapper does not hand a node its old
  one again; 1..3 for nodes that know two bits, 4 and above for the others, as epmd has it.

The table keeps each name's PORT2_RESP ready to send (a look-up is one dictionary access), and
nothing else; an entry is parsed back where it is shown.

Reference: Erlang/OTP erts/epmd/src/epmd_srv.c, for behaviour. Ideas rejected: an object per name
(three times the memory, nothing gained); refusing the newest when too many are pending (the first
256 drips would lock everyone out for 5 s).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, assert_never

from drupelet.errors import LocalProtocolError, RemoteProtocolError
from drupelet.wire import epmd, limits

OWN: Final = -1  # the connection number of the node that runs the mapper
_CREATION_FIRST: Final = 4
_CREATION_LIMIT: Final = 1 << 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Send `data` on the connection, then close it, unless `keep`: then watch it for its end."""

    connection: int
    data: bytes
    keep: bool = False


@dataclass(frozen=True, slots=True)
class Watch:
    """More must come on this connection: read it when there is something."""

    connection: int


@dataclass(frozen=True, slots=True)
class Drop:
    """Close the connection without a word."""

    connection: int


@dataclass(frozen=True, slots=True)
class NamesChanged:
    """`PortMap.names()` is not what it was."""


Effect = Answer | Watch | Drop | NamesChanged


@dataclass(frozen=True, slots=True, kw_only=True)
class PortMapStatistics:
    """Counters since the start; `names` and `pending` are of now."""

    names: int
    pending: int
    look_ups: int
    registrations: int
    refusals: int
    malformed: int
    timeouts: int
    put_out: int


class PortMap:
    """The table of names and the connections that owe a request.

    `mapper_port`: what NAMES says first. `creation`: 32 random bits. `names_max`: names of others
    held at once, for tests and for machines with few descriptors.
    """

    def __init__(
        self, *, mapper_port: int, creation: int, names_max: int = limits.MAPPER_NAMES_MAX
    ) -> None:
        self._mapper_port = mapper_port
        self._creation = creation
        self._names_max = names_max
        self._responses: dict[bytes, bytes] = {}  # name -> PORT2_RESP, in order of registration
        self._held: dict[int, bytes] = {}  # connection -> name
        self._pending: dict[int, tuple[bytes, float]] = {}  # connection -> bytes, deadline; by age
        self._names_response: bytes | None = None  # NAMES_RESP while nothing changes
        self._effects: list[Effect] = []
        self._look_ups = self._registrations = self._refusals = 0
        self._malformed = self._timeouts = self._put_out = 0

    # -- inputs

    def register_own(self, entry: epmd.MapperEntry) -> None:
        """Hold the name of the node that runs the mapper. Call it before anything else."""
        if self._responses or OWN in self._held:
            raise LocalProtocolError("the own name must be the first")
        self._hold(OWN, entry)

    def accepted(self, connection: int, now: float) -> None:
        """A connection is open and has said nothing yet."""
        self._await_more(connection, b"", now)

    def receive(self, connection: int, data: bytes, now: float, *, local: bool) -> None:
        """Bytes came; on a connection not seen before they are its first.

        `local`: the connection comes from this machine.
        """
        pending = self._pending.get(connection)
        if pending is not None:
            data = pending[0] + data
        elif connection in self._held:
            self._malformed += 1
            self._end(connection)
            return
        try:
            request = epmd.parse_request(data)
        except RemoteProtocolError:
            self._malformed += 1
            self._end(connection)
            return
        if request is None:
            self._await_more(connection, data, now)
            return
        if pending is not None:
            del self._pending[connection]
        self._answer(connection, request, local)

    def closed(self, connection: int) -> None:
        """The connection ended on the other side, or failed; its name goes with it."""
        self._pending.pop(connection, None)
        self._release(connection)

    def handle_timer(self, now: float) -> None:
        """Put out who owes a request for too long."""
        for connection, (_, deadline) in list(self._pending.items()):
            if now < deadline:
                break  # the others came later and have the same time
            self._timeouts += 1
            self._end(connection)

    # -- outputs

    def next_timer(self) -> float:
        """When `handle_timer` has something to do; `inf`: never."""
        for _, deadline in self._pending.values():
            return deadline
        return math.inf

    def take_effects(self) -> list[Effect]:
        """What to do now, in order; empty when asked again."""
        effects = self._effects
        if effects:
            self._effects = []
        return effects

    def names(self) -> list[tuple[str, int]]:
        """(name, port) of every entry, the oldest first."""
        return [
            (name.decode(), response[2] << 8 | response[3])  # the port's place in PORT2_RESP
            for name, response in self._responses.items()
        ]

    def look_up(self, name: str) -> epmd.MapperEntry | None:
        """The entry of that name."""
        response = self._responses.get(name.encode("utf-8", "replace"))
        return None if response is None else _entry_of(response)

    def statistics(self) -> PortMapStatistics:
        """Counters, for `drupelet status`."""
        return PortMapStatistics(
            names=len(self._responses),
            pending=len(self._pending),
            look_ups=self._look_ups,
            registrations=self._registrations,
            refusals=self._refusals,
            malformed=self._malformed,
            timeouts=self._timeouts,
            put_out=self._put_out,
        )

    # -- decisions

    def _answer(self, connection: int, request: epmd.Request, local: bool) -> None:
        match request:
            case epmd.LookUp(name):
                self._look_ups += 1
                response = self._responses.get(name, epmd.NOT_REGISTERED)
                self._effects.append(Answer(connection=connection, data=response))
            case epmd.Register(entry):
                self._register(connection, entry, local)
            case epmd.ListNames():
                if self._names_response is None:
                    self._names_response = epmd.names_response(self._mapper_port, self.names())
                self._effects.append(Answer(connection=connection, data=self._names_response))
            case epmd.Dump():
                if local:
                    data = epmd.dump_response(self._mapper_port, self.names())
                    self._effects.append(Answer(connection=connection, data=data))
                else:
                    self._refuse(connection)
            case epmd.Kill():
                self._refuse(connection, epmd.KILL_REFUSED if local else b"")
            case epmd.Stop():
                self._refuse(connection)
            case _:
                assert_never(request)

    def _register(self, connection: int, entry: epmd.MapperEntry, local: bool) -> None:
        full = len(self._held) - (OWN in self._held) >= self._names_max
        if not local or full or entry.name.encode() in self._responses:
            refusal = epmd.register_response(None, highest_version=entry.highest_version)
            self._refuse(connection, refusal if local else b"")
            return
        self._registrations += 1
        creation = self._next_creation(entry.highest_version)
        data = epmd.register_response(creation, highest_version=entry.highest_version)
        self._effects.append(Answer(connection=connection, data=data, keep=True))
        self._hold(connection, entry)

    def _next_creation(self, highest_version: int) -> int:
        self._creation = (self._creation + 1) % _CREATION_LIMIT
        if highest_version < epmd.VERSION_WIDE_CREATION:
            return self._creation % 3 + 1
        self._creation = max(self._creation, _CREATION_FIRST)
        return self._creation

    def _refuse(self, connection: int, data: bytes = b"") -> None:
        self._refusals += 1
        if data:
            self._effects.append(Answer(connection=connection, data=data))
        else:
            self._effects.append(Drop(connection))

    def _hold(self, connection: int, entry: epmd.MapperEntry) -> None:
        name = entry.name.encode()
        self._held[connection] = name
        self._responses[name] = epmd.look_up_response(entry)
        self._names_response = None
        self._effects.append(NamesChanged())

    def _release(self, connection: int) -> None:
        name = self._held.pop(connection, None)
        if name is not None:
            del self._responses[name]
            self._names_response = None
            self._effects.append(NamesChanged())

    def _await_more(self, connection: int, data: bytes, now: float) -> None:
        pending = self._pending.get(connection)
        if pending is not None:
            self._pending[connection] = (data, pending[1])
            return
        if len(self._pending) >= limits.MAPPER_PENDING_MAX:
            self._put_out += 1
            self._end(next(iter(self._pending)))
        self._pending[connection] = (data, now + limits.MAPPER_REQUEST_S)
        self._effects.append(Watch(connection))

    def _end(self, connection: int) -> None:
        self._effects.append(Drop(connection))
        self.closed(connection)


def _entry_of(response: bytes) -> epmd.MapperEntry:
    found = epmd.parse_look_up_response(response)
    assert found is not None and found.entry is not None  # we built it
    return found.entry
