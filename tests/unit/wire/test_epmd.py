"""EPMD's bytes: every request and response both ways, limits, no other error than the peer's."""

from __future__ import annotations

import contextlib
import random
import struct

import pytest

from drupelet.errors import LocalProtocolError, RemoteProtocolError
from drupelet.wire import epmd, limits
from drupelet.wire.epmd import MapperEntry

GANDALF = MapperEntry(name="gandalf", port=4370, extra=b"drupelet/1")
ERLANG = MapperEntry(
    name="bilbo",
    port=41_000,
    node_type=epmd.NODE_TYPE_NORMAL,
    highest_version=6,
    lowest_version=5,
)


def alive2(name: bytes, *, port: int = 1, extra: bytes = b"", name_length: int = -1) -> bytes:
    length = len(name) if name_length < 0 else name_length
    fields = struct.pack(">BHBBHHH", 120, port, 77, 0, 6, 5, length) + name
    fields += struct.pack(">H", len(extra)) + extra
    return struct.pack(">H", len(fields)) + fields


def test_requests_as_bytes_of_the_specification() -> None:
    assert epmd.look_up_request("bilbo") == b"\x00\x06zbilbo"
    assert epmd.plain_request(epmd.NAMES_REQUEST) == b"\x00\x01n"
    assert epmd.register_request(ERLANG) == (
        b"\x00\x12\x78\xa0\x28M\x00\x00\x06\x00\x05\x00\x05bilbo\x00\x00"
    )


@pytest.mark.parametrize("entry", [GANDALF, ERLANG, MapperEntry(name="größe", port=65_535)])
def test_entry_crosses_both_ways(entry: MapperEntry) -> None:
    assert epmd.parse_request(epmd.register_request(entry)) == epmd.Register(entry)
    response = epmd.look_up_response(entry)
    assert epmd.parse_look_up_response(response) == epmd.Found(entry)
    for cut in range(len(response)):
        assert epmd.parse_look_up_response(response[:cut]) is None


def test_plain_requests() -> None:
    assert epmd.parse_request(b"\0\1n") == epmd.ListNames()
    assert epmd.parse_request(b"\0\1d") == epmd.Dump()
    assert epmd.parse_request(b"\0\1k") == epmd.Kill()
    assert epmd.parse_request(b"\0\6sbilbo") == epmd.Stop(b"bilbo")
    assert epmd.parse_request(b"\0\6zbilbo") == epmd.LookUp(b"bilbo")


@pytest.mark.parametrize("request_", [epmd.register_request(GANDALF), b"\0\1n", b"\0\6zbilbo"])
def test_request_is_whole_only_with_its_last_byte(request_: bytes) -> None:
    for cut in range(len(request_)):
        assert epmd.parse_request(request_[:cut]) is None
    with pytest.raises(RemoteProtocolError):
        epmd.parse_request(request_ + b"x")


@pytest.mark.parametrize(
    "data",
    [
        b"\0\0",
        b"\0\0n",
        b"\0\1z",  # no name
        b"\0\1\xff",
        b"\0\2nn",
        b"\xff\xff" + b"x",  # refused by its length, before it is there
        b"GET / HTTP/1.1\r\n",
        alive2(b""),
        alive2(b"a b"),
        alive2(b"a\nb"),
        alive2(b"a\x00"),
        alive2(b"\xff"),
        alive2(b"a", port=0),
        alive2(b"a", name_length=2),
        alive2(b"aa", name_length=1),
        alive2(b"a", name_length=65_535),
        b"\0\x0d" + alive2(b"")[2:15],
        b"\0\x05xabcd",
    ],
)
def test_malformed_requests(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        epmd.parse_request(data)


def test_name_and_extra_at_their_maximum_and_one_above() -> None:
    longest = MapperEntry(
        name="n" * limits.MAPPER_NAME_BYTES_MAX,
        port=1,
        extra=b"e" * limits.MAPPER_EXTRA_BYTES_MAX,
    )
    request = epmd.register_request(longest)
    assert len(request) == limits.MAPPER_REQUEST_BYTES_MAX
    assert epmd.parse_request(request) == epmd.Register(longest)
    assert epmd.parse_request(epmd.look_up_request(longest.name)) == epmd.LookUp(
        longest.name.encode()
    )
    for data in (
        alive2(b"n" * 256),
        alive2(b"n", extra=b"e" * 256),
        b"\x01\x01z" + b"n" * 256,
        struct.pack(">H", limits.MAPPER_REQUEST_BYTES_MAX - 1) + b"x",
    ):
        with pytest.raises(RemoteProtocolError):
            epmd.parse_request(data)
    with pytest.raises(LocalProtocolError):
        epmd.look_up_request("n" * 256)
    with pytest.raises(LocalProtocolError):
        epmd.register_request(MapperEntry(name="n", port=1, extra=b"e" * 256))


@pytest.mark.parametrize("name", ["", "a b", "a\n", "\ud800"])
def test_names_that_we_do_not_send(name: str) -> None:
    with pytest.raises(LocalProtocolError):
        epmd.look_up_request(name)


@pytest.mark.parametrize("port", [0, -1, 65_536])
def test_ports_that_we_do_not_send(port: int) -> None:
    with pytest.raises(LocalProtocolError):
        epmd.register_request(MapperEntry(name="a", port=port))


def test_registration_responses() -> None:
    wide = epmd.register_response(0x01020304, highest_version=6)
    narrow = epmd.register_response(3, highest_version=5)
    assert wide == b"\x76\x00\x01\x02\x03\x04"
    assert narrow == b"\x79\x00\x00\x03"
    assert epmd.parse_register_response(wide) == epmd.Registered(0x01020304)
    assert epmd.parse_register_response(narrow) == epmd.Registered(3)
    for version in (5, 6):
        refusal = epmd.register_response(None, highest_version=version)
        assert epmd.parse_register_response(refusal) == epmd.Registered(None)
    for cut in range(len(wide)):
        assert epmd.parse_register_response(wide[:cut]) is None
    with pytest.raises(RemoteProtocolError):
        epmd.parse_register_response(b"\x00")  # also what a connection to itself reads


def test_look_up_responses_that_make_no_sense() -> None:
    assert epmd.parse_look_up_response(epmd.NOT_REGISTERED) == epmd.Found(None)
    head = b"\x77\x00\x11\x12M\x00\x00\x06\x00\x05"
    for data in (b"HTTP", head + b"\x00\x00", head + b"\x01\x00", head + b"\x00\x01\xff\x00\x00"):
        with pytest.raises(RemoteProtocolError):
            epmd.parse_look_up_response(data)


def test_names_both_ways() -> None:
    names = [("gandalf", 4370), ("größe", 1), ("at", 2)]
    data = epmd.names_response(4369, names)
    assert data.startswith(b"\x00\x00\x11\x11name gandalf at port 4370\n")
    assert epmd.parse_names_response(data) == names
    assert epmd.parse_names_response(b"\0\0\x11\x11") == []
    with pytest.raises(RemoteProtocolError):
        epmd.parse_names_response(b"\0\0\x11")


def test_odd_lines_do_not_hide_the_others() -> None:
    text = b"name a\nb at port 3\nname c at port x\nname \xff at port 1\n\nname d at port 4\nname e"
    assert epmd.parse_names_response(b"\0\0\0\0" + text) == [("d", 4)]


def test_names_at_their_maximum_and_one_above() -> None:
    def listed(count: int) -> int:
        data = epmd.names_response(1, ((f"n{index}", 1) for index in range(count)))
        return len(epmd.parse_names_response(data))

    assert listed(limits.MAPPER_NAMES_MAX) == limits.MAPPER_NAMES_MAX
    assert listed(limits.MAPPER_NAMES_MAX + 1) == limits.MAPPER_NAMES_MAX


def test_dump_keeps_descriptors_to_itself() -> None:
    assert epmd.dump_response(4369, [("a", 1)]) == (
        b"\x00\x00\x11\x11active name     <a> at port 1, fd = 0\n\0"
    )


@pytest.mark.parametrize(
    ("extra", "version"),
    [
        (b"drupelet/1", 1),
        (epmd.extra_of(42), 42),
        (b"", None),
        (b"drupelet/", None),
        (b"drupelet/x", None),
        (b"drupelet/999999", None),
        (b"1", None),
    ],
)
def test_version_in_the_extra_field(extra: bytes, version: int | None) -> None:
    assert MapperEntry(name="a", port=1, extra=extra).drupelet_version == version


def test_any_bytes_raise_nothing_else() -> None:
    seed = 5
    print(f"seed={seed}")
    source = random.Random(seed)
    sound = [epmd.register_request(GANDALF), b"\0\6zbilbo", epmd.look_up_response(ERLANG)]
    for _ in range(20_000):
        data = bytearray(source.choice(sound))
        for _ in range(source.randrange(4)):
            data[source.randrange(len(data))] = source.randrange(256)
        cut = bytes(data[: source.randrange(len(data) + 1)])
        for parse in (
            epmd.parse_request,
            epmd.parse_look_up_response,
            epmd.parse_register_response,
            epmd.parse_names_response,
        ):
            with contextlib.suppress(RemoteProtocolError):
                parse(cut)
