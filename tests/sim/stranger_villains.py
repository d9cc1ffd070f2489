"""Mallory and Trudy: two hostile parties who hold some grants, and have the relay on their side.

Decides what they try, each time drawn anew. Mallory holds grants that count; Trudy's are revoked
early. They have all that went through the relay, all grants that are no secrets, some requests that
they overheard in the clear (with the reply keys in them), and each other's keys.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from drupelet.errors import CallError, RemoteProtocolError
from drupelet.wire import requests as wire
from drupelet.wire import sodium
from drupelet.wire.announcements import encode_announcement, encode_offers
from drupelet.wire.codec import dumps, loads_canonical
from drupelet.wire.grants import GRANT_DOMAIN, Terms, issue
from drupelet.wire.http_calls import AppliedPut, encode_put
from drupelet.wire.http_signatures import bytes_field, digest_of
from drupelet.wire.keys import key_to_text
from drupelet.wire.requests import Opened, Reply, SignedRequest
from drupelet.wire.signing import sign
from tests.sim.stranger_ledger import Deed
from tests.sim.stranger_nodes import PROOF_DOMAIN, HonestNode
from tests.sim.stranger_puts import Heard
from tests.sim.stranger_relay import Message
from tests.sim.stranger_rights import Chain

if TYPE_CHECKING:
    from tests.sim.stranger_world import World

ACTS = (
    "own_call",
    "own_call_on_link",
    "misused",
    "forged_grant",
    "others_grant",
    "resealed",
    "signed_anew",
    "doctored",
    "malleated",
    "stolen_key",
    "false_reply",
    "old_token",
    "garbage",
    "bent_put",
    "proxy",
)

ORDER = 2**252 + 27742317777372353535851937790883648493  # of Ed25519's base point
GRANT_FIELDS: dict[int, tuple[object, ...]] = {  # what would be more
    2: (bytes(32),),
    4: ("lamp",),
    5: (["heat", "look", "stop"], None),
    6: ([1_000, 1], None),
    7: (1_000, None),
    8: (1_000, None),
    9: (60_000, None),
    10: (10**8, None),
    11: (3,),
    13: (1, 2**40),
}


@dataclass(frozen=True, eq=False)
class Overheard:
    """A request in the clear, and who waits for its answer as which message."""

    opened: Opened
    callee: str
    caller: bytes
    ident: bytes
    deed: Deed


class Villain:
    """One hostile party."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.random = world.random
        self.name = name
        self.seed = self.random.randbytes(32)
        self.key = sodium.ed25519_public(self.seed)
        self.private = self.random.randbytes(32)
        self.public = sodium.x25519_public(self.private)
        self.replies: list[tuple[bytes, bytes]] = []  # who is said to have signed it, for us; what
        self.sequence = 0
        self.announced_at = -1e9

    # -- tools

    def _send(self, act: str, node: HonestNode, signed: bytes, boot_key: bytes = b"") -> None:
        ident = self.random.randbytes(16)
        sealed = sodium.seal(self.random.randbytes(32), boot_key or node.callee.boot_key, signed)
        message = Message(self.key, node.key, ident, None, sealed, (act,))
        self.world.after(self.random.uniform(0.01, 0.1), self.world.relay.arrives, message)

    def _asking(self, node: HonestNode, grant: bytes, target: str, arguments: bytes) -> Any:
        return SignedRequest(
            callee=node.key,
            token=node.callee.token,
            id=self.random.randbytes(16),
            grant=grant,
            target=target,
            arguments=arguments,
            timeout_ms=30_000,
            reply_key=self.public,
        )

    def _deed(self, node: HonestNode, chain: Chain, function: str, **more: Any) -> Deed:
        return self.world.deed(self.name, node.name, chain, function, secret=False, **more)

    def _ask(self, act: str, node: HonestNode, grant: bytes, deed: Deed, seed: bytes = b"") -> None:
        """A request of our own, with whatever grant."""
        asking = self._asking(node, grant, deed.target, deed.arguments)
        asking = replace(asking, idempotency_key=deed.key)
        self._send(act, node, wire.encode_request(seed or self.seed, asking))

    def _node(self) -> HonestNode | None:
        up = [node for node in self.world.honest.values() if node.is_up]
        return self.random.choice(up) if up else None

    def _own(self) -> list[Chain]:
        return [
            chain
            for chain in self.world.chains
            if self.name in chain.holders and chain.issuer in self.world.honest
        ]

    def _where(self, chain: Chain) -> HonestNode | None:
        node = self.world.honest.get(chain.issuer)
        return node if node is not None and node.is_up else None

    def _some(self) -> tuple[HonestNode, Chain, str] | None:
        """A node, a grant of its, a function."""
        chains = [chain for chain in self.world.chains if chain.issuer in self.world.honest]
        chain = self.random.choice(chains)
        node = self._where(chain)
        return (node, chain, self.world.function()) if node else None

    # -- what comes

    def deliver(self, message: Message) -> None:
        """The relay brought something."""
        known = self.world.ledger.known
        try:
            signed = sodium.open_sealed(self.private, self.public, message.body)
        except RemoteProtocolError:
            return
        known.append(signed)
        if message.re is not None:
            self.replies.append((message.sender, signed))
            return
        try:
            opened = wire.open_request(self.private, self.public, message.body)
        except RemoteProtocolError:
            return
        self.world.effects["honest_call_to_hostile"] += 1
        value = dumps(["anything", self.random.random()])
        answer = wire.encode_reply(self.seed, Reply(request_hash=opened.hash, value=value))
        if self.replies and self.random.random() < 0.3:
            answer = self.random.choice(self.replies)[1]
        body = sodium.seal(self.random.randbytes(32), opened.request.reply_key, answer)
        ident = self.random.randbytes(16)
        told = Message(self.key, message.sender, ident, message.ident, body)
        self.world.after(0.02, self.world.relay.arrives, told)
        node = self._node()
        if node is not None:  # passed on
            self._send("passed_on", node, signed)

    def announce(self) -> None:
        """As honest nodes do."""
        self.announced_at = self.world.now
        self.sequence += 1
        data = encode_announcement(
            self.seed,
            name=self.name,
            boot_key=self.public,
            token=self.random.randbytes(16),
            run=self.world.relay.catalogue.run,
            sequence=self.sequence,
            offers=encode_offers(
                self.key,
                {each.mission: () for each in self.world.chains if each.issuer == self.name},
            ),
        )
        self.world.relay.announced(self.key, data)

    # -- acts

    def act(self) -> None:
        """Try something."""
        name = self.random.choice(ACTS)
        if getattr(self, f"_{name}")():
            self.world.fired[name] += 1

    def act_of(self, name: str) -> None:
        """Try that."""
        if getattr(self, f"_{name}")():
            self.world.fired[name] += 1

    def _own_call(self) -> bool:
        chain = self.random.choice(self._own() or [None])
        node = chain and self._where(chain)
        if not chain or not node:
            return False
        seed = chain.bearer_seed or self.seed
        for _ in range(self.random.choice((1, 1, 8))):  # or a flood
            self._ask("own_call", node, chain.data, self._deed(node, chain, "look"), seed)
        return True

    def _own_call_on_link(self) -> bool:
        chain = self.random.choice(self._own() or [None])
        node = chain and self._where(chain)
        if not chain or not node:
            return False
        deeds = [self._deed(node, chain, self.world.function()) for _ in range(3)]
        self._on_link(node, chain.data, chain, deeds)
        return True

    def _misused(self) -> bool:
        """Our own grant, for what it does not allow."""
        chain = self.random.choice(self._own() or [None])
        node = chain and self._where(chain)
        if not chain or not node:
            return False
        size = self.random.choice((20, 600))
        deed = self._deed(node, chain, self.random.choice(("heat", "boil", "format")), size=size)
        self._ask("misused", node, chain.data, deed, chain.bearer_seed or self.seed)
        return True

    def _forged_grant(self) -> bool:
        found = self._some()
        if found is None:
            return False
        node, chain, function = found
        own = [each for each in self._own() if each.issuer == node.name]
        if own and self.random.random() < 0.6:
            chain = self.random.choice(own)
        forged = self._forge(chain)
        if forged == chain.data:
            return False
        deed = self._deed(node, chain, function)
        if self.random.random() < 0.5:
            self._ask("forged_grant", node, forged, deed)
        else:
            self._on_link(node, forged, chain, [deed])
        return True

    def _others_grant(self) -> bool:
        found = self._some()
        if found is None or self.name in found[1].holders:
            return False
        node, chain, function = found
        deed = self._deed(node, chain, function)
        if self.random.random() < 0.5:
            self._ask("others_grant", node, chain.data, deed)
        else:
            self._on_link(node, chain.data, chain, [deed], steal=True)
        return True

    def _resealed(self) -> bool:
        return self._overheard("resealed", lambda each: each.opened.signed)

    def _signed_anew(self) -> bool:
        return self._overheard(
            "signed_anew", lambda each: wire.encode_request(self.seed, each.opened.request)
        )

    def _doctored(self) -> bool:
        return self._overheard("doctored", self._altered)

    def _malleated(self) -> bool:
        return self._overheard("malleated", self._bent)

    def _overheard(self, act: str, change: Callable[[Overheard], bytes]) -> bool:
        heard = self._heard()
        if heard is None:
            return False
        node = self.world.honest[heard.callee]
        if self.random.random() < 0.3:
            members = [self.world.honest[name] for name in sorted(node.members - {node.name})]
            node = members[0] if members else self._node() or node
        if not node.is_up:
            return False
        self._send(act, node, change(heard))
        return True

    def _stolen_key(self) -> bool:
        """Somebody else's idempotency key and id, in a call of our own."""
        heard = self._heard()
        own = [each for each in self._own() if heard and each.issuer == heard.callee]
        if heard is None or not own:
            return False
        chain = self.random.choice(own)
        node = self._where(chain)
        if node is None:
            return False
        request = heard.opened.request
        deed = self._deed(node, chain, "look", key=request.idempotency_key)
        asking = self._asking(node, chain.data, deed.target, deed.arguments)
        asking = replace(asking, id=request.id, idempotency_key=request.idempotency_key)
        self._send("stolen_key", node, wire.encode_request(chain.bearer_seed or self.seed, asking))
        return True

    def _false_reply(self) -> bool:
        """To somebody who waits, who has told his reply key to nobody but his callee and us."""
        waiting = [each for each in self.world.overheard if each.deed.pending]
        if not waiting:
            return False
        heard = waiting[-1]
        callee = self.world.keys[heard.callee]
        others = [signed for signer, signed in self.replies if signer == callee]
        if others and self.random.random() < 0.6:  # the callee's own signature, of another answer
            signed = self.random.choice(others[-4:])
        else:
            reply = Reply(request_hash=heard.opened.hash, value=dumps(["false"]))
            signed = wire.encode_reply(self.seed, reply)
        reply_key = heard.opened.request.reply_key
        body = sodium.seal(self.random.randbytes(32), reply_key, signed)
        ident = self.random.randbytes(16)
        message = Message(callee, heard.caller, ident, heard.ident, body, ("false_reply",))
        self.world.after(0.001, self.world.relay.arrives, message)
        return True

    def _old_token(self) -> bool:
        """To be told by a node's own signature that a token is old."""
        chain = self.random.choice(self._own() or [None])
        node = chain and self._where(chain)
        if not chain or not node:
            return False
        deed = self._deed(node, chain, "look")
        asking = self._asking(node, chain.data, deed.target, deed.arguments)
        asking = replace(asking, token=self.random.randbytes(16))
        self._send("old_token", node, wire.encode_request(chain.bearer_seed or self.seed, asking))
        return True

    def _garbage(self) -> bool:
        node = self._node()
        if node is None:
            return False
        for _ in range(3):
            self._send("garbage", node, self.random.randbytes(self.random.randint(0, 300)))
        ident = self.random.randbytes(16)
        body = self.random.randbytes(self.random.randint(0, 300))
        re = (
            self.random.choice(self.world.relay.archive).ident if self.world.relay.archive else None
        )
        message = Message(self.key, node.key, ident, re, body, ("garbage",))
        self.world.after(0.01, self.world.relay.arrives, message)
        return True

    def _bent_put(self) -> bool:
        """Somebody's PUT, with something else in it, or once more."""
        if not self.world.puts:
            return False
        heard = self.random.choice(self.world.puts[-3:])
        node = self.world.honest[heard.callee]
        if not node.is_up:
            return False
        message = replace(heard.message, body=encode_put(self._bend(heard)), tags=("bent_put",))
        if self.random.random() < 0.5:  # else under the id by which its sender waits
            message = replace(message, ident=self.random.randbytes(16), sender=self.key)
        self.world.relay.arrives(message)
        return True

    def _bend(self, heard: Heard) -> AppliedPut:
        applied, put = heard.applied, heard.applied.put
        body = dumps([self.random.randbytes(16), b""])
        key_text = key_to_text(self.key)
        match self.random.randrange(9):
            case 0:
                return applied
            case 1:
                return replace(applied, body=body)
            case 2:
                other = replace(put, content_digest=digest_of(body))
                return replace(applied, put=other, body=body)
            case 3:
                return replace(applied, put=replace(put, idempotency_key="another"))
            case 4:
                path = put.path.rpartition("/")[0] + "/" + self.world.function()
                return replace(applied, put=replace(put, path=path))
            case 5:
                grant = bytes_field(self.random.choice(self.world.chains).data)
                return replace(applied, put=replace(put, grant=grant))
            case 6:  # the same signature in another scalar
                raw = base64.b64decode(put.signature.partition("=:")[2].rstrip(":"))
                scalar = int.from_bytes(raw[32:], "little") + ORDER
                raw = raw[:32] + scalar.to_bytes(32, "little")
                text = put.signature.partition("=")[0] + "=" + bytes_field(raw)
                return replace(applied, put=replace(put, signature=text))
            case 7:  # the same under another label
                fields = (put.signature_input, put.signature)
                one, two = ("other=" + each.partition("=")[2] for each in fields)
                return replace(applied, put=replace(put, signature_input=one, signature=two))
        parts = put.signature_input.split(';keyid="')
        named = parts[0] + f';keyid="{key_text}"' + parts[1].partition('"')[2]
        return replace(applied, put=replace(put, signature_input=named))

    def _proxy(self) -> bool:
        node = self._node()
        if node is None:
            return False
        stolen = [
            each for each, known in self.world.ledger.proxies.items() if known[0] == node.name
        ]
        secret = self.random.randbytes(16)
        if stolen and self.random.random() < 0.7:
            secret = self.random.choice(stolen)
        node.on_proxy(secret, self.key)
        return True

    # -- how

    def _heard(self) -> Overheard | None:
        heard = self.world.overheard
        return self.random.choice(heard[-3:]) if heard else None

    def _on_link(
        self,
        node: HonestNode,
        grant: bytes,
        chain: Chain,
        deeds: list[Deed],
        *,
        steal: bool = False,
    ) -> None:
        """Show a grant on a link of our own, and call."""
        link = self.world.new_link(self.name, node.name)
        holder, proof = chain.holder, b""
        if chain.bearer_seed is not None and self.name in chain.holders:
            proof = sign(chain.bearer_seed, PROOF_DOMAIN, link.binding).signature
        elif steal and self.random.random() < 0.5:
            proof = sign(self.seed, PROOF_DOMAIN, link.binding).signature
        elif steal and chain.bearer_seed is not None:  # proved on another link
            proof = sign(chain.bearer_seed, PROOF_DOMAIN, self.random.randbytes(32)).signature
        error = node.on_present(link, self.key, grant, holder, proof)
        if error is not None:
            self.world.effects["refused_on_link"] += 1
        for deed in deeds:
            node.on_call(link, self.key, deed, self._hears)

    def _hears(self, result: bytes | CallError) -> None:
        if isinstance(result, bytes):
            self.world.ledger.known.append(result)

    def _altered(self, heard: Overheard) -> bytes:
        """One field is another; the signature as it was."""
        fields = loads_canonical(heard.opened.payload)
        assert isinstance(fields, dict)
        changes: dict[int, object] = {
            1: self.random.choice(list(self.world.keys.values())),
            2: self.random.randbytes(16),
            3: self.random.randbytes(16),
            4: self.random.choice(self.world.chains).data,
            5: "kettle/" + self.world.function(),
            6: dumps([self.random.randbytes(16), b""]),
            7: 60_000,
            8: self.public,
            9: self.random.randbytes(16),
        }
        field = self.random.choice(list(changes))
        fields[field] = changes[field]
        return _envelope(dumps(fields), heard.opened.signature)

    def _bent(self, heard: Overheard) -> bytes:
        """The same request in other bytes: a hash that nobody has seen."""
        payload, signature = heard.opened.payload, heard.opened.signature
        match self.random.randrange(4):
            case 0:
                return _envelope(payload, signature, {1: 1})
            case 1:
                scalar = int.from_bytes(signature[32:], "little") + ORDER
                return _envelope(payload, signature[:32] + scalar.to_bytes(32, "little"))
            case 2:
                return heard.opened.signed.replace(b"\xa0", b"\xb8\x00", 1)  # a longer empty map
            case _:
                return heard.opened.signed + b"\0"

    def _forge(self, chain: Chain) -> bytes:
        """A grant that nobody gave."""
        parts = loads_canonical(chain.data)
        assert isinstance(parts, list)
        at = 2 * self.random.randrange(len(parts) // 2)
        other = loads_canonical(self.random.choice(self.world.chains).data)
        assert isinstance(other, list)
        match self.random.randrange(8):
            case 7:  # of a mission that is not ours to grant
                nonce = self.random.randbytes(8)
                return issue(self.seed, self.key, "kettle", Terms(), nonce, sequence=1).data
            case 0:
                data = bytearray(chain.data)
                data[self.random.randrange(len(data))] ^= 1 << self.random.randrange(8)
                return bytes(data)
            case 1:
                return dumps(parts[:-2]) if len(parts) > 2 else dumps(parts[:1])
            case 2:
                return dumps([*parts, *other[-2:]])
            case 3:
                parts[at : at + 2] = other[:2]
                return dumps(parts)
            case 4 | 5 if chain.holder == self.key:  # a link of our own, by hand
                return self._widened(parts, chain)
            case _:
                parts[at] = self._edited(parts[at])
                signer = chain.links[at // 2 - 1].holder if at else chain.issuer_key
                if self.random.random() < 0.3 and signer != self.key:
                    parent = chain.links[at // 2 - 1].id if at else bytes(16)
                    parts[at + 1] = sign(self.seed, GRANT_DOMAIN, parent + parts[at]).signature
                return dumps(parts)

    def _edited(self, content: bytes) -> bytes:
        fields = loads_canonical(content)
        assert isinstance(fields, dict)
        field = self.random.choice(list(GRANT_FIELDS))
        value = self.random.choice(GRANT_FIELDS[field])
        if field == 2:
            value = self.key
        if value is None:
            fields.pop(field, None)
        else:
            fields[field] = value
        return dumps(fields)

    def _widened(self, parts: list[Any], chain: Chain) -> bytes:
        """Signed by its real holder, but more than what he has."""
        more: list[dict[int, object]] = [{11: 3}]
        if not all(chain.permits(each, 0) for each in ("heat", "look", "stop")):
            more.append({5: ["heat", "look", "stop"]})
        for link in chain.links:
            if link.rate is not None:
                more += [{6: [1_000, 1]}, {6: list(link.rate), 7: 1_000}]
            for field, limit in ((8, link.concurrent), (9, link.size), (10, link.expires_s)):
                if limit is not None:
                    more.append({field: limit + 1})
        fields = {2: self.key, 3: self.random.randbytes(8), **self.random.choice(more)}
        content = dumps(fields)
        signature = sign(self.seed, GRANT_DOMAIN, chain.links[-1].id + content).signature
        return dumps([*parts, content, signature])


def _envelope(payload: bytes, signature: bytes, unprotected: object = None) -> bytes:
    return dumps([dumps({1: -8}), unprotected or {}, payload, signature])


assert all(hasattr(Villain, f"_{name}") for name in ACTS)
