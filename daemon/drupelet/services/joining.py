"""Pairing, the side that has the code: finds the node that shows it, proves it, keeps what it gets.

Decides whom to ask and what a failure is called.

Rules
- One guess. Looking whether somebody waits (`pair/look`) costs nothing; the proof goes to one node.
  Who answers falsely gets one guess from it, so a code that did not hold is not tried again.
- On a network without a server the nodes that discovery named are asked in turn, a few at a time,
  again while there are new ones, for FIND_S. When two of them wait the person must say which.
- What is handed over counts after the other side has proved the code too.
- A cookie is on disk before the other side is told that it was kept.
- The former cookie stays accepted, so that the nodes that have only that one are still linked.
"""

from __future__ import annotations

import logging
import secrets
from collections import deque
from collections.abc import Awaitable, Callable
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
_ELSE_S: Final = 1.0  # whether somebody else waits too, once one does
_PAUSE_S: Final = 0.5
_AT_ONCE: Final = 8
_CALL_S: Final = 8.0


class _Place(NamedTuple):
    host: str
    port: int


class _Found(NamedTuple):
    """A node that waits, and a link to it."""

    place: _Place
    endpoint: Endpoint


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
    ) -> None:
        self._key = key
        self._name = name
        self._environment = environment
        self._links = links
        self._grants = grants
        self._keep_cookie = keep_cookie
        self._spent: deque[str] = deque(maxlen=PAIR_SPENT_MAX)

    async def join(self, text: str, host: str = "") -> dict[str, object]:
        """Pair with the node that shows that code, or invitation; `host`: HOST:PORT or a name.

        Returns `{"name", "key", "host", "port", "gives", "linked", "sentence"}`.
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
        with trio.move_on_after(JOIN_S):
            found = await (self._one_of(places, key) if places else self._search(key))
            try:
                return await self._pair(found, code)
            finally:
                found.endpoint.close(NoConnection("closed"))
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

    async def _search(self, key: bytes | None) -> _Found:
        """The one node on this network that waits. Raises: `RemoteError`."""
        ends_at = trio.current_time() + FIND_S
        refused: set[_Place] = set()
        found: dict[bytes, _Found] = {}
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
                    if found.setdefault(one.endpoint.key, one) is not one:  # its other address
                        one.endpoint.close(NoConnection("closed"))

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
                f"{one.endpoint.name} ({key_prefix(key_to_text(one.endpoint.key))}) at "
                f"{_shown(one.place)}"
                for one in found.values()
            ]
            for one in found.values():
                one.endpoint.close(NoConnection("closed"))
            raise RemoteError("several_wait", f"several nodes show a code: {', '.join(shown)}")
        (only,) = found.values()
        return only

    async def _look(self, place: _Place, key: bytes | None) -> _Found:
        """A link to who waits there. Raises: `CallError`."""
        endpoint: Endpoint | None = None
        try:
            with trio.fail_after(LOOK_S):
                endpoint = await self._links.stranger_links.dial(place.host, place.port, key)
                match await _call(endpoint, "look"):
                    case {"version": int(version)} if version == VERSION:
                        found = _Found(place, endpoint)
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
        endpoint = found.endpoint
        run = begin(
            code,
            session=endpoint.binding,
            own_key=self._key,
            private=secrets.token_bytes(32),
            initiator=True,
        )
        try:
            answer = await _call(endpoint, "start", encode_start(run.public))
            run.receive(decode_share(answer), endpoint.key)
        except RemoteProtocolError as error:
            raise RemoteError("pair_version", f"that node pairs in another way: {error}") from None
        self._spent.append(code)
        try:
            handed = decode_handed(await _call(endpoint, "step", encode_proof(run.proof())))
        except (RemoteProtocolError, NotPermitted, NoConnection):
            raise RemoteError(
                "code_gone", "the node took the code back, or the link broke: it is spent"
            ) from None
        if not run.proves(handed.proof):
            _log.warning("pairing_false peer=%s", key_to_text(endpoint.key))
            raise RemoteError("wrong_code", "the node that answered does not have this code")
        return await self._keep(found, handed)

    async def _keep(self, found: _Found, handed: Handed) -> dict[str, object]:
        endpoint = found.endpoint
        name, key = endpoint.name, key_to_text(endpoint.key)
        sentence, linked = "", False
        if handed.grant:
            accepted = await self._grants.accept(handed.grant)
            sentence = str(accepted["sentence"])
        else:
            await self._take_cookie(handed)
        try:
            await _call(endpoint, "done")
        except CallError:
            _log.warning("pairing_unconfirmed peer=%s", key)  # there it says so too
        if handed.cookie:
            linked = await self._link(found)
        _log.info("paired name=%s key=%s", name, key)
        return {
            "name": name,
            "key": key,
            "host": found.place.host,
            "port": found.place.port,
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
        self._links.admission.forgiving_until = trio.current_time() + PAIR_CONFIRM_S
        name, key = found.endpoint.name, found.endpoint.key
        candidate = Candidate(
            source="registry",
            host=found.place.host,
            port=found.place.port,
            name=name,
            key_prefix=key_prefix(key_to_text(key)),
        )
        changed = trio.Event()
        self._links.listen(tell := lambda event: changed.set())
        try:
            with trio.move_on_after(LINK_S):
                while self._links.link(name) is None:
                    changed = trio.Event()
                    now = trio.current_time()
                    self._links.membership.candidate(candidate, now)
                    self._links.membership.wanted(name, now)  # whatever failed there before
                    self._links.candidate(candidate)
                    with trio.move_on_after(_PAUSE_S):
                        await changed.wait()
                return True
        finally:
            self._links.unlisten(tell)
        return False


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
    asked = ", ".join(_shown(place) for place in list(reasons)[:_AT_ONCE])
    return RemoteError("nobody_waits", f"none of the nodes seen here shows a code: {asked}")


def _shown(place: _Place) -> str:
    return f"[{place.host}]:{place.port}" if ":" in place.host else f"{place.host}:{place.port}"
