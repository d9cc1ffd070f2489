"""Proxy pids (billet-doux): a stranger's right to send to one process, and nothing else.

Decides which process a proxy stands for, from whom it is taken, and when it is over. What leaves
the node is its name and 16 random bytes; the pid itself never does.

    secret = random 16 bytes
    proxies.give(secret, pid, key, now)            # the pid goes to the stranger with that key
    proxies.take(secret, key, now)                 # it sends: the pid, or None
    proxies.process_gone(pid), proxies.peer_gone(key), proxies.revoke(key)
    for gone in proxies.expire(now): ...           # tell the holder that it is over

`Held` has the other side: those that strangers gave to processes of this node, and who of them
watches which.

Rules
- A proxy counts only from the key that it was given to: who overheard or guessed one has nothing.
  A wrong one, one that is over and one of somebody else are answered alike: not at all. A sender
  always hears that it was sent.
- It lives under the grants by whose calls it was given (core/holdings.py), and ends with the last
  of them. One given in a message, or with a call of ours, ends with its holder's last right.
- It ends after LIFETIME_S, after PROXY_MESSAGES_MAX messages, with its process and with its
  holder's last link besides, whichever comes first.
- Its holder is told of its end, also when its last message was taken (`spent`).
- The same pid given to the same key again is the same proxy, with its time and budget as they are:
  a holder cannot renew them by asking, and a loop that mentions itself does not fill the table.
- At most PROXIES_PER_KEY_MAX for one key, PROXIES_MAX for all together; beyond, nothing more is
  given, and the call says so.
- A pid that comes back from who holds its proxy is that pid again (`given`).
- What one stranger gave is never sent to another, nor taken from one that did not give it.

References: Armstrong, "Getting Erlang to talk to the outside world", on pids as leaky permissions;
Miller, "Robust Composition", on revocable forwarders.
Rejected: signed pids (they would say which process they are, and could be sent without us); proxies
that whoever holds them may use (they would be passed on without anybody's knowledge).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf
from typing import Final

from drupelet.core.holdings import Holdings
from drupelet.wire.grants import Grant
from drupelet.wire.ids import PROXY_SECRET_BYTES, Pid
from drupelet.wire.limits import (
    PROXIES_MAX,
    PROXIES_PER_KEY_MAX,
    PROXY_MESSAGES_MAX,
    PROXY_WATCHERS_MAX,
)

LIFETIME_S: Final = 600.0
NOPROC: Final = "noproc"


@dataclass(frozen=True, slots=True)
class Gone:
    """A proxy is over: its holder `key` is told DOWN with `reason`."""

    secret: bytes
    key: bytes
    reason: str


@dataclass(slots=True)
class _Proxy:
    secret: bytes
    pid: Pid
    key: bytes
    deadline: float
    messages_left: int
    tickets: dict[bytes, int] = field(default_factory=dict)  # by the grant that it lives under
    is_bound: bool = True  # to those alone


class Proxies:
    """All proxies that one node has given. `holdings`: what lives under its grants."""

    __slots__ = ("_by_key", "_by_pid", "_by_secret", "_holdings", "forged_count", "sent_count")

    def __init__(self, holdings: Holdings | None = None) -> None:
        self._holdings = Holdings() if holdings is None else holdings
        self._by_secret: dict[bytes, _Proxy] = {}  # in the order of their ends
        self._by_key: dict[bytes, dict[Pid, _Proxy]] = {}
        self._by_pid: dict[Pid, set[bytes]] = {}
        self.forged_count = 0
        self.sent_count = 0

    def give(
        self, secret: bytes, pid: Pid, key: bytes, now: float, grant: Grant | None = None
    ) -> bytes | None:
        """`pid` goes to the stranger with `key`: its secret; None when it has too many.

        `secret`: 16 fresh random bytes, which are used if this is a new one. `grant`: by which it
        called for it.
        """
        assert len(secret) == PROXY_SECRET_BYTES
        given = self._by_key.setdefault(key, {})
        known = given.get(pid)
        if known is not None and known.deadline > now:
            self._bind(known, grant)
            return known.secret
        if known is not None:
            self._forget(known)
        if (
            len(given) >= PROXIES_PER_KEY_MAX
            or len(self._by_secret) >= PROXIES_MAX
            or self._holdings.full
        ):
            if not given:
                del self._by_key[key]
            return None
        proxy = _Proxy(secret, pid, key, now + LIFETIME_S, PROXY_MESSAGES_MAX)
        self._by_secret[secret] = proxy
        self._by_key.setdefault(key, {})[pid] = proxy
        self._by_pid.setdefault(pid, set()).add(secret)
        self._bind(proxy, grant)
        return secret

    def _bind(self, proxy: _Proxy, grant: Grant | None) -> None:
        """It lives as long as that grant, too."""
        if grant is None or self._holdings.full:
            proxy.is_bound = proxy.is_bound and grant is not None
        elif grant.id not in proxy.tickets:
            proxy.tickets[grant.id] = self._holdings.hold(grant, proxy.secret)

    def take(self, secret: bytes, key: bytes, now: float) -> Pid | None:
        """A message came for `secret` from the stranger with `key`: for whom it is, or None."""
        proxy = self._by_secret.get(secret)
        if proxy is None or proxy.key != key or proxy.deadline <= now or not proxy.messages_left:
            self.forged_count += 1
            return None
        proxy.messages_left -= 1
        self.sent_count += 1
        return proxy.pid

    def spent(self, secret: bytes) -> list[Gone]:
        """What to tell of one that has taken its last message: it is over, as by its time.

        It stays known until its time: asking for it again must not renew it.
        """
        proxy = self._by_secret.get(secret)
        if proxy is None or proxy.messages_left:
            return []
        return [Gone(proxy.secret, proxy.key, "expired")]

    def given(self, secret: bytes, key: bytes, now: float) -> Pid | None:
        """Whose proxy it is, when that stranger holds it; costs nothing of its budget."""
        proxy = self._by_secret.get(secret)
        if proxy is None or proxy.key != key or proxy.deadline <= now:
            return None
        return proxy.pid

    def next_timer(self) -> float:
        """When `expire` has something to tell; inf: never."""
        for proxy in self._by_secret.values():
            return proxy.deadline
        return inf

    def expire(self, now: float) -> list[Gone]:
        """Those whose time is over."""
        over: list[_Proxy] = []
        for proxy in self._by_secret.values():
            if proxy.deadline > now:
                break  # they stand in the order of their ends
            over.append(proxy)
        return self._end(over, "expired")

    def process_gone(self, pid: Pid) -> list[Gone]:
        """The process ended."""
        secrets = sorted(self._by_pid.get(pid, ()))
        return self._end([self._by_secret[secret] for secret in secrets], NOPROC)

    def runtime_gone(self, pids: Iterable[Pid]) -> list[Gone]:
        """Many processes ended at once."""
        return [gone for pid in pids for gone in self.process_gone(pid)]

    def peer_gone(self, key: bytes) -> None:
        """The holder's last link is gone: nobody is left to tell."""
        for proxy in list(self._by_key.get(key, {}).values()):
            self._forget(proxy)

    def revoke(self, key: bytes) -> list[Gone]:
        """The holder's last right is gone."""
        return self._end(list(self._by_key.get(key, {}).values()), "revoked")

    def withdraw(self, tickets: Iterable[int]) -> list[Gone]:
        """Grants are revoked: those of these holdings that were proxies, and are over."""
        over: list[_Proxy] = []
        for ticket in tickets:
            secret = self._holdings.what(ticket)
            proxy = self._by_secret.get(secret) if isinstance(secret, bytes) else None
            if proxy is None:
                continue
            self._holdings.drop(ticket)
            proxy.tickets = {name: each for name, each in proxy.tickets.items() if each != ticket}
            if proxy.is_bound and not proxy.tickets:
                over.append(proxy)
        return self._end(over, "revoked")

    def secrets_of(self, key: bytes) -> list[bytes]:
        """Those that a key has."""
        return [proxy.secret for proxy in self._by_key.get(key, {}).values()]

    def given_to(self, key: bytes) -> int:
        """How many a key has."""
        return len(self._by_key.get(key, {}))

    def __len__(self) -> int:
        return len(self._by_secret)

    def _end(self, proxies: list[_Proxy], reason: str) -> list[Gone]:
        for proxy in proxies:
            self._forget(proxy)
        return [Gone(proxy.secret, proxy.key, reason) for proxy in proxies]

    def _forget(self, proxy: _Proxy) -> None:
        del self._by_secret[proxy.secret]
        for ticket in proxy.tickets.values():
            self._holdings.drop(ticket)
        given = self._by_key[proxy.key]
        del given[proxy.pid]
        if not given:
            del self._by_key[proxy.key]
        given_as = self._by_pid[proxy.pid]
        given_as.discard(proxy.secret)
        if not given_as:
            del self._by_pid[proxy.pid]


class Held:
    """The proxies that strangers gave us. A watcher: a process of ours, its monitor's ref."""

    __slots__ = ("_by_key", "_key_of")

    def __init__(self) -> None:
        self._by_key: dict[bytes, dict[bytes, set[tuple[Pid, int]]]] = {}  # secret -> watchers
        self._key_of: dict[bytes, bytes] = {}

    def keep(self, secret: bytes, key: bytes) -> bool:
        """The stranger with `key` gave it. False: it gave too many, or it is somebody else's."""
        owner = self._key_of.get(secret)
        if owner is not None:
            return owner == key
        own = self._by_key.get(key, {})
        if len(own) >= PROXIES_PER_KEY_MAX or len(self._key_of) >= PROXIES_MAX:
            return False
        self._by_key.setdefault(key, own)[secret] = set()
        self._key_of[secret] = key
        return True

    def key_of(self, secret: bytes) -> bytes | None:
        """Who gave it."""
        return self._key_of.get(secret)

    def watch(self, secret: bytes, watcher: Pid, ref: int) -> str:
        """Why not, as a Down has it; "" when its end will be told."""
        key = self._key_of.get(secret)
        if key is None:
            return NOPROC
        watchers = self._by_key[key][secret]
        if len(watchers) >= PROXY_WATCHERS_MAX:
            return "system_limit"
        watchers.add((watcher, ref))
        return ""

    def unwatch(self, secret: bytes, watcher: Pid, ref: int) -> None:
        """It is not watched any more by that one."""
        key = self._key_of.get(secret)
        if key is not None:
            self._by_key[key][secret].discard((watcher, ref))

    def secrets_of(self, key: bytes) -> list[bytes]:
        """Those that one has given."""
        return list(self._by_key.get(key, {}))

    def watched(self, key: bytes) -> list[bytes]:
        """Those of them that somebody watches."""
        return [secret for secret, watchers in self._by_key.get(key, {}).items() if watchers]

    def end(self, secret: bytes, key: bytes) -> list[tuple[Pid, int]]:
        """Who gave it says that it is over: whom to tell."""
        if self._key_of.get(secret) != key:
            return []
        del self._key_of[secret]
        own = self._by_key[key]
        watchers = own.pop(secret)
        if not own:
            del self._by_key[key]
        return _in_order(watchers)

    def peer_gone(self, key: bytes) -> list[tuple[Pid, int]]:
        """All that this one gave is over: whom to tell."""
        told: list[tuple[Pid, int]] = []
        for secret, watchers in self._by_key.pop(key, {}).items():
            del self._key_of[secret]
            told += _in_order(watchers)
        return told

    def __len__(self) -> int:
        return len(self._key_of)


def _in_order(watchers: set[tuple[Pid, int]]) -> list[tuple[Pid, int]]:
    """The same in each run."""
    return sorted(watchers, key=lambda each: (each[0].number, each[1]))
