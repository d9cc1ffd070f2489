"""Pairing, the side that has the code: finds the node that shows it, proves it, keeps what it gets.

Decides whom to ask and what a failure is called.

Rules
- One guess. Looking whether somebody waits (`pair/look`) costs nothing; the proof goes to one node.
  Who answers falsely gets one guess from it, so a code that did not hold is not tried again.
- On a network without a server the nodes that discovery named are asked in turn, a few at a time,
  again while there are new ones, for FIND_S. When two of them wait the person must say which.
- The relay of this node, if it has one, is asked besides after RELAY_AFTER_S, or when there is
  nothing to wait for; who is found first is the one. With an address only that is asked.
- What is handed over counts after the other side has proved the code too.
- A cookie is on disk before the other side is told that it was kept.
- The former cookie stays accepted, so that the nodes that have only that one are still linked.
"""

from __future__ import annotations

import ipaddress
import logging
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Final, NamedTuple

import trio

from drupelet import config_values
from drupelet.core.candidates import Candidate
from drupelet.errors import (
    CallError,
    ConfigError,
    NoConnection,
    NotPermitted,
    RemoteError,
    RemoteProtocolError,
)
from drupelet.services.endpoint import Endpoint
from drupelet.services.grants import GrantService
from drupelet.services.links import Links
from drupelet.services.relayed_pairing import RelayedPairing, RelayedPeer
from drupelet.store.cookie import cookie_from_text
from drupelet.wire import frames
from drupelet.wire.codec import dumps, loads
from drupelet.wire.keys import key_prefix, key_to_text
from drupelet.wire.limits import PAIR_CONFIRM_S, PAIR_SPENT_MAX
from drupelet.wire.pairing import (
    PREFIX,
    VERSION,
    Handed,
    Invitation,
    begin,
    code_from_text,
    decode_handed,
    decode_invitation,
    decode_share,
    encode_proof,
    encode_start,
)

_log = logging.getLogger("drupelet.pairing")

JOIN_S: Final = 20.0  # all of it
FIND_S: Final = 10.0  # of that: a node that has just been plugged in is seen after some seconds
LOOK_S: Final = 3.0  # one node
LINK_S: Final = 3.0  # until the two are linked as members; they go on by themselves
RELAY_AFTER_S: Final = 2.0  # a node on this network is found by then, mostly
_ELSE_S: Final = 1.0  # whether somebody else waits too, once one does
_TELLING: Final = ("other_relay", "own_code", "relay_busy", "relay_down")  # more than: nobody
_PAUSE_S: Final = 0.5
_AT_ONCE: Final = 8
_CALL_S: Final = 8.0


class _Place(NamedTuple):
    host: str
    port: int


class _Linked:
    """A node that waits, and a link to it."""

    def __init__(self, endpoint: Endpoint, place: _Place) -> None:
        self.endpoint = endpoint
        self.key, self.name, self.binding = endpoint.key, endpoint.name, endpoint.binding
        self.places: tuple[tuple[str, int], ...] = (place,)

    def keyed(self, isk: bytes) -> None:
        """The link has keys of its own."""

    async def ask(self, step: str, *payload: bytes) -> object:
        """The answer. Raises: `CallError`."""
        return await _call(self.endpoint, step, *payload)

    def close(self) -> None:
        """End the link."""
        self.endpoint.close(NoConnection("closed"))


_Found = _Linked | RelayedPeer


class Joining:
    """`join` of one node. `keep_cookie`: on disk and in use when it returns."""

    def __init__(
        self,
        *,
        key: bytes,
        name: str,
        environment: str,
        links: Links,
        grants: GrantService,
        keep_cookie: Callable[[str], Awaitable[None]],
        relayed: RelayedPairing | None = None,
    ) -> None:
        self._key = key
        self._name = name
        self._environment = environment
        self._links = links
        self._grants = grants
        self._keep_cookie = keep_cookie
        self._relayed = relayed
        self._spent: deque[str] = deque(maxlen=PAIR_SPENT_MAX)

    async def join(self, text: str, host: str = "") -> dict[str, object]:
        """Pair with the node that shows that code, or invitation; `host`: HOST:PORT or a name.

        Returns `{"name", "key", "host", "port", "by", "addresses", "gives", "linked", "sentence"}`;
        `by`: "link", or "relay" with no host and port; `addresses`: where the other may be reached.
        """
        invitation, code = _read(text)
        if code in self._spent:
            raise RemoteError("code_spent", "that code was tried or used from here already")
        key = invitation.key if invitation is not None else None
        if key == self._key:
            raise RemoteError("own_code", "this node itself shows that code")
        places = self._named(host)
        if not places and invitation is not None:
            places = [_Place(*each) for each in invitation.addresses]

        async def near() -> _Found:
            return await (self._one_of(places, key) if places else self._search(key))

        async def far() -> _Found:
            return await self._at_relay(code, invitation)

        with trio.move_on_after(JOIN_S):
            found = await (near() if host else _first_of(near, far))
            try:
                return await self._pair(found, code)
            finally:
                found.close()
        raise RemoteError("pair_slow", f"it took more than {JOIN_S:.0f} s")

    # -- finding

    def _named(self, host: str) -> list[_Place]:
        """The addresses that a person's word means. Raises: `RemoteError`."""
        if not host:
            return []
        known = [_Place(each.host, each.port) for each in self._candidates(host)]
        if known:
            return known
        try:
            peer = config_values.peer(f"x@{host}", Path())
        except config_values.BadValue:
            raise RemoteError(
                "bad_host",
                f"{host[:80]!r} is neither HOST:PORT nor the name of a node seen on this network",
            ) from None
        return [_Place(peer.host, peer.port)]

    def _candidates(self, name: str = "") -> list[Candidate]:
        """Of that name, or all; without the members that are linked."""
        nodes = self._links.membership.nodes()
        linked = {key_prefix(key_to_text(each.key)) for each in nodes if each.state == "up"}
        found = self._links.membership.candidates_of(name)
        return [each for each in found if each.key_prefix not in linked]

    async def _one_of(self, places: list[_Place], key: bytes | None) -> _Found:
        """The first of these addresses where somebody waits. Raises: `CallError`."""
        failure: CallError = NoConnection("no_such_node")
        for place in places:
            try:
                return await self._look(place, key)
            except NotPermitted:
                failure = NoConnection("closed")
            except CallError as error:
                failure = error
        if isinstance(failure, NoConnection) and failure.reason == "closed":
            raise RemoteError("nobody_waits", "that node shows no code now")
        raise failure

    async def _at_relay(self, code: str, invitation: Invitation | None) -> _Found:
        """Who shows that code at our relay. Raises: `RemoteError`."""
        theirs = invitation.relay if invitation is not None else ""
        if self._relayed is None:
            if theirs:
                told = f"that node is at the relay {theirs}, and this one is at none"
                raise RemoteError("other_relay", told)
            raise RemoteError("no_relay", "this node is at no relay, so it did not look further")
        try:
            found = await self._relayed.find(code)
        except RemoteError as error:
            if theirs not in ("", *self._relayed.urls) and error.kind == "nobody_waits":
                told = f"{error.message}, that node is at {theirs}"
                raise RemoteError("other_relay", told) from None
            raise
        if invitation is not None and found.key != invitation.key:
            raise RemoteError("nobody_waits", f"at {self._relayed.url} another node shows that")
        return found

    async def _search(self, key: bytes | None) -> _Found:
        """The one node on this network that waits. Raises: `RemoteError`."""
        ends_at = trio.current_time() + FIND_S
        refused: set[_Place] = set()
        found: dict[bytes, _Linked] = {}
        reasons: dict[_Place, str] = {}
        limiter = trio.CapacityLimiter(_AT_ONCE)
        scope = trio.CancelScope()

        async def look(place: _Place) -> None:
            reasons[place] = "silent"
            async with limiter:
                try:
                    one = await self._look(place, key)
                except NoConnection as error:
                    reasons[place] = error.reason
                    if error.reason != "overloaded":  # turned away for a while, not for good
                        refused.add(place)
                except CallError as error:
                    reasons[place] = error.kind if isinstance(error, RemoteError) else "closed"
                    refused.add(place)
                else:
                    scope.deadline = min(scope.deadline, trio.current_time() + _ELSE_S)
                    if found.setdefault(one.key, one) is not one:  # its other address
                        one.close()

        try:
            while not found:
                scope = trio.CancelScope(deadline=ends_at)  # many forged addresses take no longer
                with scope:
                    async with trio.open_nursery() as nursery:
                        for each in self._candidates():
                            place = _Place(each.host, each.port)
                            if place not in refused:
                                nursery.start_soon(look, place)
                if not found and trio.current_time() >= ends_at:
                    raise _nobody(reasons)
                if not found:
                    await trio.sleep(_PAUSE_S)
            if len(found) > 1:
                shown = [
                    f"{one.name} ({key_prefix(key_to_text(one.key))}) at {_shown(*one.places[0])}"
                    for one in found.values()
                ]
                raise RemoteError("several_wait", f"several nodes show a code: {', '.join(shown)}")
            _, only = found.popitem()
            return only
        finally:
            for one in found.values():
                one.close()

    async def _look(self, place: _Place, key: bytes | None) -> _Linked:
        """A link to who waits there. Raises: `CallError`."""
        endpoint: Endpoint | None = None
        try:
            with trio.fail_after(LOOK_S):
                endpoint = await self._links.stranger_links.dial(place.host, place.port, key)
                match await _call(endpoint, "look"):
                    case {"version": int(version)} if version == VERSION:
                        found = _Linked(endpoint, place)
                        endpoint = None
                        return found
            raise RemoteError("pair_version", "that node pairs in another way")
        except trio.TooSlowError:
            raise NoConnection("silent") from None
        finally:
            if endpoint is not None:
                endpoint.close(NoConnection("closed"))

    # -- proving

    async def _pair(self, found: _Found, code: str) -> dict[str, object]:
        run = begin(
            code,
            session=found.binding,
            own_key=self._key,
            private=secrets.token_bytes(32),
            initiator=True,
        )
        try:
            answer = await found.ask("start", encode_start(run.public))
            run.receive(decode_share(answer), found.key)
        except RemoteProtocolError as error:
            raise RemoteError("pair_version", f"that node pairs in another way: {error}") from None
        self._spent.append(code)
        found.keyed(run.isk)
        try:
            handed = decode_handed(await found.ask("step", encode_proof(run.proof())))
        except (RemoteProtocolError, NotPermitted, NoConnection):
            raise RemoteError(
                "code_gone", "the node took the code back, or the link broke: it is spent"
            ) from None
        if not run.proves(handed.proof):
            _log.warning("pairing_false peer=%s", key_to_text(found.key))
            raise RemoteError("wrong_code", "the node that answered does not have this code")
        return await self._keep(found, handed)

    async def _keep(self, found: _Found, handed: Handed) -> dict[str, object]:
        name, key = found.name, key_to_text(found.key)
        sentence, linked = "", False
        if handed.grant:
            accepted = await self._grants.accept(handed.grant, ask=False)
            sentence = str(accepted["sentence"])
        else:
            await self._take_cookie(handed)
        try:
            await found.ask("done")
        except CallError:
            _log.warning("pairing_unconfirmed peer=%s", key)  # there it says so too
        if handed.cookie:
            linked = await self._link(found)
        by = "relay" if isinstance(found, RelayedPeer) else "link"
        _log.info("paired name=%s key=%s by=%s", name, key, by)
        place = found.places[0] if by == "link" else ("", 0)
        return {
            "name": name,
            "key": key,
            "host": place[0],
            "port": place[1],
            "by": by,
            "addresses": [list(each) for each in found.places],
            "gives": "grant" if handed.grant else "member",
            "linked": linked,
            "sentence": sentence,
        }

    async def _take_cookie(self, handed: Handed) -> None:
        """Raises: `RemoteError` for one that cannot be used here."""
        own, theirs = self._environment, handed.environment
        try:
            kind = await trio.to_thread.run_sync(lambda: cookie_from_text(handed.cookie, own).kind)
            if kind == "chosen" and own != theirs:
                raise RemoteError(
                    "environment",
                    f'that node has environment = "{theirs}" and this one "{own}": a cookie '
                    "that a person chose opens only one of them",
                )
            with trio.CancelScope(shield=True):
                await self._keep_cookie(handed.cookie)
        except ConfigError as error:
            raise RemoteError("cookie_refused", str(error)) from None

    async def _link(self, found: _Found) -> bool:
        """Whether the two are linked as members now. The others of its cluster come meanwhile."""
        changed = trio.Event()
        self._links.listen(tell := lambda event: changed.set())
        try:
            with trio.move_on_after(LINK_S):
                while self._links.link(found.name) is None:
                    changed = trio.Event()
                    self.introduce(found.name, found.key, found.places)
                    with trio.move_on_after(_PAUSE_S):
                        await changed.wait()
                return True
        finally:
            self._links.unlisten(tell)
        return False

    def introduce(self, name: str, key: bytes, places: Iterable[tuple[str, int]]) -> None:
        """A new member, and where it may be reached: dial it, whatever failed there before."""
        now = trio.current_time()
        self._links.admission.forgiving_until = now + PAIR_CONFIRM_S
        prefix = key_prefix(key_to_text(key))
        candidates = [
            Candidate(source="registry", host=host, port=port, name=name, key_prefix=prefix)
            for host, port in places
            if _is_literal(host)
        ]
        for each in candidates:
            self._links.membership.candidate(each, now)
        self._links.membership.wanted(name, now)
        for each in candidates:
            self._links.candidate(each)


async def _first_of(
    near: Callable[[], Awaitable[_Found]], far: Callable[[], Awaitable[_Found]]
) -> _Found:
    """Who is found first; `far` begins later, or when `near` has failed. Raises: `CallError`."""
    found: list[_Found] = []
    failures: dict[str, CallError] = {}
    near_failed = trio.Event()
    async with trio.open_nursery() as nursery:

        async def look(way: str, find: Callable[[], Awaitable[_Found]]) -> None:
            try:
                found.append(await find())
            except CallError as error:
                failures[way] = error
            if found:
                nursery.cancel_scope.cancel()
            elif way == "near":
                near_failed.set()

        async def later() -> None:
            with trio.move_on_after(RELAY_AFTER_S):
                await near_failed.wait()
            await look("far", far)

        nursery.start_soon(look, "near", near)
        nursery.start_soon(later)
    for other in found[1:]:
        other.close()
    if found:
        return found[0]
    raise _neither(failures["near"], failures["far"])


def _neither(near: CallError, far: CallError) -> CallError:
    """Both ways failed: what a person should hear of it."""
    if not isinstance(far, RemoteError) or (
        far.kind == "no_relay" and isinstance(near, NoConnection)
    ):
        return near
    if not isinstance(near, RemoteError):
        return RemoteError(far.kind, f"none of its addresses answers here ({near}); {far.message}")
    telling = near.kind in ("nobody_found", "nobody_waits") and far.kind in _TELLING
    return RemoteError(far.kind if telling else near.kind, f"{near.message}; {far.message}")


async def _call(endpoint: Endpoint, function: str, *args: object) -> object:
    body = frames.call_body(f"pair/{function}".encode(), b"", timeout_ms=int(_CALL_S * 1_000))
    answer = await endpoint.call(body, dumps(list(args)), trio.current_time() + _CALL_S)
    try:
        return loads(answer[1:])
    except RemoteProtocolError:
        raise NoConnection("closed") from None


def _read(text: str) -> tuple[Invitation | None, str]:
    """What a person typed or scanned. Raises: `RemoteError`."""
    try:
        if text.strip().startswith(PREFIX):
            invitation = decode_invitation(text)
            return invitation, invitation.code
        return None, code_from_text(text)
    except ValueError as error:
        raise RemoteError("bad_code", str(error)) from None


def _nobody(reasons: dict[_Place, str]) -> RemoteError:
    """Nobody waits: told with who was asked."""
    if "pair_version" in reasons.values() or "version" in reasons.values():
        return RemoteError("pair_version", "a node here has another version of drupelet")
    if not reasons:
        return RemoteError("nobody_found", "no other node was seen on this network")
    asked = ", ".join(_shown(*place) for place in list(reasons)[:_AT_ONCE])
    return RemoteError("nobody_waits", f"none of the nodes seen here shows a code: {asked}")


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def _shown(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
