"""How a guest comes in: an encrypted link first, then the password's proof inside it.

Decides the bytes of a chan connection from the first one until both sides know that the other one
has the password. Two byte machines, `GuestClient` and `GuestServer`:

    client -> server   length:u16 version:u8 noise-message-1
    client <- server   length:u16 noise-message-2      or, turned away: 00 00 word:u8 seconds:u8
    client -> server   length:u16 noise-message-3

Noise_XX with throw-away static keys and empty payloads: it keeps out who only listens, and names
nobody. From here on records (records.py), each with one HELLO frame, id 0, its body a CBOR array:

    client -> server   ["request", service, share]
    client <- server   ["share", share]
    client -> server   ["proof", tag]
    client <- server   ["answer", word, tag, seconds]    word: welcome authFail badService full

Shares and tags are those of CPace (cpace.py) with the handshake hash as session id. Who sits in
the middle has two handshakes with two hashes, so neither proof fits.

Rules it keeps
- One guess for each connection, in either direction: the client proves first; the server counts
  it; a client's own proof tells a false server whether its one guess was right and no more.
- An answer says more than "authFail" only with the server's tag in it, so only to who has proved
  a password, and only from who has it: a service that does not exist is met with the password of
  another one (`decoy`), and takes the same steps and the same time.
- The server decides nothing: `tried` says that a proof came, the driver asks `proof_holds` unless
  the address has to wait, and gives the word to `answer`.
- Nothing is accepted out of turn, and lengths are exact; a failed machine refuses everything after.

References: Noise revision 34, section 11.2 (channel binding); adr/0011-chan.md; docs/PROTOCOL.md.

Ideas rejected: CPace in the payloads of the handshake (the hash to bind is not final there, and one
round trip less is worth nothing here); the server's tag first (each connection that is cut
would be a guess that nobody counts); `badService` before the password (names could be tried out).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from drupelet.errors import (
    AuthFail,
    BadService,
    LocalProtocolError,
    NoConnection,
    RemoteProtocolError,
)
from drupelet.wire import codec, frames, limits
from drupelet.wire.cpace import CPace, lv_cat
from drupelet.wire.noise import HandshakeState
from drupelet.wire.records import RecordOpener, RecordSealer
from drupelet.wire.sodium import x25519_public

VERSION: Final = 1
PROTOCOL_NAME: Final = "Noise_XX_25519_ChaChaPoly_BLAKE2s"

WELCOME: Final = "welcome"
AUTH_FAIL: Final = "authFail"
BAD_SERVICE: Final = "badService"
FULL: Final = "full"
_WORDS: Final = (WELCOME, AUTH_FAIL, BAD_SERVICE, FULL)

_LENGTH_BYTES: Final = 2
_FIRST_BYTES: Final = 1 + 32  # version, ephemeral key
_SECOND_BYTES: Final = 32 + 48 + 16  # ephemeral key, static key with tag, tag of no payload
_THIRD_BYTES: Final = 48 + 16
_DOOR_BYTES: Final = 4
_SECONDS_MAX: Final = 255
_GUEST: Final = b"guest"
_SERVICE: Final = b"service"


@dataclass(frozen=True, slots=True, kw_only=True)
class Secrets:
    """Fresh random bytes of one connection, 32 each. Out of every `repr`."""

    static: bytes
    ephemeral: bytes
    private: bytes

    def __repr__(self) -> str:
        return "Secrets(...)"


@dataclass(frozen=True, slots=True)
class Admitted:
    """Both sides have the password: what seals and opens the records from here on."""

    sealer: RecordSealer
    opener: RecordOpener


def turn_away(word: str, seconds: float = 0.0) -> bytes:
    """What a server says at the door instead of shaking hands: "authFail" (wait) or "full"."""
    return bytes((0, 0, _WORDS.index(word), _whole_seconds(seconds)))


def _whole_seconds(seconds: float) -> int:
    return max(0, min(_SECONDS_MAX, math.ceil(seconds)))


def _prologue() -> bytes:
    return b"drupelet chan" + bytes((VERSION,)) + PROTOCOL_NAME.encode()


class _Machine:
    """What both sides share: the handshake, a bounded buffer, messages in records."""

    __slots__ = (
        "_buffer",
        "_cpace",
        "_failed",
        "_noise",
        "_opener",
        "_received_bytes",
        "_sealer",
        "_secrets",
        "_session",
        "_step",
        "admitted",
    )
    _initiator: ClassVar[bool]

    def __init__(self, secrets: Secrets) -> None:
        self._secrets = secrets
        self._noise = HandshakeState(
            PROTOCOL_NAME,
            initiator=self._initiator,
            prologue=_prologue(),
            s=secrets.static,
            e=secrets.ephemeral,
            s_public=x25519_public(secrets.static),
        )
        self._buffer = b""
        self._received_bytes = 0
        self._failed = False
        self._step = 0
        self._session = b""
        self._sealer: RecordSealer | None = None
        self._opener: RecordOpener | None = None
        self._cpace: CPace | None = None
        self.admitted: Admitted | None = None

    def receive_data(self, data: bytes) -> bytes:
        """Take bytes as they came; return what to send now, or nothing yet.

        Raises: `RemoteProtocolError`: close. The client also `AuthFail`, `BadService` and
        `NoConnection`, for the server's answer.
        """
        if self._failed:
            raise RemoteProtocolError("the connection failed before")
        self._failed = True  # until this read has proved itself
        self._received_bytes += len(data)
        if self._received_bytes > limits.HANDSHAKE_BYTES_MAX:
            raise RemoteProtocolError("too many bytes before the password")
        self._buffer += data
        answer = b"" if self._opener is not None else self._shake_hands()
        if self._opener is not None and self._buffer:
            data, self._buffer = self._buffer, b""
            for record in self._opener.receive_data(data):
                answer += self._take(_message(record))
        self._failed = False
        return answer

    def _shake_hands(self) -> bytes:
        raise NotImplementedError

    def _take(self, message: Any) -> bytes:
        raise NotImplementedError

    def _next_body(self, length: int, *, last: bool = False) -> bytes | None:
        """One handshake message of that length off the buffer; None while it is unfinished."""
        buffer = self._buffer
        if len(buffer) < _LENGTH_BYTES:
            return None
        if int.from_bytes(buffer[:_LENGTH_BYTES], "big") != length:
            raise RemoteProtocolError("handshake message of another length")
        following = _LENGTH_BYTES + length
        if len(buffer) < following:
            return None
        if len(buffer) > following and not last:
            raise RemoteProtocolError("data before its turn")
        self._buffer = buffer[following:]
        return buffer[_LENGTH_BYTES:following]

    def _begin_records(self) -> None:
        self._session = self._noise.handshake_hash
        to_server, to_client = self._noise.split()
        send, receive = (to_server, to_client) if self._initiator else (to_client, to_server)
        self._sealer = RecordSealer(send)
        self._opener = RecordOpener(receive)

    def _start_cpace(self, password: bytes, service: str) -> CPace:
        self._cpace = CPace(
            password,
            channel=lv_cat(_prologue(), service.encode()),
            session=self._session,
            private=self._secrets.private,
            initiator=self._initiator,
            associated=_GUEST if self._initiator else _SERVICE,
        )
        return self._cpace

    def _seal(self, message: list[object]) -> bytes:
        assert self._sealer is not None
        return self._sealer.seal(frames.frame(frames.HELLO, 0, codec.dumps(message)))

    def _admit(self) -> None:
        assert self._sealer is not None
        assert self._opener is not None
        self.admitted = Admitted(self._sealer, self._opener)


def _message(record: bytes) -> Any:
    match frames.split_record(record):
        case [frames.Frame(kind=frames.HELLO, ident=0, body=body)]:
            return codec.loads_control(body)
    raise RemoteProtocolError("not one message in a record")


def _framed(body: bytes) -> bytes:
    return len(body).to_bytes(_LENGTH_BYTES, "big") + body


class GuestClient(_Machine):
    """Byte machine of the side that has dialled. The password is gone after the server's share."""

    _initiator = True
    __slots__ = ("_password", "_service")

    def __init__(self, service: str, password: bytes, secrets: Secrets) -> None:
        if not 0 < len(service) <= limits.NAME_CHARS_MAX:
            raise LocalProtocolError(f"a service has 1 to {limits.NAME_CHARS_MAX} characters")
        super().__init__(secrets)
        self._service = service
        self._password = password

    def start(self) -> bytes:
        """The first message, once."""
        if self._step:
            raise LocalProtocolError("the first message was made before")
        self._step = 1
        return _framed(bytes((VERSION,)) + self._noise.write_message())

    def _shake_hands(self) -> bytes:
        if self._step != 1:
            raise LocalProtocolError("start comes first")
        if self._buffer[:_LENGTH_BYTES] == bytes(_LENGTH_BYTES):
            if len(self._buffer) >= _DOOR_BYTES:
                self._turned_away(self._buffer)
            return b""
        body = self._next_body(_SECOND_BYTES)
        if body is None:
            return b""
        if self._noise.read_message(body):
            raise RemoteProtocolError("the handshake carries no payload")
        message = _framed(self._noise.write_message())
        self._begin_records()
        self._step = 2
        cpace = self._start_cpace(self._password, self._service)
        self._password = b""
        return message + self._seal(["request", self._service, cpace.public])

    def _turned_away(self, buffer: bytes) -> None:
        """Nothing proves this one; who could forge it could as well cut the connection."""
        match tuple(buffer):
            case (0, 0, 1, seconds):
                raise _wait(seconds)
            case (0, 0, 3, 0):
                raise NoConnection("overloaded")
        raise RemoteProtocolError("turned away for an unknown reason")

    def _take(self, message: Any) -> bytes:
        cpace = self._cpace
        assert cpace is not None
        match message:
            case ["share", bytes(share)] if self._step == 2:
                self._step = 3
                cpace.receive(share, _SERVICE)
                return self._seal(["proof", cpace.proof()])
            case ["answer", str(word), bytes(tag), int(seconds)] if self._step == 3:
                self._step = 4
                self._answered(cpace.proves(tag), word, seconds)
                return b""
        raise RemoteProtocolError("not what comes next")

    def _answered(self, proved: bool, word: str, seconds: int) -> None:
        if type(seconds) is not int or not 0 <= seconds <= _SECONDS_MAX or word not in _WORDS:
            raise RemoteProtocolError("an answer that cannot be")
        if word == AUTH_FAIL and seconds:
            raise _wait(seconds)
        if word == AUTH_FAIL:
            raise AuthFail("wrong password, or the server has no service of that name")
        if not proved:
            raise AuthFail("what answers there does not know the password either")
        if word == BAD_SERVICE:
            raise BadService(self._service)
        if word == FULL:
            raise NoConnection("overloaded")
        self._admit()


def _wait(seconds: int) -> AuthFail:
    return AuthFail(
        f"too many wrong passwords from this address; the server waits {seconds} s", float(seconds)
    )


class GuestServer(_Machine):
    """Byte machine of the side that has accepted.

    `passwords`: by service. `decoy`: what a service that is not there pretends to have.
    """

    _initiator = False
    __slots__ = ("_decoy", "_passwords", "_tag", "known", "service", "tried")

    def __init__(self, passwords: Mapping[str, bytes], decoy: bytes, secrets: Secrets) -> None:
        super().__init__(secrets)
        self._passwords = passwords
        self._decoy = decoy
        self._tag = b""
        self.service = ""
        self.known = False  # whether there is a service of that name
        self.tried = False  # a proof came and waits for `answer`

    def _shake_hands(self) -> bytes:
        if self._step == 0:
            body = self._next_body(_FIRST_BYTES)
            if body is None:
                return b""
            if body[0] != VERSION:
                raise RemoteProtocolError("another version of the protocol")
            self._step = 1
            if self._noise.read_message(body[1:]):
                raise RemoteProtocolError("the handshake carries no payload")
            return _framed(self._noise.write_message())
        body = self._next_body(_THIRD_BYTES, last=True)
        if body is not None:
            if self._noise.read_message(body):
                raise RemoteProtocolError("the handshake carries no payload")
            self._begin_records()
            self._step = 2
        return b""

    def _take(self, message: Any) -> bytes:
        match message:
            case ["request", str(service), bytes(share)] if self._step == 2:
                if not 0 < len(service) <= limits.NAME_CHARS_MAX:
                    raise RemoteProtocolError("a service without a name, or with a long one")
                self._step = 3
                self.service = service
                password = self._passwords.get(service)
                self.known = password is not None
                cpace = self._start_cpace(self._decoy if password is None else password, service)
                cpace.receive(share, _GUEST)
                return self._seal(["share", cpace.public])
            case ["proof", bytes(tag)] if self._step == 3:
                self._step = 4
                self._tag = tag
                self.tried = True
                return b""
        raise RemoteProtocolError("not what comes next")

    def proof_holds(self) -> bool:
        """Whether the guest has the password (the decoy, if there is no such service)."""
        if not self.tried:
            raise LocalProtocolError("no proof waits")
        assert self._cpace is not None
        return self._cpace.proves(self._tag)

    def answer(self, word: str, retry_after_s: float = 0.0) -> bytes:
        """The last message; after "welcome" the guest is `admitted`, after others: close.

        `retry_after_s`: with "authFail", so long no try counts. "authFail" carries no tag of ours:
        to who does not have the password it would be a thing to guess against.
        """
        if not self.tried or word not in _WORDS:
            raise LocalProtocolError("no proof waits, or there is no such word")
        self.tried = False
        assert self._cpace is not None
        tag = b"" if word == AUTH_FAIL else self._cpace.proof()
        data = self._seal(["answer", word, tag, _whole_seconds(retry_after_s)])
        if word == WELCOME:
            self._admit()
        return data
