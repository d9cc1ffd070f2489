"""The link to a relay: this node is announced there, and messages go both ways.

Decides nothing: carries the messages of `wire/relay.py` by a way of `net/` (a WebSocket, or HTTP's
long poll), at the relay and by the way that `core/relay_choice.py` names. What the messages are is
others' business: `services/relayed_calls.py`.

Rules
- Log in, announce, listen; whatever fails, everything begins again after a while, with jitter, for
  ever, here or at another relay. What the relay has not said to have is sent then, with the same
  ids: it may come twice, it is not lost.
- A message is acknowledged when it was looked at. Longer would help nobody: what is sealed to the
  key of this boot cannot be opened after the next.
- A relay's words are logged once, until they change, with what to do.

Owns: one task that holds the connection, and those under it that announce, send and acknowledge.
"""

from __future__ import annotations

import base64
import logging
import secrets
from collections import deque
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from math import inf
from typing import Any, Final, NamedTuple

import trio

from drupelet.config import RelayConfig
from drupelet.core.relay_choice import FIRST_S, REFUSED_FIRST_S, By, End, RelayChoice
from drupelet.errors import NoConnection, RemoteProtocolError
from drupelet.net.relay_way import (
    Asked,
    NotPassed,
    Place,
    RelayCut,
    RelayGone,
    RelaySilent,
    RelayWay,
)
from drupelet.services.announcing import LATER, Announcer, Offering
from drupelet.toml_text import printable
from drupelet.wire import relay as wire
from drupelet.wire import sodium
from drupelet.wire.announcements import Beacon, decode_beacon
from drupelet.wire.grants import Grant
from drupelet.wire.keys import key_to_text
from drupelet.wire.limits import RELAY_ASKED_MAX, RELAY_CALLS_MAX, RELAY_CATALOGUE_MAX

_log = logging.getLogger("drupelet.relay")

BEACON_S: Final = 10.0
ONLINE_S: Final = 5.0  # so long a question waits for the connection
LEAVE_S: Final = 1.0
KEPT_S: Final = 3_600  # so long a message waits at the relay
QUEUED_MAX: Final = 256  # answers that wait for the relay; beyond it no more questions are taken
WINDOW: Final = 16  # messages that are sent ahead of the relay's answers
_PAGE: Final = 64  # entries in one answer of the catalogue

MENDS: Final = {
    "not_registered": "ask the relay's owner for an invite, and set [relay] invite; or set [relay] "
    "email, and its owner will be asked",
    "not_verified": "its owner lets this node in with: drupelet-relay approve {who}; it is asked "
    "again by itself",
    "bad_invite": "the invite was used up, or is another relay's: ask its owner for a new one",
    "denied": "its owner has denied this node: ask him; or [relay] url names it otherwise than "
    "`names` in its own configuration",
}


class Seen(NamedTuple):
    """One node of the catalogue. `missions`: what the relay says that it has for us."""

    beacon: Beacon
    missions: tuple[str, ...]


Refused = Callable[[NoConnection], None]


class _Finding:
    """A question that is under way, for all who have it."""

    __slots__ = ("done", "failure")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.failure: NoConnection | None = None


class RelayLink:
    """This node at its relays, one at a time."""

    def __init__(self, config: RelayConfig, *, seed: bytes, name: str, offering: Offering) -> None:
        self.urls = config.url
        self._email = config.email or None
        self._invite = base64.b32decode(config.invite.upper() + "======") if config.invite else None
        self._key = sodium.ed25519_public(seed)
        self._name = name
        self.announcer = Announcer(offering, seed=seed, name=name)
        self._places = [Place(url, seed, config.ca_file) for url in config.url]
        self._choice = RelayChoice(
            len(config.url),
            secrets.SystemRandom().random,
            first_s=FIRST_S,
            refused_first_s=REFUSED_FIRST_S,
        )
        self.on_kind: dict[int, Callable[[wire.Deliver], None]] = {}  # who takes which messages
        self._out: deque[tuple[wire.Send, Refused | None]] = deque()  # not known to be there
        self._answers = 0  # of those; our own questions stop us from taking nothing
        self._said = 0  # of the first of them, on this connection
        self._filled, self._drained = trio.Event(), trio.Event()
        self._beacons: dict[bytes, tuple[float, Beacon]] = {}
        self._finding: dict[wire.Find, _Finding] = {}
        self._online = trio.Event()
        self._way: RelayWay | None = None
        self._carrying = trio.CancelScope()
        self._taken, self._acked, self._take_more = 0, 0, trio.Event()
        self._state, self._why, self._mend = "connecting", "", ""
        self._warned: dict[str, str] = {}  # what the log has, by the relay
        self._by = By.WEBSOCKET
        self._at = 0
        self._since = trio.current_time()
        self._counts = {"sent": 0, "received": 0}

    @property
    def url(self) -> str:
        """The relay that is used now, or was last."""
        return self.urls[self._at]

    def status(self) -> dict[str, object]:
        """What a person wants to know of it. Times are seconds ago."""
        now = trio.current_time()
        announced_at = self.announcer.announced_at
        return {
            "url": self.url,
            "urls": list(self.urls),
            "way": self._by.value,
            "state": self._state,
            "why": self._why,
            "mend": self._mend,
            "since_s": round(now - self._since, 3),
            "name": self._name,
            "account": key_to_text(self._key),
            "email": self._email or "",
            "queued": len(self._out),
            "announced_s": None if announced_at == -inf else round(now - announced_at, 3),
            **self._counts,
        }

    # -- the connection

    async def run(self) -> None:
        """Keep the connection."""
        while True:
            attempt = self._choice.next(trio.current_time())
            await trio.sleep(attempt.wait_s)
            self._at, self._by = attempt.place, attempt.by
            how = End.GONE
            problem: BaseException | None = None
            try:
                async with _open(self._by, self._places[self._at]) as self._way:
                    await self._enter(self._way)
                    self._choice.up(trio.current_time())
                    self._tell("up")
                    await self._carry(self._way)
                how = End.TURNED
            except* NotPassed as group:
                how, problem = End.NOT_PASSED, _first(group)
            except* RelayCut as group:
                how, problem = End.CUT, _first(group)
            except* RelaySilent as group:
                how, problem = End.SILENT, _first(group)
            except* RelayGone as group:
                problem = _first(group)
            except* wire.RelayRefused as group:
                how, problem = End.REFUSED, _first(group)
            finally:
                if self._online.is_set():  # who waits for it already goes on waiting
                    self._online = trio.Event()
                self._way = None
            if how is not End.TURNED:
                self._tell("down", problem)
            wait_s = problem.retry_after_s if isinstance(problem, wire.RelayRefused) else 0.0
            self._choice.ended(how, trio.current_time(), wait_s)

    def _tell(self, state: str, problem: BaseException | None = None) -> None:
        """Keep what to say when somebody asks; log it when it is new."""
        why = printable(str(problem or ""))[:200]  # the relay's words
        mend = ""
        if isinstance(problem, wire.RelayRefused):
            mend = MENDS.get(problem.code, "").format(who=self._email or key_to_text(self._key))
            if problem.code not in LATER:
                state = problem.code
        if state == "up":
            self._warned.clear()
            _log.info("relay_up url=%s by=%s", self.url, self._by.value.replace(" ", "_"))
        elif isinstance(problem, NotPassed):
            state = "connecting"
            _log.info("relay_no_websocket url=%s why=%s", self.url, why)
        elif why != self._warned.get(self.url):
            self._warned[self.url] = why
            _log.warning("relay_down url=%s why=%s%s", self.url, why, mend and f"; {mend}")
        if state != self._state:
            self._since = trio.current_time()
        self._state, self._why, self._mend = state, why, mend

    async def _enter(self, way: RelayWay) -> None:
        try:
            await way.login()
        except wire.RelayRefused as refusal:
            if refusal.code != "not_registered" or (self._invite or self._email) is None:
                raise
            await self._register(way)
            await way.login()
        await self.announcer.announce(way)

    async def _register(self, way: RelayWay) -> None:
        """With the invite; by the address where there is none, or it does not count."""
        if self._invite is not None:
            try:
                await way.register(self._name, invite=self._invite)
                return
            except wire.RelayRefused as refusal:
                if refusal.code != "bad_invite" or self._email is None:
                    raise
        await way.register(self._name, email=self._email)

    async def _carry(self, way: RelayWay) -> None:
        """Until it fails, or a long poll is to be given up for a WebSocket."""
        self._said = self._taken = self._acked = 0
        async with trio.open_nursery() as nursery:
            self._carrying = nursery.cancel_scope
            if self._by is By.LONG_POLL:
                nursery.cancel_scope.deadline = self._choice.turn_at()
            nursery.start_soon(self.announcer.run, way)
            nursery.start_soon(self._send_all, way)
            nursery.start_soon(self._acknowledge, way)
            self._online.set()
            while True:
                while self._answers > QUEUED_MAX:
                    self._drained = trio.Event()
                    await self._drained.wait()
                for message in await way.messages():
                    self._counts["received"] += 1
                    take = self.on_kind.get(message.kind)
                    if take is not None:
                        take(message)
                    self._taken = message.number
                self._take_more.set()

    async def _acknowledge(self, way: RelayWay) -> None:
        while True:
            self._take_more = trio.Event()
            if self._taken == self._acked:
                await self._take_more.wait()
                continue
            taken = self._taken
            await way.ask(wire.Ack(ref=0, number=taken))
            self._acked = taken

    async def leave(self) -> None:
        """This node stops: out of the catalogue now, where that can still be said."""
        self.announcer.leaving = True
        if self._way is not None and self._online.is_set():
            with trio.move_on_after(LEAVE_S):
                try:
                    await self._way.ask(wire.Withdraw(ref=0))
                except (RelayGone, wire.RelayRefused) as error:
                    _log.debug("relay_not_left why=%s", error)

    # -- what goes out

    def send(
        self,
        to: bytes,
        ident: bytes,
        re: bytes | None,
        body: bytes,
        refused: Refused | None = None,
    ) -> None:
        """A message, when the relay can be reached. `refused`: told that it does not take it."""
        send = wire.Send(ref=0, to=to, id=ident, re=re, kept_s=KEPT_S, receipt=False, body=body)
        self._out.append((send, refused))
        self._answers += re is not None
        self._filled.set()

    async def _send_all(self, way: RelayWay) -> None:
        """Some ahead of the answers; what has none stays, for the next connection."""
        asked: deque[Asked] = deque()
        while True:
            while len(asked) < WINDOW and self._said < len(self._out):
                asked.append(await way.begin(self._out[self._said][0]))
                self._said += 1
            if not asked:
                self._filled = trio.Event()
                await self._filled.wait()
                continue
            await self._settle(way, asked[0])
            asked.popleft()
            self._answers -= self._out.popleft()[0].re is not None
            self._said -= 1
            if self._answers <= QUEUED_MAX:
                self._drained.set()

    async def _settle(self, way: RelayWay, asked: Asked) -> None:
        """Until the relay has the first message that waits, or will not have it."""
        send, refused = self._out[0]
        while True:
            try:
                await asked.value()
                self._counts["sent"] += 1
                _log.debug("sent id=%s", send.id.hex())  # it is on the relay's disk
                return
            except wire.RelayRefused as refusal:
                if refusal.code in LATER:
                    await trio.sleep(max(refusal.retry_after_s, 0.05))
                    asked = await way.begin(send)
                    continue
                if refusal.code not in ("mailbox_full", "not_found", "malformed"):
                    raise
                _log.debug("refused id=%s code=%s", send.id.hex(), refusal.code)
                if refused is not None:  # else an answer: who asked has not emptied his mailbox
                    refused(_unreachable(refusal))
                return

    # -- what others announced

    async def beacon(self, node: bytes, grant: bytes) -> Beacon:
        """The newest keys of a node, at most BEACON_S old. `grant`: shown, where it must be.

        Raises: `NoConnection`.
        """
        question = wire.Find(ref=0, node=node, grant=grant)
        while True:
            until, beacon = self._beacons.get(node, (0.0, None))
            if beacon is not None and until > trio.current_time():
                return beacon
            finding = self._finding.get(question)
            if finding is None:
                return await self._find(question)
            await finding.done.wait()  # many calls ask one question: the relay counts them
            if finding.failure is not None:
                raise NoConnection(finding.failure.reason)

    async def _find(self, question: wire.Find) -> Beacon:
        finding = self._finding[question] = _Finding()
        now = trio.current_time()
        try:
            beacon = await self._found(question)
        except NoConnection as failure:
            finding.failure = failure
            raise
        finally:
            del self._finding[question]
            finding.done.set()
        if len(self._beacons) >= RELAY_CALLS_MAX:
            self._beacons.clear()
        self._beacons[question.node] = (now + BEACON_S, beacon)
        return beacon

    async def _found(self, question: wire.Find) -> Beacon:
        """What the relay shows."""
        try:
            beacon = _entry(await self.ask(question)).beacon
            if beacon.key != question.node:
                raise RemoteProtocolError("the beacon of another node")
        except RemoteProtocolError as error:
            _log.info("relay_find_failed why=%s", error)
            raise NoConnection("no_route") from None
        except wire.RelayRefused as refusal:
            raise _unreachable(refusal) from None
        return beacon

    def forget_beacon(self, node: bytes) -> None:
        """It does not answer: it may have started anew."""
        self._beacons.pop(node, None)

    async def catalogue(self) -> list[Seen]:
        """The nodes that have a mission for our key, at most RELAY_CATALOGUE_MAX.

        Raises: `NoConnection`. An entry whose signature does not hold is left out.
        """
        found: list[Seen] = []
        after = b""
        while len(found) < RELAY_CATALOGUE_MAX:
            try:
                page = await self.ask(wire.Catalogue(ref=0, after=after))
            except wire.RelayRefused as refusal:
                raise _unreachable(refusal) from None
            if not isinstance(page, list) or len(page) > _PAGE:
                raise NoConnection("no_route")
            for entry in page:
                try:
                    seen = _entry(entry)
                except RemoteProtocolError as error:
                    _log.info("relay_entry_dropped why=%s", error)
                    continue
                if seen.beacon.key <= after:
                    raise NoConnection("no_route")  # it would never end
                after = seen.beacon.key
                found.append(seen)
            if len(page) < _PAGE:
                break
        return found[:RELAY_CATALOGUE_MAX]

    async def ask(self, question: wire.FromNode) -> Any:
        """Its answer; a connection that the relay knows no more is made again, once.

        Raises: `RelayRefused`; `NoConnection` when the relay cannot be reached.
        """
        for _ in range(2):
            with trio.move_on_after(ONLINE_S):
                await self._online.wait()
            way, online = self._way, self._online
            if way is None or not online.is_set():
                break
            try:
                return await way.ask(question)
            except wire.RelayRefused as refusal:
                if refusal.code != "denied":
                    raise
            except RelayGone as error:
                _log.info("relay_ask_failed why=%s", error)
            if self._online is online:  # else it is a new connection already
                self._online = trio.Event()
                self._carrying.cancel()
        raise NoConnection("no_route")

    async def ask_at(self, url: str, question: wire.FromNode) -> Any:
        """The same of that relay of the list: of another than is used by a short connection."""
        if url == self.url:
            return await self.ask(question)
        place = next(each for each in self._places if each.url == url)
        try:
            with trio.fail_after(ONLINE_S):
                async with _open(By.LONG_POLL, place) as way:
                    await way.login()
                    return await way.ask(question)
        except (RelayGone, trio.TooSlowError) as error:
            _log.info("relay_ask_failed url=%s why=%s", url, error)
            raise NoConnection("no_route") from None


def shown_of(grant: Grant) -> bytes:
    """What a relay must see of a grant to tell where its node is: it knows first holders."""
    return grant.data if grant.bearer or len(grant.links) > 1 else b""


def _open(by: By, place: Place) -> AbstractAsyncContextManager[RelayWay]:
    """Each way's libraries are loaded where it is used: 1 MB each."""
    if by is By.WEBSOCKET:
        from drupelet.net.relay_socket import open_socket

        return open_socket(place)
    from drupelet.net.relay_http import open_http

    return open_http(place)


def _entry(entry: object) -> Seen:
    """Of the catalogue, its beacon's signature checked. Raises: `RemoteProtocolError`."""
    match entry:
        case [bytes(), str(), bytes(data), list(missions)] if len(
            missions
        ) <= RELAY_ASKED_MAX and all(type(each) is str for each in missions):
            return Seen(decode_beacon(data), tuple(str(each) for each in missions))
    raise RemoteProtocolError("malformed entry")


def _unreachable(refusal: wire.RelayRefused) -> NoConnection:
    return NoConnection("no_such_node" if refusal.code == "not_found" else "overloaded")


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


__all__ = ["RelayLink", "Seen", "shown_of"]
