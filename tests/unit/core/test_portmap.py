"""The port mapper's table: who holds a name, who may ask what, and every limit."""

from __future__ import annotations

import math

import pytest

from drupelet.core.portmap import OWN, Answer, Drop, Effect, NamesChanged, PortMap, Watch
from drupelet.errors import LocalProtocolError
from drupelet.wire import epmd, limits
from drupelet.wire.epmd import MapperEntry

OURS = MapperEntry(name="gandalf", port=4370, extra=b"drupelet/1")


def erlang(name: str, port: int = 5000, highest_version: int = 6) -> MapperEntry:
    return MapperEntry(
        name=name, port=port, node_type=77, highest_version=highest_version, lowest_version=5
    )


def port_map(**options: int) -> PortMap:
    machine = PortMap(mapper_port=4369, creation=options.pop("creation", 100), **options)
    machine.register_own(OURS)
    machine.take_effects()
    return machine


def ask(
    machine: PortMap, connection: int, data: bytes, *, now: float = 0.0, local: bool = True
) -> list[Effect]:
    machine.receive(connection, data, now, local=local)
    return machine.take_effects()


def register(machine: PortMap, connection: int, entry: MapperEntry) -> int | None:
    """The creation, or None when refused."""
    effects = ask(machine, connection, epmd.register_request(entry))
    assert isinstance(effects[0], Answer)
    answer = epmd.parse_register_response(effects[0].data)
    assert answer is not None
    assert effects[0].keep == (answer.creation is not None)
    assert (NamesChanged() in effects) == (answer.creation is not None)
    return answer.creation


def look_up(machine: PortMap, name: str) -> MapperEntry | None:
    effects = ask(machine, 999_999, epmd.look_up_request(name), local=False)
    assert len(effects) == 1 and isinstance(effects[0], Answer) and not effects[0].keep
    found = epmd.parse_look_up_response(effects[0].data)
    assert found is not None
    return found.entry


def test_own_name_is_held_first() -> None:
    machine = port_map()
    assert look_up(machine, "gandalf") == OURS == machine.look_up("gandalf")
    assert machine.names() == [("gandalf", 4370)]
    assert register(machine, 7, erlang("gandalf")) is None
    with pytest.raises(LocalProtocolError):
        machine.register_own(OURS)


def test_name_lives_as_long_as_its_connection() -> None:
    machine = port_map()
    assert register(machine, 7, erlang("bilbo")) is not None
    assert look_up(machine, "bilbo") == erlang("bilbo")
    machine.closed(7)
    assert machine.take_effects() == [NamesChanged()]
    assert look_up(machine, "bilbo") is None
    machine.closed(7)
    assert machine.take_effects() == []


def test_duplicate_is_refused_and_harms_nobody() -> None:
    machine = port_map()
    register(machine, 7, erlang("bilbo", 1))
    assert register(machine, 8, erlang("bilbo", 2)) is None
    machine.closed(8)
    entry = look_up(machine, "bilbo")
    assert entry is not None and entry.port == 1
    machine.closed(7)
    machine.take_effects()
    assert register(machine, 9, erlang("bilbo", 2)) is not None


def test_one_registration_per_connection() -> None:
    machine = port_map()
    register(machine, 7, erlang("bilbo"))
    effects = ask(machine, 7, epmd.register_request(erlang("frodo")))
    assert effects == [Drop(7), NamesChanged()]
    assert machine.names() == [("gandalf", 4370)]
    assert machine.statistics().malformed == 1


def test_creations_differ_and_skip_the_small_ones() -> None:
    machine = port_map(creation=(1 << 32) - 2)
    seen = [register(machine, 10 + index, erlang(f"n{index}")) for index in range(4)]
    assert seen == [(1 << 32) - 1, 4, 5, 6]
    old = [register(machine, 20 + index, erlang(f"o{index}", 1, 5)) for index in range(4)]
    assert all(creation in (1, 2, 3) for creation in old)
    assert old[0] != old[1] != old[2]


def test_registration_from_elsewhere_is_dropped_without_a_word() -> None:
    machine = port_map()
    request = epmd.register_request(erlang("mallory"))
    assert ask(machine, 7, request, local=False) == [Drop(7)]
    assert machine.statistics().refusals == 1


def test_kill_stop_and_dump() -> None:
    machine = port_map()
    register(machine, 7, erlang("bilbo"))
    kill, stop, dump = b"\0\1k", b"\0\6sbilbo", b"\0\1d"
    assert ask(machine, 8, kill) == [Answer(connection=8, data=b"NO")]
    assert ask(machine, 8, stop) == [Drop(8)]
    for request in (kill, stop, dump):
        assert ask(machine, 8, request, local=False) == [Drop(8)]
    (answer,) = ask(machine, 8, dump)
    assert isinstance(answer, Answer) and b"<bilbo> at port 5000" in answer.data
    assert look_up(machine, "bilbo") is not None


def test_names_follow_the_table() -> None:
    machine = port_map()

    def listed() -> list[tuple[str, int]]:
        (answer,) = ask(machine, 50, b"\0\1n", local=False)
        assert isinstance(answer, Answer)
        return epmd.parse_names_response(answer.data)

    assert listed() == [("gandalf", 4370)]
    register(machine, 7, erlang("bilbo"))
    assert listed() == machine.names() == [("gandalf", 4370), ("bilbo", 5000)]
    machine.closed(7)
    machine.take_effects()
    assert listed() == [("gandalf", 4370)]


def test_names_held_at_the_maximum_and_one_above() -> None:
    machine = port_map()
    for index in range(limits.MAPPER_NAMES_MAX):
        request = epmd.register_request(erlang(f"n{index}"))
        machine.receive(index, request, 0.0, local=True)
    machine.take_effects()
    assert machine.statistics().names == limits.MAPPER_NAMES_MAX + 1  # and our own
    assert limits.MAPPER_NAMES_MAX >= 10_000
    assert register(machine, 1_000_000, erlang("late")) is None
    machine.closed(5)
    machine.take_effects()
    assert register(machine, 1_000_001, erlang("late")) is not None


def test_request_in_pieces() -> None:
    machine = port_map()
    request = epmd.look_up_request("gandalf")
    machine.accepted(7, 1.0)
    assert machine.take_effects() == [Watch(7)]
    for byte in request[:-1]:
        assert ask(machine, 7, bytes((byte,)), now=1.5) == []
    (answer,) = ask(machine, 7, request[-1:], now=2.0)
    assert isinstance(answer, Answer) and answer.data == epmd.look_up_response(OURS)
    assert machine.next_timer() == math.inf
    assert machine.statistics().pending == 0


def test_first_piece_comes_with_the_connection() -> None:
    machine = port_map()
    assert ask(machine, 7, b"\0") == [Watch(7)]
    assert len(ask(machine, 7, b"\1n")) == 1


def test_drip_ends_at_its_deadline_and_not_before() -> None:
    machine = port_map()
    machine.accepted(7, 1.0)
    machine.accepted(8, 2.0)
    machine.take_effects()
    ask(machine, 7, b"\0", now=5.9)  # more bytes give no more time
    deadline = 1.0 + limits.MAPPER_REQUEST_S
    assert machine.next_timer() == deadline
    machine.handle_timer(math.nextafter(deadline, 0.0))
    assert machine.take_effects() == []
    machine.handle_timer(deadline)
    assert machine.take_effects() == [Drop(7)]
    assert machine.next_timer() == 2.0 + limits.MAPPER_REQUEST_S
    assert machine.statistics().timeouts == 1


def test_pending_at_the_maximum_and_one_above() -> None:
    machine = port_map()
    for connection in range(limits.MAPPER_PENDING_MAX):
        machine.accepted(connection, float(connection))
    assert Drop(0) not in machine.take_effects()
    machine.accepted(1_000, 1_000.0)
    assert machine.take_effects() == [Drop(0), Watch(1_000)]
    assert machine.statistics().pending == limits.MAPPER_PENDING_MAX
    assert machine.statistics().put_out == 1


@pytest.mark.parametrize("junk", [b"GET / HTTP/1.1\r\n\r\n", b"\0\0", b"\xff" * 600, b"\0\1\0"])
def test_junk_closes_just_that_connection(junk: bytes) -> None:
    machine = port_map()
    register(machine, 7, erlang("bilbo"))
    assert ask(machine, 8, junk) == [Drop(8)]
    assert look_up(machine, "bilbo") is not None
    assert machine.statistics().malformed == 1


def test_own_connection_number_is_no_descriptor() -> None:
    assert OWN < 0
