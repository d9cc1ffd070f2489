"""Pairing through a relay: how two nodes that no link joins say what they say on a link.

Decides nothing that `services/pairing.py` and `services/joining.py` decide: shows and finds plates
(`wire/relayed_pairing.py`), and carries asks and answers.

Rules
- A word counts when its signature holds, and an answer only for its ask; whatever else a relay
  brings is dropped, and the wait goes on.
- The relay may bring a word twice: an ask is heard once.
- Words of the side that shows a code leave in order, and its plate is taken back behind them.

Owns: one task that sends those words; one for each grant that is made meanwhile.
"""

from __future__ import annotations

import logging
import secrets
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple, Protocol

import trio

from drupelet.errors import CallError, NoConnection, NotPermitted, RemoteError, RemoteProtocolError
from drupelet.services.relay_link import RelayLink
from drupelet.wire import relay as wire
from drupelet.wire import sodium
from drupelet.wire.limits import PAIR_CONFIRM_S, PAIR_RUNS_MAX
from drupelet.wire.relay import MESSAGE_ID_BYTES
from drupelet.wire.relayed_pairing import (
    RUN_BYTES,
    Ask,
    Met,
    decode_answer,
    decode_ask,
    decode_met,
    encode_answer,
    encode_ask,
    encode_met,
    plate_of,
    session_of,
)

_log = logging.getLogger("drupelet.pairing")

SHOW_S: Final = 2.0  # so long a new code waits for its plate
ANSWER_S: Final = 8.0
_WORDS_MAX: Final = 8 * PAIR_RUNS_MAX  # that wait for the relay, and ids that are remembered

Addresses = Callable[[], list[tuple[str, int]]]


class Peer(Protocol):
    """Who tries a code: a link to it, or a run through a relay."""

    @property
    def binding(self) -> bytes: ...

    @property
    def key(self) -> bytes: ...

    @property
    def name(self) -> str: ...


class Away(NamedTuple):
    """One that tries a code through the relay. `binding`: CPace's session."""

    binding: bytes
    key: bytes
    name: str


class Shows(Protocol):
    """Who shows codes: `services/pairing.py`."""

    def is_open(self) -> bool: ...

    def isk(self) -> bytes: ...

    def start(self, endpoint: Peer, message: object) -> bytes: ...

    def step(self, endpoint: Peer, message: object) -> Awaitable[bytes]: ...

    def kept(self, peer: Peer, addresses: tuple[tuple[str, int], ...]) -> None: ...


class _Waiting:
    """An ask without an answer."""

    def __init__(self, key: bytes, run: bytes) -> None:
        self.key = key
        self.run = run
        self.done = trio.Event()
        self.answer: bytes | CallError = b""


class RelayedPeer:
    """A node that shows a code at the relay, for the one that has it."""

    def __init__(self, way: RelayedPairing, key: bytes, name: str, plate: int, url: str) -> None:
        self.key = key
        self.name = name  # the relay's word, until the other side has proved the code
        self.places: tuple[tuple[str, int], ...] = ()
        self.plate = plate
        self.url = url
        self.run = secrets.token_bytes(RUN_BYTES)
        self.binding = session_of(self.run, way.key, key, way.name)
        self._way = way
        self._isk = b""

    def keyed(self, isk: bytes) -> None:
        """The key of this run."""
        self._isk = isk

    async def ask(self, step: str, payload: bytes = b"") -> object:
        """The answer, as from a link. Raises: `CallError`."""
        if step == "done":
            met = Met(name=self._way.name, addresses=self._way.addresses(), payload=payload)
            payload = encode_met(self._isk, step, met)
        try:
            answer = await self._way.say(self, step, payload)
        except NoConnection:
            if step != "start":
                raise
            told = f"{self.name} shows a code at the relay {self.url}, and does not answer"
            raise RemoteError("relay_silent", told) from None
        if step != "step":
            return answer
        try:
            met = decode_met(self._isk, step, answer)
        except RemoteProtocolError:
            raise RemoteError("wrong_code", "the node that answered has another code") from None
        self.name, self.places = met.name, met.addresses
        return met.payload

    def close(self) -> None:
        """There is nothing to close."""


class RelayedPairing:
    """That of one node. `shows`: set by who shows codes."""

    def __init__(
        self,
        link: RelayLink,
        *,
        seed: bytes,
        name: str,
        addresses: Addresses,
        nursery: trio.Nursery,
    ) -> None:
        self.key = sodium.ed25519_public(seed)
        self.name = name
        self.shows: Shows | None = None
        self._link = link
        self._seed = seed
        self._addresses = addresses
        self._nursery = nursery
        self._waiting: dict[bytes, _Waiting] = {}
        self._heard: deque[bytes] = deque(maxlen=_WORDS_MAX)
        self._out, self._words = trio.open_memory_channel[wire.FromNode](_WORDS_MAX)
        link.on_kind[wire.PAIRING] = self._take

    @property
    def url(self) -> str:
        """The relay that is used now."""
        return self._link.url

    @property
    def urls(self) -> tuple[str, ...]:
        """That, and others that are kept in step with it."""
        return self._link.urls

    def addresses(self) -> tuple[tuple[str, int], ...]:
        """Where we may be reached."""
        return tuple(self._addresses())

    async def run(self) -> None:
        """Send what the side that shows a code has to say."""
        async for word in self._words:
            try:
                await self._link.ask(word)
            except (wire.RelayRefused, NoConnection) as error:
                _log.info("pairing_word_lost why=%s", error)

    # -- the side that shows a code

    async def show(self, code: str, span_s: float) -> None:
        """The code can be found at the relay. Raises: `RelayRefused`, `NoConnection`."""
        with trio.move_on_after(SHOW_S):
            await self._link.ask(_plate(code, span_s))
            return
        raise NoConnection("silent")

    def show_on(self, code: str, span_s: float) -> None:
        """The same again: a relay that was restarted has forgotten it."""
        self._queue(_plate(code, span_s))

    def hide(self) -> None:
        """The code is no longer good."""
        self._queue(wire.ShowPlate(ref=0, plate=None, kept_s=1))

    def _take(self, message: wire.Deliver) -> None:
        if message.re is not None:
            self._answered(message.re, message)
        elif self.shows is not None and self.shows.is_open() and message.id not in self._heard:
            self._heard.append(message.id)
            try:
                ask = decode_ask(message.body, message.sender, self.key)
            except RemoteProtocolError as error:
                _log.debug("pairing_word_dropped why=%s", error)
            else:
                self._hear(self.shows, message, ask)

    def _hear(self, shows: Shows, message: wire.Deliver, ask: Ask) -> None:
        session = session_of(ask.run, message.sender, self.key, ask.name)
        peer = Away(session, message.sender, ask.name)
        try:
            if ask.step == "start":
                self._answer(message, ask.run, shows.start(peer, ask.payload))
            elif ask.step == "step":
                handed = shows.step(peer, ask.payload)
                self._nursery.start_soon(self._hand_over, message, ask.run, shows.isk(), handed)
            elif not shows.isk():
                raise NotPermitted
            else:
                met = decode_met(shows.isk(), ask.step, ask.payload)
                shows.kept(peer, met.addresses)
                self._answer(message, ask.run, b"")
        except RemoteProtocolError as error:
            self._answer(message, ask.run, RemoteError("badarg", str(error)))
        except Exception as error:  # ours, or what the other shall hear
            self._answer(message, ask.run, _failure(error))

    async def _hand_over(
        self, message: wire.Deliver, run: bytes, isk: bytes, handed: Awaitable[bytes]
    ) -> None:
        try:
            met = Met(name=self.name, addresses=self.addresses(), payload=await handed)
        except Exception as error:  # a disk that is full, too
            self._answer(message, run, _failure(error))
        else:
            self._answer(message, run, encode_met(isk, "step", met))

    def _answer(self, message: wire.Deliver, run: bytes, answer: bytes | CallError) -> None:
        body = encode_answer(self._seed, message.sender, run, message.id, answer)
        ident = secrets.token_bytes(MESSAGE_ID_BYTES)
        self._queue(
            wire.Pair(ref=0, to=message.sender, plate=None, id=ident, re=message.id, body=body)
        )

    def _queue(self, word: wire.FromNode) -> None:
        try:
            self._out.send_nowait(word)
        except trio.WouldBlock:
            _log.info("pairing_word_lost why=too_many")

    # -- the side that has it

    async def find(self, code: str) -> RelayedPeer:
        """Who shows that code at the relay, or at one kept in step with it. Raises: `RemoteError`.

        The others are asked when that knows of none: they do not tell each other of codes.
        """
        failure: RemoteError | None = None
        for url in sorted(self.urls, key=lambda each: each != self.url):
            try:
                return await self._find_at(url, code)
            except RemoteError as error:
                failure = failure or error
        assert failure is not None
        raise failure

    async def _find_at(self, url: str, code: str) -> RelayedPeer:
        plate = plate_of(code)
        try:
            found = await self._link.ask_at(url, wire.FindPlate(ref=0, plate=plate))
        except (wire.RelayRefused, NoConnection) as error:
            raise _told(url, error) from None
        match found:
            case [bytes(key), str(name)] if len(key) == sodium.KEY_BYTES:
                if key == self.key:
                    raise RemoteError("own_code", "this node itself shows that code")
                return RelayedPeer(self, key, name, plate, url)
        raise RemoteError("relay_down", f"the relay {url} answers something else")

    async def say(self, peer: RelayedPeer, step: str, payload: bytes) -> bytes:
        """One ask, and its answer. Raises: `CallError`."""
        ident = secrets.token_bytes(MESSAGE_ID_BYTES)
        ask = Ask(run=peer.run, step=step, name=self.name, payload=payload)
        body = encode_ask(self._seed, peer.key, ask)
        waiting = self._waiting[ident] = _Waiting(peer.key, peer.run)
        try:
            with trio.move_on_after(ANSWER_S):
                await self._link.ask_at(
                    peer.url,
                    wire.Pair(ref=0, to=peer.key, plate=peer.plate, id=ident, re=None, body=body),
                )
                await waiting.done.wait()
        except wire.RelayRefused as refusal:
            raise _told(peer.url, refusal) from None
        finally:
            del self._waiting[ident]
        if not waiting.done.is_set():
            raise NoConnection("silent")
        if isinstance(waiting.answer, CallError):
            raise waiting.answer
        return waiting.answer

    def _answered(self, re: bytes, message: wire.Deliver) -> None:
        waiting = self._waiting.get(re)
        if waiting is None or waiting.done.is_set():
            return
        try:
            waiting.answer = decode_answer(message.body, waiting.key, self.key, waiting.run, re)
        except CallError as error:
            waiting.answer = error
        except RemoteProtocolError as error:
            _log.debug("pairing_word_dropped why=%s", error)
            return
        waiting.done.set()


def _failure(error: Exception) -> CallError:
    """What the other side hears: a word from outside ends nothing but itself."""
    if isinstance(error, CallError):
        return error
    _log.error("pairing_failed", exc_info=error)
    return RemoteError(type(error).__name__, "that node could not do it; its log says why")


def _told(url: str, error: wire.RelayRefused | NoConnection) -> RemoteError:
    if isinstance(error, NoConnection):
        return RemoteError("relay_down", f"the relay {url} cannot be reached now")
    if error.code == "not_found":
        return RemoteError("nobody_waits", f"the relay {url} knows of no such code")
    if error.code == "rate_limited":
        wait_s = f"{error.retry_after_s:.0f} s"
        return RemoteError("relay_busy", f"the relay {url} lets this node look again in {wait_s}")
    return RemoteError("relay_down", f"the relay {url} refuses: {error.code}")


def _plate(code: str, span_s: float) -> wire.ShowPlate:
    kept_s = max(1, int(span_s + PAIR_CONFIRM_S))
    return wire.ShowPlate(ref=0, plate=plate_of(code), kept_s=kept_s)


__all__ = ["Peer", "RelayedPairing", "RelayedPeer"]
