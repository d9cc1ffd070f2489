"""The way to a relay, whatever carries it: what `relay_socket` and `relay_http` have in common.

Decides where a relay is and by whose word it is that one, and which failures there are. What is
said is `wire/relay.py`; when, and by which way, `services/relay_link.py` and `core/relay_choice.py`
decide.

    async with open_socket(place) as way:        # or open_http(place)
        await way.login()
        asked = await way.begin(Send(...))       # several may be under way
        value = await asked.value()
        for message in await way.messages(): ...

Rules
- TLS is verified, by the system's certificate authorities or by a file of them. Without TLS only
  on this machine: `split_url`.
- Every failure of the way is `RelayGone`, or one of those below it; a refusal of the relay is
  `RelayRefused`.
- Questions are answered in their order. A way that failed answers no more: each question that
  waits, and each later one, fails with it.
"""

from __future__ import annotations

import ipaddress
import ssl
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import trio

from drupelet.errors import DrupeletError, RemoteProtocolError
from drupelet.wire.relay import (
    VERSION,
    Deliver,
    Done,
    FromNode,
    FromRelay,
    Hello,
    Login,
    Refused,
    Register,
    RelayRefused,
    decode_from_relay,
    prove,
)
from drupelet.wire.sodium import ed25519_public

# X509_V_ERR_*: self-signed, alone or in the chain; its issuer is not known; no first signature.
_UNKNOWN_AUTHORITY: Final = (18, 19, 20, 21)
ANSWER_S: Final = 15.0  # for an answer, and for a connection


class RelayGone(DrupeletError):
    """The relay cannot be reached, or speaks something else."""


class RelaySilent(RelayGone):
    """The connection is there, and nothing comes: the way is dead, or the relay frozen."""


class NotPassed(RelayGone):
    """Something answers there, but not with a WebSocket: perhaps HTTP passes."""


class RelayCut(RelayGone):
    """The connection ended without a word."""


class Asked(Protocol):
    """A question under way."""

    async def value(self) -> Any:
        """The value of its answer. Raises: `RelayGone`, `RelayRefused`."""
        ...


class RelayWay(Protocol):
    """One connection to a relay."""

    run_id: bytes  # of the relay, for announcements

    async def login(self) -> None:
        """Prove our key. Raises: `RelayGone`, `RelayRefused`."""
        ...

    async def register(
        self, name: str, *, invite: bytes | None = None, email: str | None = None
    ) -> None:
        """Make an account: with an invite's code, or for the owner to approve. Raises: as login."""
        ...

    async def begin(self, message: FromNode) -> Asked:
        """Ask; waits only while too much is under way. `ref` is put in. Raises: `RelayGone`."""
        ...

    async def ask(self, message: FromNode) -> Any:
        """Ask, and wait for the value. Raises: `RelayGone`, `RelayRefused`."""
        ...

    async def messages(self) -> list[Deliver]:
        """What came; waits until there is something. Raises: `RelayGone`, `RelayRefused`."""
        ...


class Place:
    """The relay at `url`, for the node whose identity is `seed`. `ca_file`: whom to believe.

    Raises: `ValueError` for an address that is none.
    """

    def __init__(self, url: str, seed: bytes, ca_file: Path | None = None) -> None:
        self.url = url
        self.tls, self.host, self.port = split_url(url)
        self._seed = seed
        self._key = ed25519_public(seed)
        self._ca_file = ca_file
        self._context: ssl.SSLContext | None = None

    def login(self, nonce: bytes) -> Login:
        """The proof of our key, for that nonce."""
        signature = prove(self._seed, "login", self.host, nonce)
        return Login(ref=0, key=self._key, audience=self.host, signature=signature)

    def registration(
        self, nonce: bytes, name: str, *, invite: bytes | None, email: str | None
    ) -> Register:
        """The same, for an account."""
        return Register(
            ref=0,
            key=self._key,
            audience=self.host,
            signature=prove(self._seed, "register", self.host, nonce),
            name=name,
            invite=invite,
            email=email,
        )

    def context(self) -> ssl.SSLContext:
        """TLS as this node wants it. Reads files: in a thread. Raises: `RelayGone`."""
        if self._context is None:
            try:
                self._context = ssl.create_default_context(
                    cafile=str(self._ca_file) if self._ca_file is not None else None
                )
            except (OSError, ssl.SSLError) as error:
                raise RelayGone(f"[relay] ca_file {self._ca_file}: {error}") from None
        return self._context

    async def connect(self) -> trio.abc.Stream:
        """A connection, with TLS where the address says so. Raises: `RelayGone`."""
        try:
            with trio.fail_after(ANSWER_S):
                stream: trio.SocketStream = await trio.open_tcp_stream(self.host, self.port)
                if not self.tls:
                    return stream
                try:
                    context = await trio.to_thread.run_sync(self.context)
                    secure = trio.SSLStream(
                        stream, context, server_hostname=self.host, https_compatible=True
                    )
                    await secure.do_handshake()
                    return secure
                except BaseException:
                    stream.socket.close()
                    raise
        except trio.TooSlowError:
            raise RelayGone(f"{self.host} does not answer at port {self.port}") from None
        except (OSError, trio.BrokenResourceError) as error:
            raise RelayGone(said(error)) from None


def split_url(url: str) -> tuple[bool, str, int]:
    """Whether it is TLS, the host, the port. Raises: `ValueError` with what is wrong."""
    parts = urlsplit(url)
    if parts.scheme not in ("https", "http") or not parts.hostname:
        raise ValueError("a relay's address is https://HOST")
    if parts.username or parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError("a relay's address is https://HOST or https://HOST:PORT and no more")
    if parts.scheme == "http" and not _is_loopback(parts.hostname):
        raise ValueError("http is for this machine only; use https")
    return parts.scheme == "https", parts.hostname, parts.port or (443, 80)[parts.scheme == "http"]


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def said(error: BaseException) -> str:
    """What a failure of the network is, for a person."""
    while isinstance(error.__cause__, OSError | ExceptionGroup):
        error = error.__cause__
    if isinstance(error, ExceptionGroup):  # one for each address
        error = error.exceptions[0]
    if isinstance(error, ssl.SSLCertVerificationError):
        what = f"its certificate does not hold: {error.verify_message}"
        unknown = getattr(error, "verify_code", 0) in _UNKNOWN_AUTHORITY
        return f"{what}; for an authority of your own set ca_file" if unknown else what
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__)[:200]


def decoded(data: bytes) -> FromRelay:
    """A message of the relay. Raises: `RelayGone`."""
    try:
        return decode_from_relay(data)
    except RemoteProtocolError as error:
        raise RelayGone(f"what answers speaks no relay's language: {error}") from None


def hello_of(message: FromRelay) -> Hello:
    """The relay's first word. Raises: `RelayGone`."""
    if not isinstance(message, Hello):
        raise RelayGone("no relay answers there")
    if message.version != VERSION:
        raise RelayGone(
            f"the relay speaks version {message.version}, this node {VERSION}: update the older"
        )
    return message


def value_of(answer: FromRelay, ref: int | None = None) -> Any:
    """The value of an answer to the question `ref`. Raises: `RelayGone`, `RelayRefused`."""
    if isinstance(answer, Refused):
        raise RelayRefused(answer.code, answer.text, answer.retry_after_ms / 1_000)
    if not isinstance(answer, Done) or (ref is not None and answer.ref != ref):
        raise RelayGone("an answer to another question")
    return answer.value
