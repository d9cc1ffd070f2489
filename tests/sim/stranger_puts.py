"""Signed PUTs of the simulated run: somebody with curl, at an honest machine, and a node's door.

Decides what who asks believes: an answer that the callee signed to this very PUT. What it then says
of whether the call ran, it says as `drupelet` would: a fresh signature is asked for only where the
first was not run, and the node's word on that holds however late it comes.

A PUT is not sealed. What is asked and answered this way is no secret; all else holds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from drupelet.core.http_calls import HttpCalls
from drupelet.errors import (
    CallError,
    NoConnection,
    NotPermitted,
    RateLimited,
    RemoteError,
    RemoteProtocolError,
    Revoked,
    Timeout,
)
from drupelet.wire.announcements import Beacon
from drupelet.wire.codec import loads
from drupelet.wire.http_calls import (
    CBOR,
    AppliedAnswer,
    AppliedPut,
    decode_answer,
    encode_put,
    path_to,
)
from drupelet.wire.http_signatures import (
    SignedPut,
    bytes_field,
    digest_of,
    sign_put,
    verify_answer,
)
from tests.sim.stranger_ledger import Attempt
from tests.sim.stranger_relay import Message

if TYPE_CHECKING:
    from tests.sim.stranger_nodes import HonestNode

WAIT_S = 150.0  # longer than any relay of ours makes him wait


@dataclass(frozen=True, eq=False)
class Heard:
    """A PUT as the relay has it, and whose it is."""

    applied: AppliedPut
    callee: str
    message: Message


class Puts:
    """Those that come to a node, and those that somebody there sends; of one boot."""

    def __init__(self, node: HonestNode) -> None:
        self.node = node
        self.door = HttpCalls(node.callee, node.seed, node.name)
        self.waiting: dict[bytes, tuple[Attempt, SignedPut]] = {}

    def send(self, attempt: Attempt, beacon: Beacon) -> None:
        """A signed PUT goes to the relay."""
        node, deed = self.node, attempt.deed
        mission, _, function = deed.target.partition("/")
        unsigned = SignedPut(
            path=path_to(deed.callee, mission, function),
            content_type=CBOR,
            content_digest=digest_of(deed.arguments),
            grant=bytes_field(deed.chain.data),
            idempotency_key=deed.key_text or None,
        )
        seed = deed.chain.bearer_seed or node.seed
        nonce = beacon.token + node.world.random.randbytes(16)
        signature_input, signature = sign_put(seed, unsigned, created=1, nonce=nonce)
        put = replace(unsigned, signature_input=signature_input, signature=signature)
        applied = AppliedPut(put=put, body=deed.arguments, wait_ms=60_000, cbor=True)
        ident = node.world.random.randbytes(16)
        body = encode_put(applied)
        message = Message(node.key, beacon.key, ident, None, body, put=True)
        message.deed = deed
        self.waiting[ident] = (attempt, put)
        node.world.puts.append(Heard(applied, deed.callee, message))
        node.world.hears_put()
        node.world.relay.put(message)
        node.later(WAIT_S, self._due, ident)

    def _due(self, ident: bytes) -> None:
        if ident in self.waiting:
            attempt, _ = self.waiting.pop(ident)
            self.node.world.told(self.node, attempt, Timeout(maybe_ran=True))

    def on_answer(self, ident: bytes, body: bytes) -> bool:
        """The relay says that this is the answer; whether it is believed."""
        if ident not in self.waiting:
            return False
        attempt, put = self.waiting[ident]
        callee = self.node.world.keys[attempt.deed.callee]
        try:
            answer = decode_answer(body)
            fields = (answer.content_digest, answer.signature_input, answer.signature)
            verify_answer(callee, put, answer.status, answer.content_type, *fields)
            result = _result(answer)
        except RemoteProtocolError:
            return False
        del self.waiting[ident]
        if isinstance(result, Timeout) and not result.maybe_ran:
            self.node.world.effects["put_again"] += 1
        self.node.world.told(self.node, attempt, result)
        return True


def _result(answer: AppliedAnswer) -> bytes | CallError:
    if answer.status == 200:
        return answer.body
    document = loads(answer.body)
    assert isinstance(document, dict)
    error = document["error"]
    match error["kind"]:
        case "stale":
            return Timeout(maybe_ran=error["maybe_ran"])
        case "unsigned":
            return Timeout(maybe_ran=False)
        case "replayed":
            return Timeout(maybe_ran=True)
        case "Timeout":
            return Timeout(maybe_ran=error["maybe_ran"])
        case "NoConnection":
            return NoConnection(error["reason"], error["maybe_ran"])
        case "NotPermitted":
            return NotPermitted(error["message"])
        case "RateLimited":
            return RateLimited(error["retry_after_s"])
        case "Revoked":
            return Revoked(error["word"])
    return RemoteError(error["kind"], error["message"])
