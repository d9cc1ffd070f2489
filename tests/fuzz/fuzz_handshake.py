"""Junk in every place of a handshake: raw, damaged on the way, and inside the encryption."""

from __future__ import annotations

import contextlib

import harness

with harness.instrumented():
    from drupelet.errors import RemoteProtocolError
    from drupelet.wire.handshake import (
        ROLE_MEMBER,
        ROLE_STRANGER,
        Credentials,
        Initiator,
        Responder,
        make_credentials,
    )
    from drupelet.wire.messages.links import decode_answer
    from drupelet.wire.records import RecordOpener, RecordSealer

PSK = b"c" * 32


def _credentials(letter: bytes) -> Credentials:
    return make_credentials(
        letter * 32, letter.upper() * 32, psks=(PSK,), name="gandalf", incarnation=5, port=4370,
        software="0.1.0",
    )  # fmt: skip


ALICE, BOB = _credentials(b"a"), _credentials(b"b")
lie = b""


class LyingInitiator(Initiator):
    """Knows the cookie and says anything in message 3."""

    def _introduction(self, expect: bytes | None = None) -> bytes:
        return lie


class LyingResponder(Responder):
    """Knows the cookie and says anything in message 2."""

    def _introduction(self, expect: bytes | None = None) -> bytes:
        return lie


def initiator(role: int, cls: type[Initiator] = Initiator) -> Initiator:
    return cls(ALICE, role=role, ephemeral=b"1" * 32)


def responder(cls: type[Responder] = Responder) -> Responder:
    return cls(BOB, ephemeral=b"2" * 32, accept_strangers=True)


def _raw(role: int, data: bytes) -> None:
    """Junk from the first byte on, in pieces, to both sides."""
    opened = initiator(role)
    opened.start()
    for machine in (responder(), opened):
        try:
            for piece in harness.chunks(data[4:], data[:4]):
                machine.receive_data(piece)
        except RemoteProtocolError:
            pass
        assert machine.established is None


def _damaged(role: int, data: bytes) -> None:
    """A handshake in which one message is changed; then neither side may have finished wrongly."""
    which, offset = data[0] % 3, data[1]
    one, two = initiator(role), responder()
    message = one.start()
    for index, receive in enumerate((two.receive_data, one.receive_data, two.receive_data)):
        if index == which:
            changed = bytearray(message)
            for place, byte in enumerate(data[2:], start=offset):
                changed[place % len(changed)] ^= byte
            damaged = bytes(changed) != message
            message = bytes(changed)
        message = receive(message)
    assert damaged == (two.established is None)


def _lying(role: int, data: bytes) -> None:
    """A peer that knows the cookie and says anything about itself."""
    global lie
    lie = data[1:1_900]
    one = initiator(role, LyingInitiator if data[0] & 1 else Initiator)
    two = responder(Responder if data[0] & 1 else LyingResponder)
    two.receive_data(one.receive_data(two.receive_data(one.start())))


def _records(role: int, data: bytes) -> None:
    """A finished handshake, then junk where records should be."""
    one, two = initiator(role), responder()
    two.receive_data(one.receive_data(two.receive_data(one.start())))
    assert one.established is not None
    assert two.established is not None
    opener = RecordOpener(two.established.receive)
    sealed = RecordSealer(one.established.send).seal(b"first")
    opener.receive_data(sealed)
    for piece in harness.chunks(data[4:], data[:4]):
        assert not opener.receive_data(piece)


def _payload(role: int, data: bytes) -> None:
    decode_answer(data)


WAYS = (_raw, _damaged, _lying, _records, _payload)


def one_input(data: bytes) -> None:
    if len(data) < 4:
        return
    role = ROLE_STRANGER if data[0] & 128 else ROLE_MEMBER
    with contextlib.suppress(RemoteProtocolError):
        WAYS[(data[0] & 127) % len(WAYS)](role, data[1:])


if __name__ == "__main__":
    harness.fuzz("handshake", one_input)
