"""HTTP calls at a node: PUTs that a relay hands on, and the signature of one's own.

Decides nothing that `core/http_calls.py` can decide. What it lets in runs like every call that came
through a relay (`services/relayed_calls.py`): the same audit, rates and revocation.

| function | who | |
|---|---|---|
| `sign` | operator | what curl is to send, for a function of a node that granted it |

Rules
- A signature is over a token of the callee's, which the relay shows: it counts for a minute.
- The key is this node's, or the one in the grant's file. It never leaves.
- The address has the callee's key in it, for names are not unique.

Owns: nothing that runs.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import trio

from drupelet.core.http_calls import HttpCalls
from drupelet.errors import NoConnection, NotPermitted, RemoteError, RemoteProtocolError
from drupelet.services.accepted import Accepted
from drupelet.services.missions import Missions
from drupelet.services.relayed_calls import RelayedCalls
from drupelet.services.system import OPERATOR
from drupelet.wire import relay as wire
from drupelet.wire import sodium
from drupelet.wire.grant_files import GrantFile, decode_grant_file
from drupelet.wire.http_calls import JSON, path_to
from drupelet.wire.http_signatures import (
    METHOD,
    NONCE_RANDOM_BYTES,
    SignedPut,
    bytes_field,
    digest_of,
    headers_of,
    sign_put,
)
from drupelet.wire.keys import key_or_id, key_to_text
from drupelet.wire.limits import APPLY_BODY_BYTES_MAX

if TYPE_CHECKING:
    from drupelet.services.relay_link import RelayLink

_ONCE_CHARS_MAX = 200


class HttpCallService:
    """The PUTs of one node. `link`: to the relay of that address; None: we are not there."""

    def __init__(
        self,
        *,
        seed: bytes,
        name: str,
        relayed: RelayedCalls,
        accepted: Accepted,
        link: Callable[[str], RelayLink | None],
    ) -> None:
        self._seed = seed
        self._key = sodium.ed25519_public(seed)
        self._relayed = relayed
        self._accepted = accepted
        self._link = link
        self._calls = HttpCalls(relayed.callee, seed, name)

    def register(self, missions: Missions) -> None:
        """Put `sign` into the whitelist."""
        missions.add_system("grants", {"sign": self.sign}, OPERATOR)

    def take(self, message: wire.Deliver) -> None:
        """A PUT, from a relay."""
        got = self._calls.receive(message.id, message.body, trio.current_time())
        self._relayed.carry_out(message.id, got)

    async def sign(
        self, node: str, mission: str, function: str, body: bytes, text: str, once: str
    ) -> dict[str, object]:
        """`{"method", "url", "headers"}` for a PUT with that body, a JSON array.

        `text`: of a grant's file, or "" for one that was accepted; `once`: an idempotency key, or
        "". Raises: `RemoteError` (bad_grant, no_relay, badarg), `NotPermitted`, `NoConnection`.
        """
        if not isinstance(body, bytes) or len(body) > APPLY_BODY_BYTES_MAX:
            raise RemoteError("badarg", f"a PUT has at most {APPLY_BODY_BYTES_MAX} bytes of JSON")
        if len(once) > _ONCE_CHARS_MAX:
            raise RemoteError("badarg", f"an Idempotency-Key has at most {_ONCE_CHARS_MAX} letters")
        file = self._file(text, node) if text else self._held(node, mission, function)
        grant = file.grant
        if grant.mission != mission or not grant.allows(function):
            raise NotPermitted
        links = [self._link(url) for url in file.relays or ("",)]
        link = next((each for each in links if each is not None), None)
        if link is None:
            where = f"{node} is at {file.relay}, and this node is not" if file.relay else "no relay"
            raise RemoteError("no_relay", f"{where}: set [relay] url in this node's configuration")
        beacon = await link.beacon(grant.issuer, grant.data)
        put = SignedPut(
            path=path_to(key_to_text(grant.issuer), mission, function),
            content_type=JSON,
            content_digest=digest_of(body),
            grant=bytes_field(grant.data),
            idempotency_key=once or None,
        )
        seed = file.seed if file.seed is not None else self._seed
        nonce = beacon.token + secrets.token_bytes(NONCE_RANDOM_BYTES)
        try:
            signature_input, signature = sign_put(seed, put, created=int(time.time()), nonce=nonce)
        except ValueError as error:
            raise RemoteError("badarg", str(error)) from None
        put = replace(put, signature_input=signature_input, signature=signature)
        return {"method": METHOD, "url": link.url + put.path, "headers": headers_of(put)}

    def _held(self, node: str, mission: str, function: str) -> GrantFile:
        """One that was accepted. Raises: `NoConnection`, `NotPermitted`."""
        named = key_or_id(node)
        key = named if isinstance(named, bytes) else self._accepted.owner(node)
        files = [file for file in self._accepted.files() if file.grant.issuer == key]
        if not files:
            raise NoConnection("no_such_node")
        for file in files:
            if file.grant.mission == mission and file.grant.allows(function):
                return file
        raise NotPermitted

    def _file(self, text: str, node: str) -> GrantFile:
        """One that is not kept. Raises: `RemoteError`."""
        try:
            file = decode_grant_file(text)
        except RemoteProtocolError as error:
            raise RemoteError("bad_grant", str(error)) from None
        if node not in (file.name, key_to_text(file.grant.issuer)):
            raise RemoteError("bad_grant", f"it is a grant of {file.name}, not of {node}")
        if file.seed is None and file.grant.holder != self._key:
            holder = key_to_text(file.grant.holder)
            raise RemoteError("bad_grant", f"it is for the key {holder}, which is not this node's")
        return file
