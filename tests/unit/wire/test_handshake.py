"""The handshake: both ends, every chunking, every damage, every refusal."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drupelet.errors import LocalProtocolError, RemoteProtocolError
from drupelet.wire import keys, limits, sodium
from drupelet.wire.handshake import (
    PROTOCOL_NAMES,
    ROLE_MEMBER,
    ROLE_STRANGER,
    VERSIONS,
    Credentials,
    HandshakeRefused,
    Initiator,
    Responder,
    make_credentials,
    prologue,
)
from drupelet.wire.messages.links import (
    PeerIntroduction,
    Refusal,
    encode_introduction,
    encode_refusal,
)
from drupelet.wire.noise import HandshakeState
from drupelet.wire.records import RecordOpener, RecordSealer

NEW_PSK, OLD_PSK, OTHER_PSK = b"n" * 32, b"o" * 32, b"x" * 32


def _credentials(letter: str, *psks: bytes, **changes: Any) -> Credentials:
    facts: dict[str, Any] = {"name": letter, "incarnation": 5, "port": 4370, "software": "0.1.0"}
    seed = letter.encode() * 32
    return make_credentials(seed, letter.upper().encode() * 32, psks=psks, **(facts | changes))


ALICE = _credentials("alice"[0], NEW_PSK)
BOB = _credentials("bob"[0], NEW_PSK, port=4371)
MALLORY = _credentials("mallory"[0])


def _initiator(
    credentials: Credentials = ALICE, role: int = ROLE_MEMBER, **options: Any
) -> Initiator:
    return Initiator(credentials, role=role, ephemeral=b"1" * 32, **options)


def _responder(credentials: Credentials = BOB, **options: Any) -> Responder:
    options = {"accept_strangers": False} | options
    return Responder(credentials, ephemeral=b"2" * 32, **options)


class LyingInitiator(Initiator):
    """Mallory with the cookie: any payload in message 3, whatever the responder said."""

    lie = b""

    def _introduction(self, expect: bytes | None = None) -> bytes:
        return self.lie


class LyingResponder(Responder):
    """The same on the other side: any payload in message 2."""

    lie = b""

    def _introduction(self, expect: bytes | None = None) -> bytes:
        return self.lie


def _introduction_of(credentials: Credentials, **changes: Any) -> bytes:
    facts: dict[str, Any] = {
        "key": credentials.identity,
        "signature": credentials.signature,
        "name": credentials.name,
        "incarnation": 5,
        "port": 4370,
        "versions": (1,),
        "software": "0.1.0",
    }
    return encode_introduction(PeerIntroduction(**(facts | changes)))


def _tell_responder(lie: bytes, role: int = ROLE_MEMBER) -> None:
    """A whole handshake with `lie` in message 3."""
    initiator = LyingInitiator(ALICE, role=role, ephemeral=b"1" * 32)
    initiator.lie = lie
    _run(initiator, _responder(accept_strangers=True))


def _tell_initiator(lie: bytes, role: int = ROLE_MEMBER) -> None:
    """A whole handshake with `lie` in message 2."""
    responder = LyingResponder(BOB, ephemeral=b"2" * 32, accept_strangers=True)
    responder.lie = lie
    _run(_initiator(role=role), responder)


def _run(initiator: Initiator, responder: Responder) -> list[bytes]:
    messages = [initiator.start()]
    messages.append(responder.receive_data(messages[0]))
    messages.append(initiator.receive_data(messages[1]))
    assert responder.receive_data(messages[2]) == b""
    return messages


# -- it works


@pytest.mark.parametrize("role", [ROLE_MEMBER, ROLE_STRANGER])
def test_both_ends_agree(role: int) -> None:
    initiator, responder = _initiator(role=role), _responder(accept_strangers=True)
    messages = _run(initiator, responder)
    assert len(messages[0]) == (52 if role == ROLE_MEMBER else 36)
    here, there = initiator.established, responder.established
    assert here is not None
    assert there is not None
    assert here.handshake_hash == there.handshake_hash
    assert here.role == there.role == role
    assert here.psk_index == there.psk_index == (0 if role == ROLE_MEMBER else None)
    assert (here.peer.name, here.peer.port, here.peer.key) == ("b", 4371, BOB.identity)
    assert (there.peer.name, there.peer.incarnation, there.peer.key) == ("a", 5, ALICE.identity)
    assert here.rest == there.rest == b""
    for out, into in ((here.send, there.receive), (there.send, here.receive)):
        record = RecordSealer(out).seal(b"frames")
        assert RecordOpener(into).receive_data(record) == [b"frames"]


def _feed(machine: Initiator | Responder, data: bytes, size: int) -> bytes:
    return b"".join(
        machine.receive_data(data[start : start + size]) for start in range(0, len(data), size)
    )


@pytest.mark.parametrize("size", [1, 2, 3, 5, 33, 51, 100])
@pytest.mark.parametrize("role", [ROLE_MEMBER, ROLE_STRANGER])
def test_every_chunking(size: int, role: int) -> None:
    initiator, responder = _initiator(role=role), _responder(accept_strangers=True)
    second = _feed(responder, initiator.start(), size)
    third = _feed(initiator, second, size)
    assert _feed(responder, third, size) == b""
    assert initiator.established is not None
    assert responder.established is not None


def test_every_cut_of_every_message() -> None:
    messages = _run(_initiator(), _responder())
    for cut in range(1, len(messages[0])):
        responder = _responder()
        assert responder.receive_data(messages[0][:cut]) == b""
        assert responder.receive_data(messages[0][cut:]) == messages[1]
    for cut in range(1, len(messages[1])):
        initiator = _initiator()
        initiator.start()
        assert initiator.receive_data(messages[1][:cut]) == b""
        assert initiator.receive_data(messages[1][cut:]) == messages[2]


def test_records_right_behind_message_3_are_handed_on() -> None:
    initiator, responder = _initiator(), _responder()
    third = initiator.receive_data(responder.receive_data(initiator.start()))
    assert initiator.established is not None
    record = RecordSealer(initiator.established.send).seal(b"early")
    responder.receive_data(third + record)
    assert responder.established is not None
    assert responder.established.rest == record
    opener = RecordOpener(responder.established.receive)
    assert opener.receive_data(responder.established.rest) == [b"early"]


def test_a_reconnect_costs_no_verification() -> None:
    here, there = keys.VerifiedKeys(), keys.VerifiedKeys()
    for _ in range(3):
        _run(_initiator(verified=here), _responder(verified=there))
    assert (here.verify_count, here.hit_count) == (1, 2)
    assert (there.verify_count, there.hit_count) == (1, 2)


# -- cookies


@pytest.mark.parametrize(
    ("initiator_psks", "offered", "responder_psks", "used"),
    [
        ((NEW_PSK, OLD_PSK), 0, (NEW_PSK, OLD_PSK), 0),
        ((NEW_PSK, OLD_PSK), 1, (NEW_PSK, OLD_PSK), 1),
        ((OLD_PSK,), 0, (NEW_PSK, OLD_PSK), 1),
        ((NEW_PSK, OLD_PSK), 1, (OLD_PSK,), 0),
        ((NEW_PSK, OLD_PSK), 0, (OLD_PSK,), None),
        ((OTHER_PSK,), 0, (NEW_PSK, OLD_PSK), None),
        ((NEW_PSK,), 0, (), None),
    ],
)
def test_old_and_new_cookies(
    initiator_psks: tuple[bytes, ...],
    offered: int,
    responder_psks: tuple[bytes, ...],
    used: int | None,
) -> None:
    initiator = _initiator(replace(ALICE, psks=initiator_psks), psk_index=offered)
    responder = _responder(replace(BOB, psks=responder_psks))
    if used is None:
        with pytest.raises(RemoteProtocolError) as caught:
            responder.receive_data(initiator.start())
        assert not isinstance(caught.value, HandshakeRefused), "a stranger is told nothing"
    else:
        _run(initiator, responder)
        assert responder.established is not None
        assert responder.established.psk_index == used
        assert initiator.established is not None
        assert initiator.established.psk_index == offered


def test_a_member_without_a_cookie_is_our_own_mistake() -> None:
    for psks, index in (((), 0), ((NEW_PSK,), 1), ((NEW_PSK,), -1)):
        with pytest.raises(LocalProtocolError):
            _initiator(replace(ALICE, psks=psks), psk_index=index)
    for psks in ((NEW_PSK,) * 3, (b"short",)):
        with pytest.raises(LocalProtocolError):
            replace(ALICE, psks=psks)


# -- versions and roles


@pytest.mark.parametrize("version", [0, 2, 255])
def test_a_member_with_another_version_is_told(version: int) -> None:
    initiator, responder = _initiator(version=version), _responder()
    with pytest.raises(HandshakeRefused) as caught:
        responder.receive_data(initiator.start())
    assert caught.value.reason == "version"
    assert 0 < len(caught.value.farewell) <= limits.HANDSHAKE_BYTES_MAX
    assert b"version" not in caught.value.farewell
    assert responder.established is None
    with pytest.raises(HandshakeRefused) as told:
        initiator.receive_data(caught.value.farewell)
    assert told.value.reason == "version"
    assert told.value.versions == VERSIONS
    assert told.value.farewell == b""
    assert initiator.established is None


def test_a_later_version_may_put_more_into_message_1() -> None:
    """What a version 9 of 2031 sends: a payload we do not know, up to the 256 bytes."""
    for size, good in ((1, True), (256 - 52, True), (256 - 52 + 1, False)):
        state = HandshakeState(
            PROTOCOL_NAMES[ROLE_MEMBER],
            initiator=True,
            prologue=prologue(9, ROLE_MEMBER),
            s=b"s" * 32,
            e=b"e" * 32,
            psks=(NEW_PSK,),
        )
        body = bytes((9, ROLE_MEMBER)) + state.write_message(bytes(size))
        with pytest.raises(RemoteProtocolError) as caught:
            _responder().receive_data(len(body).to_bytes(2, "big") + body)
        assert isinstance(caught.value, HandshakeRefused) is good


def test_version_1_sends_no_payload_in_message_1() -> None:
    for role, psks in ((ROLE_MEMBER, (NEW_PSK,)), (ROLE_STRANGER, ())):
        state = HandshakeState(
            PROTOCOL_NAMES[role],
            initiator=True,
            prologue=prologue(1, role),
            s=b"s" * 32,
            e=b"e" * 32,
            psks=psks,
        )
        body = bytes((1, role)) + state.write_message(b"payload")
        with pytest.raises(RemoteProtocolError, match="no payload"):
            _responder(accept_strangers=True).receive_data(len(body).to_bytes(2, "big") + body)


@pytest.mark.parametrize(
    ("version", "role", "accept_strangers"),
    [(1, ROLE_STRANGER, False), (2, ROLE_STRANGER, True), (1, 0, True), (1, 3, True), (2, 3, True)],
)
def test_who_cannot_prove_the_cookie_is_told_nothing(
    version: int, role: int, accept_strangers: bool
) -> None:
    body = bytes((version, role)) + b"\x09" + bytes(31)
    with pytest.raises(RemoteProtocolError) as caught:
        _responder(accept_strangers=accept_strangers).receive_data(
            len(body).to_bytes(2, "big") + body
        )
    assert not isinstance(caught.value, HandshakeRefused)


def test_a_wrong_cookie_with_a_wrong_version_is_told_nothing() -> None:
    initiator = _initiator(replace(ALICE, psks=(OTHER_PSK,)), version=2)
    with pytest.raises(RemoteProtocolError) as caught:
        _responder().receive_data(initiator.start())
    assert not isinstance(caught.value, HandshakeRefused)


def test_version_and_role_are_bound() -> None:
    """Both stand in the clear in message 1; a change there is found by the first AEAD."""
    first = _initiator().start()
    for place, value in ((2, 2), (3, ROLE_STRANGER), (3, 9)):
        changed = bytearray(first)
        changed[place] = value
        with pytest.raises(RemoteProtocolError) as caught:
            _responder(accept_strangers=True).receive_data(bytes(changed))
        assert not isinstance(caught.value, HandshakeRefused)


def test_a_stranger_made_out_of_a_version_2_stranger_does_not_pass() -> None:
    """XX has no AEAD in message 1, so the prologue is found out in message 2."""
    initiator = _initiator(role=ROLE_STRANGER, version=2)
    changed = bytearray(initiator.start())
    changed[2] = 1
    second = _responder(accept_strangers=True).receive_data(bytes(changed))
    with pytest.raises(RemoteProtocolError):
        initiator.receive_data(second)


# -- damage


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("role", [ROLE_MEMBER, ROLE_STRANGER])
def test_every_flipped_byte_is_refused_in_the_end(number: int, role: int) -> None:
    whole = _run(_initiator(role=role), _responder(accept_strangers=True))
    for place in range(len(whole[number])):
        for flip in (0x01, 0x80):
            initiator, responder = _initiator(role=role), _responder(accept_strangers=True)
            refused = False
            try:
                data = initiator.start()
                for step, machine in enumerate((responder, initiator, responder)):
                    if step == number:
                        damaged = bytearray(data)
                        damaged[place] ^= flip
                        data = bytes(damaged)
                    data = machine.receive_data(data)
            except RemoteProtocolError:
                refused = True
            longer = place < 2 and responder.established is None
            assert refused or longer, f"byte {place} of message {number}"
            assert responder.established is None


def test_a_failed_machine_refuses_everything_after() -> None:
    responder = _responder()
    with pytest.raises(RemoteProtocolError):
        responder.receive_data(b"\xff\xff")
    with pytest.raises(RemoteProtocolError, match="before"):
        responder.receive_data(_initiator().start())


@pytest.mark.parametrize("length", [0, 1, 33, 255, 256, 2_047, 65_535])
def test_lengths_of_message_1(length: int) -> None:
    """At least an ephemeral key, at most 256 bytes in all; refused at the length, unread."""
    with pytest.raises(RemoteProtocolError, match="out of range"):
        _responder().receive_data(length.to_bytes(2, "big"))


def test_lengths_at_the_bounds_wait_for_their_bytes() -> None:
    for length in (34, 254):
        assert _responder().receive_data(length.to_bytes(2, "big")) == b""
    initiator = _initiator()
    initiator.start()
    assert initiator.receive_data((limits.HANDSHAKE_BYTES_MAX - 2).to_bytes(2, "big")) == b""
    initiator = _initiator()
    initiator.start()
    with pytest.raises(RemoteProtocolError, match="out of range"):
        initiator.receive_data((limits.HANDSHAKE_BYTES_MAX - 1).to_bytes(2, "big"))


def test_data_before_its_turn_is_refused() -> None:
    messages = _run(_initiator(), _responder())
    with pytest.raises(RemoteProtocolError, match="turn"):
        _responder().receive_data(messages[0] + b"x")
    initiator = _initiator()
    initiator.start()
    with pytest.raises(RemoteProtocolError, match="turn"):
        initiator.receive_data(messages[1] + b"x")


def test_our_own_turns() -> None:
    initiator, responder = _initiator(), _responder()
    with pytest.raises(LocalProtocolError, match="start comes first"):
        initiator.receive_data(b"")
    _run(initiator, responder)
    with pytest.raises(LocalProtocolError):
        initiator.start()
    for machine in (initiator, responder):
        with pytest.raises(LocalProtocolError, match="belongs to records"):
            machine.receive_data(b"x")


def test_a_replayed_message_1_gives_nothing() -> None:
    """Mallory saw Alice's message 1. Bob answers it, and she can neither read nor go on."""
    recorded = _run(_initiator(), _responder())
    responder = Responder(BOB, ephemeral=b"3" * 32, accept_strangers=False)
    second = responder.receive_data(recorded[0])
    assert second[34:] != recorded[1][34:]
    assert BOB.identity not in second
    with pytest.raises(RemoteProtocolError):
        responder.receive_data(recorded[2])
    assert responder.established is None


def test_a_reflected_message_is_refused() -> None:
    initiator = _initiator()
    first = initiator.start()
    with pytest.raises(RemoteProtocolError):
        initiator.receive_data(first)


# -- identities


def _misbound(**changes: Any) -> Credentials:
    return replace(MALLORY, psks=(NEW_PSK,), **changes)


MISBOUND = {
    "alice's key, mallory's signature": _misbound(identity=ALICE.identity),
    "alice's key and signature, mallory's static": _misbound(
        identity=ALICE.identity, signature=ALICE.signature
    ),
    "alice's signature": _misbound(signature=ALICE.signature),
    "no signature": _misbound(signature=bytes(64)),
    "a low order identity": _misbound(identity=bytes(32)),
    "a signature without its domain": _misbound(
        signature=sodium.sign(b"m" * 32, MALLORY.static_public)
    ),
}


@pytest.mark.parametrize("why", MISBOUND)
def test_misbound_identities_are_refused_by_both_sides(why: str) -> None:
    initiator, responder = _initiator(MISBOUND[why]), _responder()
    third = initiator.receive_data(responder.receive_data(initiator.start()))
    with pytest.raises(RemoteProtocolError):
        responder.receive_data(third)
    assert responder.established is None
    initiator, responder = _initiator(BOB), _responder(MISBOUND[why])
    second = responder.receive_data(initiator.start())
    with pytest.raises(RemoteProtocolError):
        initiator.receive_data(second)
    assert initiator.established is None


def test_the_signature_cache_does_not_help_mallory() -> None:
    verified = keys.VerifiedKeys()
    _run(_initiator(), _responder(verified=verified))
    stolen = _misbound(identity=ALICE.identity, signature=ALICE.signature)
    initiator, responder = _initiator(stolen), _responder(verified=verified)
    third = initiator.receive_data(responder.receive_data(initiator.start()))
    with pytest.raises(RemoteProtocolError):
        responder.receive_data(third)


def test_the_initiator_stops_before_it_says_who_it_is() -> None:
    for initiator in (
        _initiator(expect=MALLORY.identity),
        _initiator(replace(BOB, name="a-copy")),  # ourselves, or a copy of our card
    ):
        second = _responder().receive_data(initiator.start())
        with pytest.raises(HandshakeRefused) as caught:
            initiator.receive_data(second)
        assert caught.value.reason == "wrong_node"
        assert caught.value.farewell == b""
    _run(_initiator(expect=BOB.identity), _responder())


def test_the_responder_checks_whom_the_peer_wants() -> None:
    """An initiator that goes on although it reached another node than it wanted."""
    with pytest.raises(HandshakeRefused) as caught:
        _tell_responder(_introduction_of(ALICE, expect=MALLORY.identity))
    assert caught.value.reason == "wrong_node"
    _tell_responder(_introduction_of(ALICE, expect=BOB.identity))


def test_a_peer_speaks_the_version_that_it_uses() -> None:
    for tell, who in ((_tell_responder, ALICE), (_tell_initiator, BOB)):
        tell(_introduction_of(who, versions=(3, 2, 1)))
        with pytest.raises(RemoteProtocolError, match="version it uses"):
            tell(_introduction_of(who, versions=(2,)))


def test_a_refusal_reaches_either_side() -> None:
    for tell in (_tell_responder, _tell_initiator):
        with pytest.raises(HandshakeRefused) as caught:
            tell(encode_refusal(Refusal("stopping", VERSIONS)))
        assert caught.value.reason == "stopping"


def test_secrets_stay_out_of_repr() -> None:
    text = repr(ALICE)
    assert repr(ALICE.static_private) not in text
    assert repr(NEW_PSK) not in text


# -- junk


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(st.binary(max_size=300), max_size=6), st.booleans())
def test_junk_raises_nothing_but_remote_protocol_error(pieces: list[bytes], started: bool) -> None:
    initiator = _initiator()
    initiator.start()
    first = _initiator(role=ROLE_STRANGER).start() if started else b""
    for machine, opening in ((initiator, b""), (_responder(accept_strangers=True), first)):
        try:
            machine.receive_data(opening)
            for piece in pieces:
                machine.receive_data(piece)
        except RemoteProtocolError:
            pass
        assert machine.established is None


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.binary(max_size=1_900), st.sampled_from([ROLE_MEMBER, ROLE_STRANGER]))
def test_a_member_with_any_payload(payload: bytes, role: int) -> None:
    """The worst peer: it has the cookie and speaks Noise, but not our messages."""
    for tell in (_tell_responder, _tell_initiator):
        with pytest.raises(RemoteProtocolError):
            tell(payload, role)
