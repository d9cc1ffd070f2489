"""Asked: a request as the callee's door sees it, in whatever form it came.

Decides what `core/requests.py` needs of a request to judge it (`Asking`, `Signer`), and of who
waits to answer him (`Asked`). A sealed request (`Sealed`) is the one form, a signed PUT
(`core/applied.py`) the other; both go through the same door.

Rejected: a base class (the forms share no code); one class with optional fields (each field would
need its own rule for when it is there).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

from drupelet.errors import RemoteProtocolError
from drupelet.wire import sodium
from drupelet.wire.requests import Reply, encode_reply


class Asked(Protocol):
    """Who waits for an answer, to which message, and what its form is.

    `hash`: of what was signed. `repeats`: a replay is answered as the first was. `blamed`: who is
    named when it is refused before a grant's key was proved.
    """

    @property
    def sender(self) -> bytes: ...
    @property
    def ident(self) -> bytes: ...
    @property
    def hash(self) -> bytes: ...
    @property
    def repeats(self) -> bool: ...
    @property
    def blamed(self) -> bytes: ...

    def dressed(
        self, seed: bytes, entropy: Callable[[int], bytes], value: bytes | None, error: bytes | None
    ) -> bytes | None:
        """The answer's bytes, signed by the identity of `seed`; None: nobody can be answered."""


class Asking(Protocol):
    """What was asked for. `arguments` may raise `CallError`."""

    @property
    def token(self) -> bytes: ...
    @property
    def grant(self) -> bytes: ...
    @property
    def target(self) -> str: ...
    @property
    def arguments(self) -> bytes: ...
    @property
    def timeout_ms(self) -> int: ...
    @property
    def idempotency_key(self) -> bytes | None: ...


class Signer(Protocol):
    """The keys that signed it; `key`: the one that was found to have."""

    @property
    def key(self) -> bytes | None: ...

    def __contains__(self, key: object, /) -> bool: ...


@dataclass(frozen=True, slots=True)
class Sealed:
    """Who waits for the answer to a sealed request."""

    sender: bytes
    ident: bytes
    hash: bytes
    reply_key: bytes
    repeats: ClassVar[bool] = True

    @property
    def blamed(self) -> bytes:
        """The account that brought it: the signature is not looked at for nothing."""
        return self.sender

    def dressed(
        self, seed: bytes, entropy: Callable[[int], bytes], value: bytes | None, error: bytes | None
    ) -> bytes | None:
        """As `Asked`."""
        signed = encode_reply(seed, Reply(request_hash=self.hash, value=value, error=error))
        try:
            return sodium.seal(entropy(32), self.reply_key, signed)
        except RemoteProtocolError:  # its reply key is none
            return None
