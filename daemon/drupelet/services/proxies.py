"""Proxy pids between strangers, on links and through a relay: pids that cross the border.

Decides nothing that `core/proxies.py` can: opens the bodies that may hold pids, carries messages
and ends, and keeps which link leads to whom.

| cast, after `grants/` | from | body |
|---|---|---|
| `send` | the holder | 16 bytes, then the message |
| `watch` | the holder | 16 bytes: it has come; is its process still there? |
| `down` | the giver | 16 bytes, then the reason: it is over |
| `here` | the giver | 16 bytes: it is not; through a relay only, where no link says so |

Rules
- A pid that leaves, in arguments, a value or a message, goes as a proxy; a `Request`, a `Down` or
  an `Exit` does not leave. A pid that comes is refused, and so is a notice: it is a forgery.
- A proxy goes back to who gave it, and is a pid again there; to nobody else.
- Through a relay the same is said in words (`services/words.py`). A link goes before the relay.
- Who sends always hears that it was sent. What is too much for a link is dropped.
- Bodies are converted behind the door: who has no right costs no decoding.

Owns: nothing that runs; the time of proxies is told by `services/deadlines.py`.
"""

from __future__ import annotations

import functools
import logging
import secrets
from collections.abc import Callable, Iterable
from typing import Final

import trio

from drupelet.core.holdings import Holdings
from drupelet.core.proxies import NOPROC, Gone, Held, Proxies
from drupelet.errors import (
    CallError,
    NoConnection,
    NotPermitted,
    NotSendable,
    RemoteError,
    RemoteProtocolError,
)
from drupelet.services.deadlines import Deadlines
from drupelet.services.endpoint import Endpoint
from drupelet.services.ends import End
from drupelet.services.processes import Processes
from drupelet.services.stranger_links import StrangerLinks
from drupelet.services.waiters import Admitted
from drupelet.wire import frames
from drupelet.wire.codec import dumps, loads
from drupelet.wire.frames import CAST, frame
from drupelet.wire.grants import Grant
from drupelet.wire.ids import PROXY_SECRET_BYTES, Pid, ProxyPid
from drupelet.wire.limits import FRAGMENT_BYTES_MAX, OUT_BYTES_MAX, PROXIES_PER_KEY_MAX
from drupelet.wire.messages.processes import (
    DEMONITOR,
    MONITOR,
    NOCONNECTION,
    SEND,
    Signal,
    proxy_secret,
)
from drupelet.wire.proxies import Found, may_hold_pids, replace_pids

_log = logging.getLogger("drupelet.grants")

_NO_WAY: Final = (
    "a pid travels on a link, or in a call through a relay by who holds the grant himself, and not "
    "with an idempotency key"
)
_SEND: Final = frames.call_body(b"grants/send", b"")
_WATCH: Final = frames.call_body(b"grants/watch", b"")
_DOWN: Final = frames.call_body(b"grants/down", b"")
_HERE: Final = frames.call_body(b"grants/here", b"")
_REASONS: Final = (b"expired", b"noproc", b"revoked")  # a stranger's word: no other


class ProxyService:
    """The proxies of one node, given and held."""

    def __init__(
        self,
        name: str,
        processes: Processes,
        links: StrangerLinks,
        deadlines: Deadlines,
        holdings: Holdings,
    ) -> None:
        self._name = name
        self._processes = processes
        self._links = links
        self._deadlines = deadlines
        self.given = Proxies(holdings)
        self.held = Held()
        self.dropped_count = 0
        self._ways: dict[bytes, Endpoint] = {}
        self._away: dict[bytes, Endpoint] = {}  # through a relay: where there is no link
        self._turn = 0
        self.on_withdrawn: Callable[[], None] = lambda: None

    def register(self) -> None:
        """Be told of processes, links, revocations and time."""
        self._processes.proxies = self
        self._links.on_gone = self._link_gone
        self._deadlines.add(self)

    # -- calls

    def outgoing(self, endpoint: Endpoint, body: bytes, grant: Grant | None = None) -> bytes:
        """An encoded value, for a stranger. Raises: `NotSendable`, `RemoteProtocolError`."""
        if not may_hold_pids(body):
            return body
        return _converted(body, functools.partial(self._leaves, endpoint, grant))

    def incoming(self, endpoint: Endpoint, body: bytes) -> bytes:
        """An encoded value, of a stranger. Raises: `CallError`."""
        if not may_hold_pids(body):
            return body
        try:
            return _converted(body, functools.partial(self._comes, endpoint))
        except (RemoteProtocolError, NotSendable) as error:  # malformed; or grown beyond what fits
            raise RemoteError("badarg", str(error)) from None

    def answer(self, endpoint: Endpoint, body: bytes, grant: Grant | None = None) -> bytes:
        """What a function of ours gave, for a stranger. Raises: `CallError`.

        `grant`: by which it was called; the pids in it live as long as that.
        """
        if not may_hold_pids(body):
            return body
        try:
            return self.outgoing(endpoint, body, grant)
        except NotSendable as error:
            raise RemoteError("NotSendable", str(error)) from None
        except RemoteProtocolError as error:
            raise RemoteError("bad_value", str(error)) from None

    def forward(
        self,
        origin: Endpoint,
        ident: int,
        endpoint: Endpoint,
        prefix: bytes,
        args: bytes,
        deadline: float,
        more: int,
    ) -> None:
        """Pass on a call of ours to a stranger. Answers it, now or later."""
        go = functools.partial(self._forward, origin, ident, endpoint, prefix, deadline)
        if not more:
            go(args)
        elif not origin.assemble(ident, args, go):
            origin.reply_error(ident, NoConnection("overloaded"))

    def _forward(
        self,
        origin: Endpoint,
        ident: int,
        endpoint: Endpoint,
        prefix: bytes,
        deadline: float,
        args: bytes,
    ) -> None:
        came = functools.partial(self.incoming, endpoint)
        waiter = Admitted(origin, ident, _nobody_counts, came)
        try:
            endpoint.pass_on(waiter, prefix, self.answer(endpoint, args), deadline)
        except CallError as error:
            waiter.answer(error)

    def _leaves(self, endpoint: Endpoint, grant: Grant | None, found: Found) -> object:
        endpoint = self._met(endpoint)
        if grant is None and isinstance(endpoint, End):
            grant = endpoint.grant
        if isinstance(found, Pid):
            new = secrets.token_bytes(PROXY_SECRET_BYTES)
            now = trio.current_time()
            secret = self.given.give(new, found, endpoint.key, now, grant)
            if secret is None:
                most = f"{PROXIES_PER_KEY_MAX:,}"
                raise NotSendable(f"{endpoint.name} has {most} pids of ours, or all have too many")
            if secret == new:
                self._processes.watch(found)
                soonest = self.given.next_timer()
                if soonest < self._deadlines.wakes_at:
                    self._deadlines.arm(soonest)
            return ProxyPid(self._name, secret)
        if isinstance(found, ProxyPid):
            if self.held.key_of(found.secret) == endpoint.key:
                return found
            raise NotSendable(
                f"{found} is over, or not for {endpoint.name}: it cannot be passed on"
            )
        raise NotSendable(f"a {type(found).__name__} cannot go to {endpoint.name}, a stranger")

    def _comes(self, endpoint: Endpoint, found: Found) -> object:
        if not isinstance(found, ProxyPid):
            raise NotPermitted(f"a {type(found).__name__} of a stranger")
        endpoint = self._met(endpoint)
        pid = self.given.given(found.secret, endpoint.key, trio.current_time())
        if pid is not None:
            return pid
        is_new = self.held.key_of(found.secret) is None
        if not self.held.keep(found.secret, endpoint.key):
            raise NoConnection("overloaded")
        if is_new:  # its process may have ended before it came, and that was told to nobody
            self._cast(endpoint, _WATCH, found.secret)
        return ProxyPid(endpoint.name, found.secret)

    def _met(self, endpoint: Endpoint) -> Endpoint:
        """The way for what is said of a proxy that it is given, or gives. Raises: `NotSendable`."""
        if endpoint.direct:
            self._ways[endpoint.key] = endpoint
            return endpoint
        way = endpoint.way() if isinstance(endpoint, End) else None
        if way is None:
            raise NotSendable(_NO_WAY)
        self._away[way.key] = way
        return way

    # -- from strangers

    def on_cast(self, endpoint: Endpoint, target: bytes, body: bytes) -> bool:
        """A CAST of a stranger; False: it is none of ours."""
        handler = _HANDLERS.get(target)
        if handler is None:
            return False
        if len(body) >= PROXY_SECRET_BYTES:
            handler(self, endpoint, body[:PROXY_SECRET_BYTES], body[PROXY_SECRET_BYTES:])
        return True

    def _on_send(self, endpoint: Endpoint, secret: bytes, message: bytes) -> None:
        pid = self.given.take(secret, endpoint.key, trio.current_time())
        if pid is None:
            return
        try:
            self._processes.deliver(pid, self.incoming(endpoint, message))
        except CallError:
            self.dropped_count += 1
        self._over(self.given.spent(secret))

    def _on_watch(self, endpoint: Endpoint, secret: bytes, rest: bytes) -> None:
        if self.given.given(secret, endpoint.key, trio.current_time()) is None:
            self._cast(endpoint, _DOWN, secret + NOPROC.encode())
        elif spent := self.given.spent(secret):
            self._over(spent)
        elif not endpoint.direct:
            self._cast(endpoint, _HERE, secret)

    def _on_here(self, endpoint: Endpoint, secret: bytes, rest: bytes) -> None:
        """It came: services/words.py knows now that the peer is there."""

    def _on_down(self, endpoint: Endpoint, secret: bytes, rest: bytes) -> None:
        reason = rest.decode() if rest in _REASONS else NOPROC
        self._tell(self.held.end(secret, endpoint.key), reason)

    # -- from processes of ours (services/processes.py)

    def from_process(self, signal: Signal) -> None:
        """One sends to a stranger's, watches it, or does not any more."""
        secret = proxy_secret(signal.to_name)
        if signal.kind == SEND:
            self._send(secret, signal.body)
        elif signal.kind == MONITOR:
            why = self.held.watch(secret, signal.sender, signal.ref)
            if why:
                self._tell([(signal.sender, signal.ref)], why)
        elif signal.kind == DEMONITOR:
            self.held.unwatch(secret, signal.sender, signal.ref)

    def _send(self, secret: bytes, message: bytes) -> None:
        way = self._way(secret)
        if way is None:
            self.dropped_count += 1
            return
        try:
            self._cast(way, _SEND, secret + self.outgoing(way, message))
        except (NotSendable, RemoteProtocolError) as error:
            self.dropped_count += 1
            _log.warning("proxy_message_dropped to=%s what=%s", way.name, error)

    def process_ended(self, pid: Pid) -> None:
        """One that strangers may send to."""
        self._over(self.given.process_gone(pid))

    # -- ends

    def withdraw(self, tickets: Iterable[int]) -> None:
        """Grants are revoked: what of their holdings are proxies is over."""
        self._over(self.given.withdraw(tickets))
        self.on_withdrawn()

    def revoked(self, key: bytes) -> None:
        """A stranger's last right is gone; its link still stands."""
        self._over(self.given.revoke(key))
        self._tell(self.held.peer_gone(key), "revoked")

    def _link_gone(self, endpoint: Endpoint) -> None:
        key = endpoint.key
        other = self._links.endpoint_of(key)
        if other is not None:
            if key in self._ways:
                self._ways[key] = other
            return
        self._ways.pop(key, None)
        if key not in self._away:
            self._peer_gone(key)

    def _peer_gone(self, key: bytes) -> None:
        self.given.peer_gone(key)
        self._tell(self.held.peer_gone(key), NOCONNECTION)

    # -- through a relay (services/words.py)

    def secrets_of(self, key: bytes) -> list[bytes]:
        """Of all proxies that stand between us and that peer."""
        return self.given.secrets_of(key) + self.held.secrets_of(key)

    def watched(self, key: bytes) -> bytes:
        """One of that peer's that a process here watches, another each time; b"": there is none."""
        found = self.held.watched(key)
        self._turn += 1
        return found[self._turn % len(found)] if found else b""

    def ask(self, way: Endpoint, secret: bytes) -> None:
        """Whether that proxy is still good."""
        self._cast(way, _WATCH, secret)

    def away_gone(self, way: Endpoint) -> None:
        """The peer is silent, or nothing is left between us; a link may still lead to it."""
        if self._away.pop(way.key, None) is not None and way.key not in self._ways:
            self._peer_gone(way.key)

    def next_timer(self) -> float:
        """When the next one is over."""
        return self.given.next_timer()

    def handle_timer(self, now: float) -> None:
        """Some are over."""
        self._over(self.given.expire(now))

    def _over(self, ended: Iterable[Gone]) -> None:
        for gone in ended:
            way = self._way_to(gone.key)
            if way is not None:
                self._cast(way, _DOWN, gone.secret + gone.reason.encode())

    def _tell(self, watchers: Iterable[tuple[Pid, int]], reason: str) -> None:
        for watcher, ref in watchers:
            self._processes.tell_down(watcher, ref, reason)

    # -- links

    def _way(self, secret: bytes) -> Endpoint | None:
        key = self.held.key_of(secret)
        return self._way_to(key) if key is not None else None

    def _way_to(self, key: bytes) -> Endpoint | None:
        """A link, else the relay."""
        way = self._ways.get(key)
        return way if way is not None and not way.closed else self._away.get(key)

    def _cast(self, endpoint: Endpoint, prefix: bytes, body: bytes) -> None:
        """A message that does not fit is dropped; what is said once is not."""
        is_full = endpoint.channel.queued_bytes > OUT_BYTES_MAX and prefix is _SEND
        if endpoint.closed or is_full or len(prefix) + len(body) > FRAGMENT_BYTES_MAX:
            self.dropped_count += 1
        else:
            endpoint.channel.queue(frame(CAST, 0, prefix + body))


_HANDLERS: Final[dict[bytes, Callable[[ProxyService, Endpoint, bytes, bytes], None]]] = {
    b"grants/send": ProxyService._on_send,
    b"grants/watch": ProxyService._on_watch,
    b"grants/down": ProxyService._on_down,
    b"grants/here": ProxyService._on_here,
}


def _converted(body: bytes, instead: Callable[[Found], object]) -> bytes:
    """Unchanged when it only looked as if it held one: random bytes do, from 20 kB on."""
    is_changed = False

    def replace(found: Found) -> object:
        nonlocal is_changed
        is_changed = True
        return instead(found)

    value = replace_pids(loads(body), replace)
    return dumps(value) if is_changed else body


def _nobody_counts(outcome: str) -> None:
    """A call of ours to a stranger: counted there."""


__all__ = ["ProxyService"]
