"""HTTP calls at the callee: a signed PUT, as a relay hands it on, at the door of all requests.

Decides what becomes of each PUT (`wire/http_calls.py`): whether its signature holds, whether it is
for this node, and then what `core/requests.py` says of any request: fresh, granted, admitted.

    calls = HttpCalls(callee, seed, "alice")
    calls.receive(ident, body, now)       # a Run, an Answer to send, or None; as Callee.receive

Rules
- The relay is not believed: signature, digest, path and grant are looked at here, whatever it says.
- A replay is refused (409), not answered again: who asks twice over HTTP is not known to be the one
  who asked first. A call that must be asked for again has an Idempotency-Key.
- The relay may deliver one PUT twice, under one id: that is no replay, and is answered once.
- Everything is answered and the answer signed, also a refusal: a relay cannot make one up. That
  nobody signed a PUT is said to no PUT in particular (its `signature` is taken to be "unsigned"): a
  relay that alters a copy must not get a word on the one that was signed, and perhaps runs.

Rejected: looking at `created` (a node may have no clock: the token says how old a PUT is).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

from drupelet.core.asked import Asked
from drupelet.core.requests import Answer, Callee, Run
from drupelet.errors import (
    CallError,
    NoConnection,
    RemoteError,
    RemoteProtocolError,
    error_to_fields,
)
from drupelet.wire import sodium
from drupelet.wire.codec import dumps
from drupelet.wire.http_calls import (
    UNSIGNED,
    AppliedPut,
    answer_to,
    arguments_of,
    check_body,
    decode_put,
    encode_answer,
    once_key,
    split_path,
)
from drupelet.wire.http_signatures import OpenedPut, open_put, read_bytes_field, verify_put
from drupelet.wire.keys import key_to_text
from drupelet.wire.limits import APPLY_SEEN_MAX
from drupelet.wire.relay import APPLY_KEY


@dataclass(frozen=True, slots=True)
class _Waiting:
    """Who waits for the answer to a PUT."""

    applied: AppliedPut
    ident: bytes
    hash: bytes
    blamed: bytes
    sender: ClassVar[bytes] = APPLY_KEY
    repeats: ClassVar[bool] = False

    def dressed(
        self,
        seed: bytes,
        entropy: Callable[[int], bytes],
        value: bytes | None,
        error: bytes | None,
    ) -> bytes | None:
        """As `Asked`."""
        return encode_answer(answer_to(seed, self.applied, value, error))


class _Put:
    """What a PUT asks for: as `Asking`."""

    def __init__(self, applied: AppliedPut, opened: OpenedPut, grant: bytes, target: str) -> None:
        self._applied = applied
        self.token = opened.token
        self.grant = grant
        self.target = target
        self.timeout_ms = applied.wait_ms
        once = applied.put.idempotency_key
        self.idempotency_key = None if once is None else once_key(once)

    @cached_property
    def arguments(self) -> bytes:
        """Read when all else is good. Raises: `RemoteError`."""
        return arguments_of(self._applied)


class _Signed:
    """Who signed a PUT, which was verified: as `Signer`. `key`: when a grant of ours is for it."""

    def __init__(self, signer: bytes) -> None:
        self._signer = signer
        self.key: bytes | None = None

    def __contains__(self, key: object) -> bool:
        if key != self._signer:
            return False
        self.key = self._signer
        return True


class HttpCalls:
    """The PUTs that come to the node of identity `seed`, which is called `name`."""

    def __init__(self, callee: Callee, seed: bytes, name: str) -> None:
        self._callee = callee
        self._seed = seed
        self._names = (key_to_text(sodium.ed25519_public(seed)), name)
        self._seen: dict[bytes, bytes] = {}  # hash -> the id that it came with first

    def receive(self, ident: bytes, body: bytes, now: float) -> Run | Answer | None:
        """A PUT, brought under the id `ident`."""
        self._callee.handle_timer(now)
        try:
            applied = decode_put(body)
        except RemoteProtocolError:  # of no relay of ours
            self._callee.dropped_count += 1
            return None
        asked = _Waiting(applied, ident, b"", b"")
        try:
            opened = open_put(applied.put)
            check_body(applied)
            verify_put(opened)
            node, mission, function = split_path(applied.put.path)
            grant = read_bytes_field(applied.put.grant)
        except RemoteProtocolError as error:
            nobody = replace(applied, put=replace(applied.put, signature=UNSIGNED))
            asked = _Waiting(nobody, ident, b"", b"")
            return self._refused(asked, RemoteError(UNSIGNED, str(error)))
        if node not in self._names:
            return self._refused(asked, NoConnection("no_such_node"))
        first = self._seen.get(opened.hash)
        if first == ident:  # the relay brings it again, and it was answered or runs
            return None
        if first is None:
            if len(self._seen) >= APPLY_SEEN_MAX:
                del self._seen[next(iter(self._seen))]
            self._seen[opened.hash] = ident
        asked = _Waiting(applied, ident, opened.hash, opened.key)
        asking = _Put(applied, opened, grant, f"{mission}/{function}")
        return self._callee.judge(asked, asking, _Signed(opened.key), now)

    def _refused(self, asked: Asked, error: CallError) -> Answer | None:
        """Nothing of it is remembered: anybody could have sent it."""
        body = asked.dressed(self._seed, _none, None, dumps(error_to_fields(error)))
        return None if body is None else Answer(to=asked.sender, re=asked.ident, body=body)


def _none(size: int) -> bytes:
    """A signature needs no entropy."""
    return bytes(size)
