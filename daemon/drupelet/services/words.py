"""Words through a relay: proxy pids between two nodes that no link joins.

Decides nothing that `core/words.py` and `services/proxies.py` can: seals what those say, opens what
comes, and asks the peers whose proxies are watched whether they are still there.

Rules
- To `ProxyService` a peer at the relay is an endpoint like a link: a `WordEnd`, whose channel takes
  CASTs and makes words of them. One for each peer, while there is a proxy between the two.
- A word is opened by a proxy that stands between us and who sent it; whatever else comes is dropped
  without an answer. It is heard only if it is newer than what was heard.
- When the last right by which a peer has called is gone, so is all between the two.
- When WORDS_WAITING_MAX messages wait for the relay, more are dropped, as on a link that is full.

Owns: one task that sends words; its time is told by `services/deadlines.py`.
"""

from __future__ import annotations

import logging
import secrets
from collections import deque
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Final, cast

import trio

from drupelet.core.grants import Right
from drupelet.core.words import TICK_S, Peers
from drupelet.errors import NoConnection, RemoteProtocolError
from drupelet.services.calls import Calls
from drupelet.services.deadlines import Deadlines
from drupelet.services.ends import End
from drupelet.services.proxies import ProxyService
from drupelet.services.relay_link import RelayLink
from drupelet.wire import relay as wire
from drupelet.wire import sodium
from drupelet.wire.frames import HEADER_BYTES, split_call
from drupelet.wire.ids import PROXY_SECRET_BYTES
from drupelet.wire.keys import key_prefix, key_to_text
from drupelet.wire.limits import OUT_BYTES_MAX, WORDS_WAITING_MAX
from drupelet.wire.relay import MESSAGE_ID_BYTES
from drupelet.wire.words import (
    BOOT_BYTES,
    SALT_BYTES,
    Word,
    decode_word,
    encode_word,
    id_of,
    word_id,
)

if TYPE_CHECKING:
    from drupelet.net.channel import Channel

_DOWN: Final = b"grants/down"
_KEPT_S: Final = 600  # at the relay: a proxy lives no longer
_AGAIN_S: Final = 0.5
_OVER_MAX: Final = 128  # of one peer
_RIGHTS_MAX: Final = 64  # the same; the oldest goes first
_log = logging.getLogger("drupelet.grants")


class _WordChannel:
    """What a `WordEnd` has in place of a channel."""

    close_reason = ""
    closed = False
    congested = False
    bulk_bytes = 0

    def __init__(self, words: Words, key: bytes) -> None:
        self._words = words
        self._key = key

    @property
    def queued_bytes(self) -> int:
        """More than any link may have, when too many words wait."""
        return OUT_BYTES_MAX + 1 if self._words.waiting >= WORDS_WAITING_MAX else 0

    def queue(self, frame: bytes) -> None:
        """A CAST: what it says leaves as a word."""
        self._words.send(self._key, frame[HEADER_BYTES:])

    def send_now(self) -> None:
        """It is sent."""

    def close(self, reason: str) -> None:
        """It is not used any more."""
        self.close_reason = reason
        self.closed = True


class WordEnd(End):
    """A peer at the relay, as `ProxyService` sees it."""

    __slots__ = ("rights",)

    def __init__(self, words: Words, router: Calls, deadlines: Deadlines, name: str, key: bytes):
        super().__init__(router, deadlines, lambda ident, outcome: None, name=name, key=key)
        self.channel = cast("Channel", _WordChannel(words, key))
        self.rights: dict[bytes, Right] = {}  # by which it has called us, by their grants' ids

    def way(self) -> WordEnd:
        """Words of it go by itself."""
        return self


class Words:
    """Those of one node."""

    def __init__(
        self,
        *,
        seed: bytes,
        link: RelayLink,
        proxies: ProxyService,
        calls: Calls,
        deadlines: Deadlines,
        holds: Callable[[Right, float], bool],
    ) -> None:
        self.dropped_count = 0
        self._seed = seed
        self._key = sodium.ed25519_public(seed)
        self._boot = secrets.token_bytes(BOOT_BYTES)
        self._proxies = proxies
        self._holds = holds
        proxies.on_withdrawn = self._cut_off
        self._calls = calls
        self._deadlines = deadlines
        self._peers = Peers()
        self._ends: dict[bytes, WordEnd] = {}
        self._secrets: dict[bytes, dict[bytes, bytes]] = {}  # of a peer's words: id -> secret
        self._over: dict[bytes, deque[bytes]] = {}  # told to be over: who asks is told again
        self._idle: set[bytes] = set()  # without a proxy at the last tick
        self._tick_at = inf
        self._link = link
        self._out: deque[wire.Send] = deque()
        self._filled = trio.Event()
        deadlines.add(self)

    def end(self, name: str, key: bytes, right: Right | None = None) -> WordEnd | None:
        """The way to a peer. None: there are too many. `right`: by which it has called us."""
        end = self._ends.get(key)
        if end is None:
            if not self._peers.meet(key):
                return None
            name = name or key_prefix(key_to_text(key))
            end = self._ends[key] = WordEnd(self, self._calls, self._deadlines, name, key)
            if self._tick_at == inf:
                self._arm()
        if right is not None:
            end.grant = right.grant
            if right.grant.id not in end.rights and len(end.rights) >= _RIGHTS_MAX:
                del end.rights[next(iter(end.rights))]
            end.rights[right.grant.id] = right
        return end

    # -- what goes out

    def send(self, to: bytes, cast_body: bytes) -> None:
        """The body of a CAST about a proxy."""
        secret = _secret_of(cast_body)
        if not secret:
            return
        word = Word(boot=self._boot, number=self._peers.next_number(), cast=cast_body)
        data = encode_word(self._seed, secret, to, word, secrets.token_bytes(SALT_BYTES))
        if split_call(cast_body).target == _DOWN and to in self._ends:
            self._over.setdefault(to, deque(maxlen=_OVER_MAX)).append(secret)
        if len(self._out) >= 2 * WORDS_WAITING_MAX:  # not even what is said once
            self.dropped_count += 1
            return
        ident = secrets.token_bytes(MESSAGE_ID_BYTES)
        self._out.append(
            wire.Send(ref=0, to=to, id=ident, re=None, kept_s=_KEPT_S, receipt=False, body=data)
        )
        self._filled.set()

    @property
    def waiting(self) -> int:
        """Words that the relay has not taken yet."""
        return len(self._out)

    async def run(self) -> None:
        """Send them, one after the other: two under way could change places at the relay."""
        while True:
            while not self._out:
                self._filled = trio.Event()
                await self._filled.wait()
            try:
                await self._link.ask(self._out[0])
            except wire.RelayRefused as refusal:
                if refusal.code in ("rate_limited", "busy"):
                    await trio.sleep(max(refusal.retry_after_s, 0.05))
                    continue
                self.dropped_count += 1
            except NoConnection:
                await trio.sleep(_AGAIN_S)  # the relay is away; the same word again
                continue
            self._out.popleft()

    # -- what comes in

    def take(self, message: wire.Deliver) -> None:
        """A word, from a relay."""
        end = self._ends.get(message.sender)
        secret = self._secret(message.sender, id_of(message.body)) if end is not None else None
        if end is None or secret is None:
            self.dropped_count += 1
            return
        try:
            word = decode_word(message.body, secret, message.sender, self._key)
            call = split_call(word.cast)
        except RemoteProtocolError:
            self.dropped_count += 1
            return
        if call.args[:PROXY_SECRET_BYTES] != secret:  # a word speaks of the proxy it came by
            self.dropped_count += 1
        elif self._peers.takes(end.key, word.boot, word.number):
            self._proxies.on_cast(end, call.target, call.args)
        else:
            self.dropped_count += 1

    def _secret(self, key: bytes, ident: bytes) -> bytes | None:
        known = self._secrets.get(key, {})
        if ident not in known:
            several = [*self._over.get(key, ()), *self._proxies.secrets_of(key)]
            now = {word_id(each, self._key): each for each in several}
            known = self._secrets[key] = now
        return known.get(ident)

    # -- time

    def next_timer(self) -> float:
        """When peers are asked again; never while there is none."""
        return self._tick_at

    def handle_timer(self, now: float) -> None:
        """Ask those whose proxies are watched; forget who is silent, or has no proxy."""
        if now < self._tick_at:
            return
        self._cut_off()
        watched = {key: secret for key in self._ends if (secret := self._proxies.watched(key))}
        ask, gone = self._peers.tick(watched, now)
        for key in ask:
            self._proxies.ask(self._ends[key], watched[key])
        for key in gone:
            _log.info("proxies_gone peer=%s why=silent", self._ends[key].name)
            self._forget(key)
        idle = {each for each in self._ends if not self._proxies.secrets_of(each)}
        for key in idle & self._idle:
            self._forget(key)
        self._idle = idle
        self._tick_at = inf
        if self._ends:
            self._arm()

    def _cut_off(self) -> None:
        """Grants were revoked: all is over with a peer whose last right is gone."""
        now = trio.current_time()
        for end in self._ends.values():
            left = {name: each for name, each in end.rights.items() if self._holds(each, now)}
            is_last = bool(end.rights) and not left
            end.rights = left
            if is_last:
                end.grant = None
                self._proxies.revoked(end.key)

    def _arm(self) -> None:
        self._tick_at = trio.current_time() + TICK_S
        if self._tick_at < self._deadlines.wakes_at:
            self._deadlines.arm(self._tick_at)

    def _forget(self, key: bytes) -> None:
        end = self._ends.pop(key)
        end.channel.close("noconnection")
        self._secrets.pop(key, None)
        self._over.pop(key, None)
        self._peers.forget(key)
        self._proxies.away_gone(end)


def _secret_of(cast_body: bytes) -> bytes:
    """Of which proxy it speaks."""
    return bytes(split_call(cast_body).args[:PROXY_SECRET_BYTES])


__all__ = ["WordEnd", "Words"]
