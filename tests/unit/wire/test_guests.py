"""How a guest comes in: every order, every damage, and what is on the wire."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drupelet.errors import (
    AuthFail,
    BadService,
    LocalProtocolError,
    NoConnection,
    RemoteProtocolError,
)
from drupelet.wire import frames, guests, limits
from drupelet.wire.guests import GuestClient, GuestServer, Secrets, turn_away

PASSWORD = b"ABXy45"
PASSWORDS = {"nameServer": PASSWORD, "other": b"something else"}


def secrets(letter: bytes) -> Secrets:
    return Secrets(static=letter * 32, ephemeral=letter.upper() * 32, private=letter * 31 + b"!")


def client(service: str = "nameServer", password: bytes = PASSWORD) -> GuestClient:
    return GuestClient(service, password, secrets(b"a"))


def server(decoy: bytes = PASSWORD) -> GuestServer:
    return GuestServer(PASSWORDS, decoy, secrets(b"b"))


def until_proof(one: GuestClient, two: GuestServer) -> list[bytes]:
    """Everything up to the proof; returns what crossed the wire."""
    wire = [one.start()]
    for receive in itertools.islice(itertools.cycle((two.receive_data, one.receive_data)), 5):
        wire.append(receive(wire[-1]))
    assert wire.pop() == b""
    assert two.tried
    return wire


def test_who_has_the_password_is_admitted() -> None:
    one, two = client(), server()
    wire = until_proof(one, two)
    assert two.proof_holds()
    assert (two.service, two.known) == ("nameServer", True)
    wire.append(two.answer(guests.WELCOME))
    assert one.receive_data(wire[-1]) == b""
    assert one.admitted is not None
    assert two.admitted is not None
    assert one.admitted.opener.receive_data(two.admitted.sealer.seal(b"to the guest")) == [
        b"to the guest"
    ]
    assert two.admitted.opener.receive_data(one.admitted.sealer.seal(b"to us")) == [b"to us"]
    crossed = b"".join(wire)
    for secret in (PASSWORD, b"nameServer"):
        assert secret not in crossed


def test_a_wrong_password_is_seen_and_refused() -> None:
    one, two = client(password=b"abxy45"), server()
    until_proof(one, two)
    assert not two.proof_holds()
    with pytest.raises(AuthFail, match="authFail: wrong password") as caught:
        one.receive_data(two.answer(guests.AUTH_FAIL))
    assert caught.value.retry_after_s == 0
    assert one.admitted is None
    assert two.admitted is None


def test_who_must_wait_is_told_so() -> None:
    one, two = client(), server()
    until_proof(one, two)
    with pytest.raises(AuthFail, match="too many wrong passwords") as caught:
        one.receive_data(two.answer(guests.AUTH_FAIL, 41.2))
    assert caught.value.retry_after_s == 42


def test_an_unknown_service_takes_the_same_steps() -> None:
    one, two = client("noServices"), server()
    unknown = until_proof(one, two)
    assert not two.known
    two_known = server()
    known = until_proof(client("nameServer"), two_known)
    assert two_known.known
    assert [len(data) for data in unknown] == [len(data) for data in known]
    assert two.proof_holds()  # whoever has the decoy's password may know
    with pytest.raises(BadService, match="badService: .* 'noServices'"):
        one.receive_data(two.answer(guests.BAD_SERVICE))


def test_an_unknown_service_looks_like_a_wrong_password() -> None:
    answers = []
    for service in ("other", "there"):
        one, two = client(service, b"a guess"), server()
        wire = until_proof(one, two)
        assert not two.proof_holds()
        answer = two.answer(guests.AUTH_FAIL)
        answers.append([len(data) for data in (*wire, answer)])
        with pytest.raises(AuthFail) as caught:
            one.receive_data(answer)
        answers[-1].append(str(caught.value))  # type: ignore[arg-type]
    assert answers[0] == answers[1]


def test_a_full_server_says_so_to_who_has_the_password() -> None:
    one, two = client(), server()
    until_proof(one, two)
    with pytest.raises(NoConnection, match="overloaded"):
        one.receive_data(two.answer(guests.FULL))


@pytest.mark.parametrize("word", [guests.WELCOME, guests.BAD_SERVICE, guests.FULL])
def test_a_false_server_convinces_nobody(word: str) -> None:
    one = client()
    two = GuestServer({"nameServer": b"a guess"}, b"", secrets(b"b"))
    until_proof(one, two)
    with pytest.raises(AuthFail, match="does not know the password either"):
        one.receive_data(two.answer(word))
    assert one.admitted is None


def test_who_sits_in_the_middle_has_nothing() -> None:
    """Mallory ends both handshakes and carries the shares and the proof across."""
    alice, bob = client(), server()
    to_alice = GuestServer({"nameServer": b"?"}, b"", secrets(b"m"))
    to_bob = GuestClient("nameServer", b"?", secrets(b"n"))
    to_alice.receive_data(alice.receive_data(to_alice.receive_data(alice.start())))
    bob.receive_data(to_bob.receive_data(bob.receive_data(to_bob.start()))[: 2 + 64])
    for her in (to_bob, to_alice):
        assert her._sealer is not None
        her._sealer._counter = 0  # her own request and share are not sent
    assert alice._cpace is not None
    assert bob.receive_data(to_bob._seal(["request", "nameServer", alice._cpace.public]))
    assert bob._cpace is not None
    proof = alice.receive_data(to_alice._seal(["share", bob._cpace.public]))
    assert to_alice._opener is not None
    bob.receive_data(to_bob._seal(guests._message(to_alice._opener.receive_data(proof)[0])))
    assert bob.tried
    assert not bob.proof_holds(), "another handshake, another key"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 50])
def test_every_chunking(size: int) -> None:
    one, two = client(), server()
    data, receive = one.start(), two.receive_data
    for _ in range(5):
        answer = b"".join(receive(data[at : at + size]) for at in range(0, len(data), size))
        receive = one.receive_data if receive == two.receive_data else two.receive_data
        data = answer
    assert two.proof_holds()


def test_turned_away_at_the_door() -> None:
    for word, seconds, error in (
        (guests.AUTH_FAIL, 59.1, AuthFail),
        (guests.FULL, 0.0, NoConnection),
    ):
        one = client()
        one.start()
        data = turn_away(word, seconds)
        assert one.receive_data(data[:3]) == b""
        with pytest.raises(error) as caught:
            one.receive_data(data[3:])
        if isinstance(caught.value, AuthFail):
            assert caught.value.retry_after_s == 60
    for wrong in (b"\0\0\0\0", b"\0\0\2\0", b"\0\0\3\1", b"\0\0\4\0", b"\0\0\1\1\0"):
        one = client()
        one.start()
        with pytest.raises(RemoteProtocolError):
            one.receive_data(wrong)


def test_seconds_have_a_maximum() -> None:
    assert turn_away(guests.AUTH_FAIL, 255.0)[3] == 255
    assert turn_away(guests.AUTH_FAIL, 256.0)[3] == 255
    assert turn_away(guests.AUTH_FAIL, -1.0)[3] == 0


def test_bytes_before_the_password_have_a_maximum() -> None:
    for more in (0, 1):
        two = server()
        two._received_bytes = limits.HANDSHAKE_BYTES_MAX - 1
        if more:
            with pytest.raises(RemoteProtocolError, match="too many bytes"):
                two.receive_data(b"\0\x21")
        else:
            assert two.receive_data(b"\0") == b""


def test_a_services_name_has_a_maximum() -> None:
    most = "s" * limits.NAME_CHARS_MAX
    until_proof(client(most), server())
    for wrong in ("", most + "s"):
        with pytest.raises(LocalProtocolError):
            client(wrong)
        one, two = client(), server()
        one._service = wrong
        with pytest.raises(RemoteProtocolError, match="name"):
            until_proof(one, two)


def test_another_version_is_closed_on() -> None:
    first = bytearray(client().start())
    first[2] = 2
    with pytest.raises(RemoteProtocolError, match="version"):
        server().receive_data(bytes(first))


def test_data_before_its_turn() -> None:
    one, two = client(), server()
    first = one.start()
    with pytest.raises(RemoteProtocolError, match="before its turn"):
        two.receive_data(first + b"\0")
    second = server().receive_data(first)
    with pytest.raises(RemoteProtocolError, match="before its turn"):
        one.receive_data(second + b"\0")
    for machine in (one, two):
        with pytest.raises(RemoteProtocolError, match="failed before"):
            machine.receive_data(b"")


@pytest.mark.parametrize(
    "message",
    [
        ["request", "nameServer", b"s" * 32],  # a second one
        ["share", b"s" * 32],
        ["proof", "text"],
        ["proof", b"t", 1],
        ["welcome"],
        [],
        {},
        None,
        7,
        ["proof"],
    ],
)
def test_only_a_proof_follows_the_share(message: list[object]) -> None:
    one, two = client(), server()
    data = one.receive_data(two.receive_data(one.start()))
    two.receive_data(data)
    with pytest.raises(RemoteProtocolError):
        two.receive_data(one._seal(message))
    assert not two.tried


@pytest.mark.parametrize(
    "message",
    [
        ["answer", "maybe", b"", 0],
        ["answer", "welcome", b"", True],
        ["answer", "authFail", b"", -1],
        ["answer", "authFail", b"", 256],
        ["answer", "authFail", b""],
        ["share", b"s" * 32],
    ],
)
def test_answers_that_cannot_be(message: list[object]) -> None:
    one, two = client(), server()
    until_proof(one, two)
    with pytest.raises(RemoteProtocolError):
        one.receive_data(two._seal(message))


def test_a_low_order_share_is_refused() -> None:
    one, two = client(), server()
    two.receive_data(one.receive_data(two.receive_data(one.start()))[: 2 + 64])
    with pytest.raises(RemoteProtocolError):
        two.receive_data(one._seal(["request", "nameServer", bytes(32)]))


def test_two_messages_in_a_record_or_another_frame() -> None:
    for frame in (b"", frames.frame(frames.DATA, 0, b"\0")):
        one, two = client(), server()
        until_proof(one, two)
        assert one._sealer is not None
        hello = frames.frame(frames.HELLO, 0, b"\x80")
        with pytest.raises(RemoteProtocolError, match="not one message"):
            two.receive_data(one._sealer.seal(frame or hello + hello))


def test_our_own_order() -> None:
    one, two = client(), server()
    with pytest.raises(LocalProtocolError, match="start comes first"):
        client().receive_data(b"\0")
    one.start()
    with pytest.raises(LocalProtocolError):
        one.start()
    for early in (two.proof_holds, lambda: two.answer(guests.WELCOME)):
        with pytest.raises(LocalProtocolError):
            early()
    one, two = client(), server()
    until_proof(one, two)
    with pytest.raises(LocalProtocolError):
        two.answer("maybe")
    two.answer(guests.WELCOME)
    with pytest.raises(LocalProtocolError):
        two.answer(guests.WELCOME)


def test_secrets_show_nowhere() -> None:
    one, two = client(), server()
    until_proof(one, two)
    assert repr(secrets(b"a")) == "Secrets(...)"
    assert one._password == b""
    for machine in (one, two):
        assert "ABXy45" not in repr(machine)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_change_on_the_way_ends_it(data: st.DataObject) -> None:
    one, two = client(), server()
    message, receive = one.start(), two.receive_data
    which = data.draw(st.integers(0, 4))
    changed = False
    try:
        for step in range(5):
            if step == which:
                place = data.draw(st.integers(0, len(message) - 1))
                bit = data.draw(st.integers(0, 7))
                damaged = bytearray(message)
                damaged[place] ^= 1 << bit
                message, changed = bytes(damaged), True
            message = receive(message)
            receive = one.receive_data if receive == two.receive_data else two.receive_data
            if not message and step < 4:
                return  # a length grew: it waits for more
    except (RemoteProtocolError, AuthFail, NoConnection):
        return
    assert changed
    assert not two.tried or not two.proof_holds()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=120), max_size=6), st.booleans())
def test_junk_raises_nothing_but_what_it_may(pieces: list[bytes], to_server: bool) -> None:
    machine: GuestClient | GuestServer = server() if to_server else client()
    if isinstance(machine, GuestClient):
        machine.start()
    try:
        for piece in pieces:
            machine.receive_data(piece)
    except RemoteProtocolError:
        pass
    except (AuthFail, NoConnection):
        assert not to_server
    assert machine.admitted is None
