"""Messages of the discovery channel: there and back, and everything else refused."""

from __future__ import annotations

import random

import pytest

from drupelet.errors import RemoteProtocolError
from drupelet.wire import codec, frames, limits
from drupelet.wire.messages import discovery as messages

KEY = "abcdefghij234567"
START = messages.Start(key_prefix=KEY, name="gandalf", port=4370, interfaces=("eth0",))
FOUND = messages.Found(key_prefix=KEY, name="bilbo", host="192.168.1.7", port=4371)
ALL = [
    messages.Hello(),
    START,
    FOUND,
    messages.Report(interfaces=("eth0", "wlan0"), packet_count=messages.COUNT_MAX),
    messages.Ping(b"12345678"),
    messages.Pong(b"12345678"),
]


def gossip(*fields: object) -> frames.Frame:
    return frames.Frame(frames.GOSSIP, 0, codec.dumps(list(fields)))


@pytest.mark.parametrize("message", ALL, ids=lambda message: type(message).__name__)
def test_there_and_back(message: messages.Message) -> None:
    (frame,) = frames.FrameReader().receive_data(messages.encode(message))
    assert messages.decode(frame) == message


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("10.1.2.3", "10.1.2.3"),
        ("FD00:0:0::2", "fd00::2"),
        ("fe80::1%2", "fe80::1%2"),
        ("fe80::1%" + "a" * 15, "fe80::1%" + "a" * 15),
        ("169.254.3.4", "169.254.3.4"),
    ],
)
def test_hosts_of_peers(text: str, host: str) -> None:
    assert messages.checked_host(text) == host


@pytest.mark.parametrize(
    "text",
    [
        "",
        "gandalf.local",
        "127.0.0.1",
        "::1",
        "0.0.0.0",
        "::",
        "224.0.0.251",
        "ff02::fb%2",
        "255.255.255.255",
        "240.0.0.1",
        "fe80::1",  # of which interface?
        "fe80::1%",
        "fe80::1%" + "a" * 16,
        "fe80::1%e/../0",
        "fd00::2%2",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "10.0.0.1 ",
        "1" * 254,
    ],
)
def test_hosts_of_nobody(text: str) -> None:
    with pytest.raises(RemoteProtocolError):
        messages.checked_host(text)


@pytest.mark.parametrize(
    "frame",
    [
        gossip("found", KEY[:15], "bilbo", "10.0.0.1", 4370),
        gossip("found", KEY.upper(), "bilbo", "10.0.0.1", 4370),
        gossip("found", KEY, "bil bo", "10.0.0.1", 4370),
        gossip("found", KEY, "b" * 128, "10.0.0.1", 4370),
        gossip("found", KEY, "bilbo", "127.0.0.1", 4370),
        gossip("found", KEY, "bilbo", "10.0.0.1", 1023),
        gossip("found", KEY, "bilbo", "10.0.0.1", 65_536),
        gossip("found", KEY, "bilbo", "10.0.0.1", True),
        gossip("found", KEY, "bilbo", "10.0.0.1", 4370, 1),
        gossip("found", KEY, "bilbo", "10.0.0.1"),
        gossip("lost", KEY, "bilbo", "10.0.0.1", 4370),
        gossip("report", ["e"] * (limits.DISCOVERY_INTERFACES_MAX + 1), 0, 0, 0, 0),
        gossip("report", [7], 0, 0, 0, 0),
        gossip("report", ["e" * 65], 0, 0, 0, 0),
        gossip("report", [], -1, 0, 0, 0),
        gossip("report", [], True, 0, 0, 0),
        frames.Frame(frames.GOSSIP, 2, messages.encode(FOUND)[frames.HEADER_BYTES :]),
        frames.Frame(frames.GOSSIP, 0, b""),
        frames.Frame(frames.CALL, 0, b""),
        frames.Frame(frames.PING, 0, b"1234567"),
        frames.Frame(frames.PONG, 0, b"123456789"),
        frames.Frame(frames.HELLO, 0, codec.dumps({"role": "discovery"})),
        frames.Frame(frames.HELLO, 0, codec.dumps({"role": "discovery", "version": 2})),
        frames.Frame(frames.HELLO, 0, codec.dumps({"role": "discovery", "version": True})),
        frames.Frame(frames.HELLO, 0, codec.dumps({"role": "discovery", "version": 1, "x": 1})),
        frames.Frame(frames.HELLO, 0, codec.dumps({"role": "worker", "version": 1})),
        frames.Frame(frames.HELLO, 0, codec.dumps({"role": "daemon", "version": 1})),
        frames.Frame(frames.HELLO, 0, codec.dumps([])),
    ],
)
def test_everything_else_is_refused(frame: frames.Frame) -> None:
    with pytest.raises(RemoteProtocolError):
        messages.decode(frame)


def test_limits_at_their_maximum() -> None:
    interfaces = ["e" * 64] * limits.DISCOVERY_INTERFACES_MAX
    messages.decode(gossip("report", interfaces, 0, 0, 0, messages.COUNT_MAX))
    messages.decode(gossip("found", KEY, "b" * 127, "10.0.0.1", 65_535))
    messages.decode(gossip("found", KEY, "", "10.0.0.1", 1024))


def test_damaged_frames_raise_nothing_else(seed: int) -> None:
    source = random.Random(seed)
    refused = 0
    for _ in range(3_000):
        data = bytearray(messages.encode(source.choice(ALL)))
        for _ in range(source.randrange(1, 4)):
            data[source.randrange(len(data))] = source.randrange(256)
        try:
            for frame in frames.FrameReader().receive_data(bytes(data)):
                messages.decode(frame)
        except RemoteProtocolError:
            refused += 1
    assert refused > 1_000
