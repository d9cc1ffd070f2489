"""Junk in every place of a chan: the conf, the way in, inside the encryption, and its values."""

from __future__ import annotations

import contextlib

import harness

with harness.instrumented():
    from drupelet.chan.conf import parse_conf
    from drupelet.errors import AuthFail, BadService, ConfigError, NoConnection, RemoteProtocolError
    from drupelet.wire import frames
    from drupelet.wire.chan import ChanStream, Closed, dump, load
    from drupelet.wire.guests import WELCOME, Admitted, GuestClient, GuestServer, Secrets
    from drupelet.wire.noise import CipherState
    from drupelet.wire.records import RecordOpener, RecordSealer

PASSWORDS = {"nameServer": b"ABXy45"}
KEY = bytes(range(32))
CONF = "chan.conf"


def _secrets(letter: bytes) -> Secrets:
    return Secrets(static=letter * 32, ephemeral=letter.upper() * 32, private=letter * 31 + b"!")


def _sides() -> tuple[GuestClient, GuestServer]:
    return (
        GuestClient("nameServer", b"ABXy45", _secrets(b"a")),
        GuestServer(PASSWORDS, b"ABXy45", _secrets(b"b")),
    )


def _conf(data: bytes) -> None:
    """A conf, or an error that names the file, and the line where there is one."""
    text = data.decode("utf-8", "replace")
    try:
        conf = parse_conf(text, CONF)
    except ConfigError as error:
        assert str(error).startswith(f"{CONF}:"), error
        assert error.line <= text.count("\n") + 1
    else:
        assert conf.services
        assert 0 <= conf.port <= 65_535


def _raw(data: bytes) -> None:
    """Junk from the first byte on, in pieces, to both sides."""
    client, server = _sides()
    client.start()
    for machine in (server, client):
        with contextlib.suppress(RemoteProtocolError, AuthFail, NoConnection):
            for piece in harness.chunks(data[4:], data[:4]):
                machine.receive_data(piece)
        assert machine.admitted is None


def _lying(data: bytes) -> None:
    """A peer that speaks well up to a place, then says anything inside the encryption."""
    client, server = _sides()
    request = client.receive_data(server.receive_data(client.start()))
    lie, place = data[1:1_500], data[0] % 4
    if place == 0:  # in place of the request; `_sealer` is the client's own
        server.receive_data(request[: 2 + 64])
        assert client._sealer is not None
        client._sealer._counter = 0
        server.receive_data(client._sealer.seal(frames.frame(frames.HELLO, 0, lie)))
        return
    share = server.receive_data(request)
    if place == 1:
        assert server._sealer is not None
        server._sealer._counter = 0
        client.receive_data(server._sealer.seal(frames.frame(frames.HELLO, 0, lie)))
        return
    server.receive_data(client.receive_data(share))
    assert server.tried
    assert server.proof_holds()
    if place == 2:
        assert server._sealer is not None
        client.receive_data(server._sealer.seal(frames.frame(frames.HELLO, 0, lie)))
        assert client.admitted is None
        return
    client.receive_data(server.answer(WELCOME))
    assert client.admitted is not None


def _damaged(data: bytes) -> None:
    """A conversation in which one message is changed; nobody may then be let in."""
    client, server = _sides()
    which, offset = data[0] % 5, data[1]
    message, damaged = client.start(), False
    for step in range(5):
        if step == which:
            changed = bytearray(message)
            for place, byte in enumerate(data[2:], start=offset):
                changed[place % len(changed)] ^= byte
            damaged = bytes(changed) != message
            message = bytes(changed)
        message = (client if step % 2 else server).receive_data(message)
    assert (server.tried and server.proof_holds()) != damaged


def _values(data: bytes) -> None:
    """Any frames, sealed well, where values should be."""
    sealer = RecordSealer(CipherState(KEY))
    stream = ChanStream(Admitted(RecordSealer(CipherState(KEY)), RecordOpener(CipherState(KEY))))
    for piece in harness.chunks(data[4:], data[:4]):
        if piece:
            kind, body = piece[0] % 16, piece[1:]
            for event in stream.receive_data(sealer.seal(frames.frame(kind, 0, body))):
                assert isinstance(event, Closed) or load(dump(event.value)) is not NotImplemented


def _value(data: bytes) -> None:
    """What is taken from a guest can be given to one."""
    value = load(data)
    dump(value)


WAYS = (_conf, _raw, _lying, _damaged, _values, _value)


def one_input(data: bytes) -> None:
    if len(data) < 6:
        return
    with contextlib.suppress(RemoteProtocolError, AuthFail, BadService, NoConnection):
        WAYS[data[0] % len(WAYS)](data[1:])


if __name__ == "__main__":
    harness.fuzz("chan", one_input)
