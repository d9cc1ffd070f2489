"""Accepted grants: what others allow this node to do, and the links on which it does it.

Decides which of them is shown to whom: all that we hold of a node, once, when its link opens.

Rules
- A member of the same name goes before: a grant cannot take a node's name from it.
- A grant for whoever has the file is proved with the key in the file, over the handshake's hash:
  the proof is of no use on another link.
- A link that ends is dialled again at the next call; nothing is kept open for its own sake.
- Addresses are tried one after the other, the next one beside as soon as one takes NEXT_S: a home's
  own addresses answer nobody elsewhere, and must not cost the one that does its time.
- A direct link goes before the relays that a grant's file names, and is tried again every AGAIN_S.
- One of them must be among this node's; relays of one list are kept in step, so it need not be the
  one that is used now.

Owns: nothing that runs; links are `services/stranger_links.py`'s.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from math import inf
from typing import Final, Protocol

import trio

from drupelet.errors import CallError, NoConnection, NotPermitted, Revoked
from drupelet.services.endpoint import Endpoint
from drupelet.services.stranger_links import StrangerLinks
from drupelet.wire import frames
from drupelet.wire.codec import dumps, loads
from drupelet.wire.grant_files import GrantFile
from drupelet.wire.grants import Grant
from drupelet.wire.signing import sign

_log = logging.getLogger("drupelet.grants")

PROOF_DOMAIN: Final = b"drupelet/grant-proof/1"
PRESENT_S: Final = 5.0
ASK_S: Final = 3.0  # a person waits at `drupelet accept`
DIRECT_S: Final = 1.5  # for a direct link, where there is a relay as well
NEXT_S: Final = 0.25  # then the next address is tried beside: RFC 8305, section 5
AGAIN_S: Final = 30.0
TURNED_AWAY_S: Final = 1.1  # core/admission.py: the first failure at an address counts for 1 s
_PRESENT: Final = frames.call_body(b"grants/present", b"", timeout_ms=int(PRESENT_S * 1_000))


class Relay(Protocol):
    """The relay of this node (services/relayed_calls.py)."""

    def is_at(self, url: str) -> bool:
        """Whether that relay is one of this node's."""
        ...

    def end_of(self, name: str, key: bytes) -> Endpoint:
        """Where the calls of a node go."""
        ...


class Accepted:
    """The grants that this node holds, by the name of their node."""

    def __init__(
        self,
        links: StrangerLinks,
        addresses_of: Callable[[str, bytes], list[tuple[str, int]]],
        member: Callable[[str], bytes | None],
    ) -> None:
        self._links = links
        self._member = member  # the key of a member by its name, up or down
        self._addresses_of = addresses_of  # of a name and key, seen on this network
        self._files: dict[str, list[GrantFile]] = {}
        self._endpoints: dict[bytes, Endpoint] = {}
        self._dialling: dict[bytes, trio.Event] = {}
        self._again_at: dict[bytes, float] = {}  # when to try a direct link once more
        self.relay: Relay | None = None
        self.waits_s: dict[bytes, float] = {}  # by id: what its node said when it was last shown

    def files(self) -> list[GrantFile]:
        """All of them."""
        return [file for files in self._files.values() for file in files]

    def keep(self, files: Iterable[GrantFile]) -> None:
        """These instead of the former ones."""
        self._files.clear()
        self.waits_s.clear()
        for file in files:
            self._files.setdefault(file.name, []).append(file)

    def owner(self, name: str) -> bytes | None:
        """The key of the node of that name, when we hold a grant of it."""
        files = self._files.get(name) or self._files.get(name.partition("@")[0])
        if not files:
            return None
        issuer = files[0].grant.issuer
        return issuer if self._member(name) in (None, issuer) else None

    def held(self, node: str) -> list[Grant]:
        """What the node of that name granted."""
        key = self.owner(node)
        return [file.grant for file in self.files() if file.grant.issuer == key]

    def relays(self, node: str) -> tuple[str, ...]:
        """What its files name."""
        key = self.owner(node)
        files = [file for file in self.files() if file.grant.issuer == key]
        return tuple(dict.fromkeys(url for file in files for url in file.relays))

    def endpoint(self, node: str) -> Endpoint | None:
        """The open link to that node, if there is one."""
        key = self.owner(node)
        endpoint = self._endpoints.get(key) if key is not None else None
        if endpoint is None or endpoint.closed or key is None:
            return None
        again = not endpoint.direct and self._again_at[key] <= trio.current_time()
        return None if again else endpoint

    async def connect(self, node: str) -> Endpoint | None:
        """Connect and show what we hold. None: nothing of a node of that name.

        Raises: `NoConnection`, `Revoked`, `NotPermitted`.
        """
        key = self.owner(node)
        if key is None:
            return None
        while key in self._dialling:
            await self._dialling[key].wait()
        endpoint = self.endpoint(node)
        if endpoint is not None:
            return endpoint
        self._dialling[key] = trio.Event()
        try:
            endpoint = self._endpoints[key] = await self._direct_or_relayed(key)
            return endpoint
        finally:
            self._dialling.pop(key).set()

    async def dead(self, node: str) -> dict[bytes, CallError]:
        """Those that this node does not take any more, by their ids. It says so when it is asked.

        Raises: `NoConnection`, `Revoked`, `NotPermitted`, as `connect` does.
        """
        endpoint = await self.connect(node)
        if endpoint is None or not endpoint.direct:
            return {}  # through a relay each call shows its own
        return await self._present(endpoint, endpoint.key)

    async def ask(self, file: GrantFile) -> bool:
        """Whether its node could be asked about it, and said that it takes it. It is among `files`.

        Raises: `Revoked`, `NotPermitted`: it does not.
        """
        key = file.grant.issuer
        with trio.move_on_after(ASK_S):
            try:
                endpoint = await self.connect(file.name)
                if endpoint is None or not endpoint.direct:
                    return False
                refused = await self._present(endpoint, key)
            except NoConnection:
                return False
            if file.grant.id in refused:
                raise refused[file.grant.id]
            return True
        return False

    def let_go(self, key: bytes) -> None:
        """Something of that node's was dropped: the next link shows what is left."""
        endpoint = self._endpoints.pop(key, None)
        if endpoint is not None:
            endpoint.close(NoConnection("closed"))

    async def show(self, file: GrantFile) -> None:
        """One more was accepted: on a link that is open, show it now."""
        endpoint = self._endpoints.get(file.grant.issuer)
        if endpoint is not None and endpoint.direct and not endpoint.closed:
            await self._present(endpoint, file.grant.issuer)

    async def _direct_or_relayed(self, key: bytes) -> Endpoint:
        files = [file for file in self.files() if file.grant.issuer == key]
        relay = self.relay if any(self._is_there(file) for file in files) else None
        failure = NoConnection("silent")
        with trio.move_on_after(DIRECT_S if relay is not None else inf):
            try:
                endpoint = await self._dial(key)
                await self._present(endpoint, key)
                return endpoint
            except NoConnection as error:
                failure = error
        if relay is None:
            raise failure
        self._again_at[key] = trio.current_time() + AGAIN_S
        _log.info("by_relay node=%s direct=%s", files[0].name, failure.reason)
        return relay.end_of(files[0].name, key)

    def _is_there(self, file: GrantFile) -> bool:
        return self.relay is not None and any(self.relay.is_at(url) for url in file.relays)

    async def _dial(self, key: bytes) -> Endpoint:
        """Turned away at the door, for others' failures at this address too: once more, later."""
        try:
            return await self._dial_once(key)
        except NoConnection as error:
            if error.reason != "overloaded":
                raise
        await trio.sleep(TURNED_AWAY_S)
        return await self._dial_once(key)

    async def _dial_once(self, key: bytes) -> Endpoint:
        failure = NoConnection("no_such_node")
        known: list[tuple[str, int]] = []
        for file in self.files():
            if file.grant.issuer == key:
                known = [*self._addresses_of(file.name, key), *known, *file.addresses]
        found: list[Endpoint] = []

        async def attempt(host: str, port: int, over: trio.Event) -> None:
            nonlocal failure
            try:
                found.append(await self._links.dial(host, port, key))
                nursery.cancel_scope.cancel()
            except NoConnection as error:
                failure = error
            finally:
                over.set()

        try:
            async with trio.open_nursery() as nursery:
                for host, port in dict.fromkeys(known):
                    over = trio.Event()
                    nursery.start_soon(attempt, host, port, over)
                    with trio.move_on_after(NEXT_S):
                        await over.wait()
            if not found:
                raise failure
            return found.pop(0)
        finally:
            for unused in found:  # two answered in the same moment, or nobody waits any more
                unused.close(NoConnection("closed"))

    async def _present(self, endpoint: Endpoint, key: bytes) -> dict[bytes, CallError]:
        """Show every grant of that issuer: the refused ones. Raises when none of them counts."""
        refused: dict[bytes, CallError] = {}
        good = 0
        for file in self.files():
            if file.grant.issuer != key:
                continue
            proof = b""
            if file.seed is not None:
                proof = sign(file.seed, PROOF_DOMAIN, endpoint.binding).signature
            args = dumps([file.grant.data, file.grant.holder, proof])
            try:
                answer = await endpoint.call(_PRESENT, args, trio.current_time() + PRESENT_S)
                self.waits_s[file.grant.id] = _wait_s(loads(answer[1:]))
                good += 1
            except (NotPermitted, Revoked) as error:
                refused[file.grant.id] = error
        if not good and refused:
            endpoint.close(NoConnection("closed"))
            raise list(refused.values())[-1]
        return refused


def _wait_s(answer: object) -> float:
    """After how long a call would go through, as the other node says."""
    match answer:
        case {"wait_s": float(wait_s)} if 0 <= wait_s < inf:
            return wait_s
    return 0.0
