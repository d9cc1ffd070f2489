"""The link to a relay: this node is announced there, and messages go both ways.

Decides nothing: carries the messages of `wire/relay.py` by `net/relay_http.py`. What they are is
others' business: `services/relayed_calls.py`.

Rules
- Log in, announce at each new token and when grants change, poll; whatever fails, everything begins
  again after a while, with jitter, for ever. What was not sent yet is sent then.
- A message is acknowledged when it was looked at. Longer would help nobody: what is sealed to the
  key of this boot cannot be opened after the next.

Owns: one task that holds the connection, and two under it that announce and send.
"""

from __future__ import annotations

import base64
import logging
import re
import secrets
from collections import deque
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol

import trio

from drupelet.config import RelayConfig
from drupelet.core.backoff import Backoff
from drupelet.errors import NoConnection, RemoteProtocolError
from drupelet.net.relay_http import RelayGone, RelayHttp
from drupelet.toml_text import printable
from drupelet.wire import relay as wire
from drupelet.wire import sodium
from drupelet.wire.announcements import (
    Beacon,
    decode_beacon,
    encode_announcement,
    encode_offers,
)
from drupelet.wire.limits import RELAY_CALLS_MAX

_log = logging.getLogger("drupelet.relay")

ANNOUNCE_S: Final = 10.0
LOOK_S: Final = 1.0  # so soon a new grant is announced
BEACON_S: Final = 10.0  # a token is good for a minute
ONLINE_S: Final = 5.0  # so long a question waits for the connection
KEPT_S: Final = 3_600  # so long a message waits at the relay
FIRST_S: Final = 0.5
LONGEST_S: Final = 60.0
QUEUED_MAX: Final = 256  # answers that wait for the relay; beyond it no more questions are taken
_LAST: Final = re.compile(r"last: ([0-9]{1,18})")


class Offered(NamedTuple):
    """What is announced."""

    offers: dict[str, tuple[bytes, ...]]  # who may see us, for each mission
    boot_key: bytes
    token: bytes


class Offering(Protocol):
    """Who knows what is to be announced."""

    def version(self) -> tuple[int, int]:
        """Changes when the offers do."""
        ...

    def offered(self) -> Offered:
        """What is announced now."""
        ...


Refused = Callable[[NoConnection], None]


class _Asked:
    """A question that is under way, for all who have it."""

    __slots__ = ("done", "failure")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.failure: NoConnection | None = None


class RelayLink:
    """This node at its relay."""

    def __init__(self, config: RelayConfig, *, seed: bytes, name: str, offering: Offering) -> None:
        self.url = config.url
        self._invite = base64.b32decode(config.invite.upper() + "======") if config.invite else b""
        self._seed = seed
        self._key = sodium.ed25519_public(seed)
        self._name = name
        self._offering = offering
        self._http = RelayHttp(config.url, seed, config.ca_file)
        self.on_kind: dict[int, Callable[[wire.Deliver], None]] = {}  # who takes which messages
        self._out: deque[tuple[wire.Send, Refused | None]] = deque()
        self._answers = 0  # of those; our own questions stop us from taking nothing
        self._filled, self._drained = trio.Event(), trio.Event()
        self._beacons: dict[bytes, tuple[float, Beacon]] = {}
        self._finding: dict[wire.Find, _Asked] = {}
        self._online = trio.Event()
        self._carrying = trio.CancelScope()
        self._announced: tuple[bytes, bytes] = (b"", b"")  # in which run, which offers
        self.announced_version = (0, -1)
        self.announced = trio.Event()  # a new one after each announcement
        self._sequence = 0

    # -- the connection

    async def run(self) -> None:
        """Keep the connection."""
        backoff = Backoff(FIRST_S, LONGEST_S, secrets.SystemRandom().random)
        said = ""
        while True:
            wait_s, problem = 0.0, ""
            try:
                await self._enter()
                backoff.reset()
                said = ""
                _log.info("relay_up url=%s", self.url)
                await self._carry()
            except* RelayGone as group:
                problem = str(_first(group))
            except* wire.RelayRefused as group:
                refusal = _first(group)
                problem, wait_s = str(refusal), getattr(refusal, "retry_after_s", 0.0)
            finally:
                if self._online.is_set():  # who waits for it already goes on waiting
                    self._online = trio.Event()
                self._http.close()
            problem = printable(problem)[:200]  # the relay's words
            if problem != said:
                said = problem
                _log.warning("relay_down url=%s why=%s", self.url, problem)
            await trio.sleep(max(wait_s, backoff.next_delay_s()))

    async def _enter(self) -> None:
        try:
            await self._http.login()
        except wire.RelayRefused as refusal:
            if refusal.code != "not_registered" or not self._invite:
                raise
            await self._http.register(self._name, self._invite)
            await self._http.login()
        await self._announce()

    async def _carry(self) -> None:
        async with trio.open_nursery() as nursery:
            self._carrying = nursery.cancel_scope
            nursery.start_soon(self._keep_announced)
            nursery.start_soon(self._send_all)
            self._online.set()
            last = 0
            while True:
                while self._answers > QUEUED_MAX:
                    self._drained = trio.Event()
                    await self._drained.wait()
                messages = await self._http.poll(last)
                for message in messages:
                    take = self.on_kind.get(message.kind)
                    if take is not None:
                        take(message)
                    last = message.number
                if messages:
                    await self._http.ask(wire.Ack(ref=0, number=last))

    # -- what is announced

    async def _keep_announced(self) -> None:
        while True:
            version = self._offering.version()
            next_at = trio.current_time() + ANNOUNCE_S
            while (  # noqa: ASYNC110
                trio.current_time() < next_at and self._offering.version() == version
            ):
                await trio.sleep(LOOK_S)
            await self._announce()

    async def _announce(self) -> None:
        version, offered = self._offering.version(), self._offering.offered()
        offers = encode_offers(self._key, offered.offers)
        run = self._http.run_id
        with_offers = self._announced != (run, offers)
        if self._announced[0] != run:
            self._sequence = 0
        for _ in range(3):
            self._sequence += 1
            announcement = encode_announcement(
                self._seed,
                name=self._name,
                boot_key=offered.boot_key,
                token=offered.token,
                run=run,
                sequence=self._sequence,
                offers=offers,
                with_offers=with_offers,
            )
            try:
                await self._http.ask(wire.Announce(ref=0, announcement=announcement))
                self._announced, self.announced_version = (run, offers), version
                told, self.announced = self.announced, trio.Event()
                told.set()
                return
            except wire.RelayRefused as refusal:
                last = _LAST.match(refusal.text)
                if refusal.code == "offers_wanted":
                    with_offers = True
                elif refusal.code == "replayed" and last is not None:
                    self._sequence = int(last[1])
                else:
                    raise
        raise RelayGone("the relay takes no announcement")

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

    async def _send_all(self) -> None:
        while True:
            while not self._out:
                self._filled = trio.Event()
                await self._filled.wait()
            send, refused = self._out[0]
            try:
                await self._http.ask(send)
                _log.debug("sent id=%s", send.id.hex())  # it is on the relay's disk
            except wire.RelayRefused as refusal:
                if refusal.code in ("rate_limited", "busy"):
                    await trio.sleep(max(refusal.retry_after_s, 0.05))
                    continue
                if refusal.code not in ("mailbox_full", "not_found", "malformed"):
                    raise
                if refused is not None:
                    refused(_unreachable(refusal))
            self._answers -= self._out.popleft()[0].re is not None
            if self._answers <= QUEUED_MAX:
                self._drained.set()

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
            asked = self._finding.get(question)
            if asked is None:
                return await self._find(question)
            await asked.done.wait()  # many calls ask one question: the relay counts them
            if asked.failure is not None:
                raise NoConnection(asked.failure.reason)

    async def _find(self, question: wire.Find) -> Beacon:
        asked = self._finding[question] = _Asked()
        now = trio.current_time()
        try:
            beacon = await self._found(question)
        except NoConnection as failure:
            asked.failure = failure
            raise
        finally:
            del self._finding[question]
            asked.done.set()
        if len(self._beacons) >= RELAY_CALLS_MAX:
            self._beacons.clear()
        self._beacons[question.node] = (now + BEACON_S, beacon)
        return beacon

    def forget_beacon(self, node: bytes) -> None:
        """It does not answer: it may have started anew."""
        self._beacons.pop(node, None)

    async def _found(self, question: wire.Find) -> Beacon:
        """What the relay shows."""
        try:
            entry = await self.ask(question)
            if not isinstance(entry, list) or len(entry) < 3 or not isinstance(entry[2], bytes):
                raise RemoteProtocolError("malformed entry")
            beacon = decode_beacon(entry[2])
            if beacon.key != question.node:
                raise RemoteProtocolError("the beacon of another node")
        except RemoteProtocolError as error:
            _log.info("relay_find_failed why=%s", error)
            raise NoConnection("no_route") from None
        except wire.RelayRefused as refusal:
            raise _unreachable(refusal) from None
        return beacon

    async def ask(self, question: wire.FromNode) -> Any:
        """Its answer; a connection that the relay knows no more is made again, once.

        Raises: `RelayRefused`; `NoConnection` when the relay cannot be reached.
        """
        for _ in range(2):
            with trio.move_on_after(ONLINE_S):
                await self._online.wait()
            if not self._online.is_set():
                break
            online = self._online
            try:
                return await self._http.ask(question)
            except wire.RelayRefused as refusal:
                if refusal.code != "denied":
                    raise
            except RelayGone as error:
                _log.info("relay_ask_failed why=%s", error)
            if self._online is online:  # else it is a new connection already
                self._online = trio.Event()
                self._carrying.cancel()
        raise NoConnection("no_route")


def _unreachable(refusal: wire.RelayRefused) -> NoConnection:
    return NoConnection("no_such_node" if refusal.code == "not_found" else "overloaded")


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


__all__ = ["Offered", "RelayLink"]
