"""Clones: two live nodes with one key, as a card makes them that was copied with its key.

Decides when that is sure. One key has one place in the cluster (`core/membership.py`), so two of
them take it from each other; without a word about why, nobody would find out.

A clone is seen by
- a node to which both link: the start of the node that was replaced comes again, later than any
  delayed link of its could (SETTLED_S after the newer one came);
- one of the two, when a member refuses it as `superseded` although it runs;
- both, when they meet: a peer has our key and is another start than this one.

Rules: what was seen counts for FRESH_S, since both sides dial again and again; at most CLONES_MAX
keys and CLONES_MAX members that refused us, the oldest goes. A clock that is set changes nothing.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Final, TypeVar

from drupelet.core.members import PeerInfo
from drupelet.wire import limits

SETTLED_S: Final = limits.HANDSHAKE_S
FRESH_S: Final = 900.0  # an address that led to our own key is tried again after 300 s
CLONES_MAX: Final = 64

_K = TypeVar("_K")
_V = TypeVar("_V")


@dataclass(frozen=True, slots=True, kw_only=True)
class Clone:
    """A second live node with that key; `host`: where it was seen, `at`: when."""

    key: bytes
    host: str
    at: float


class Clones:
    """What one node has seen. `own_incarnation` None: meeting our own key says nothing."""

    def __init__(self, own_key: bytes) -> None:
        self.own_incarnation: int | None = None
        self._own_key = own_key
        self._seen: dict[bytes, Clone] = {}
        self._refused_by: dict[str, float] = {}

    def refused(self, word: str, peer: PeerInfo, since: float, now: float) -> None:
        """A link of `peer` was refused with `word`; who has its place came at `since`."""
        if word == "self":
            sure = self.own_incarnation not in (None, peer.incarnation)
        else:
            sure = word == "superseded" and now > since + SETTLED_S
        if sure:
            _put(self._seen, peer.key, Clone(key=peer.key, host=peer.host, at=now))

    def refused_by(self, host: str, word: str, now: float) -> None:
        """A member there refused us with `word`."""
        if word == "superseded":
            _put(self._refused_by, host, now)

    def told(self, host: str, now: float) -> None:
        """A member says that a second node with our key is at `host`."""
        _put(self._seen, self._own_key, Clone(key=self._own_key, host=host, at=now))

    def seen(self, now: float) -> list[Clone]:
        """Clones of other nodes, and of this one where it is known."""
        return [each for each in self._seen.values() if now < each.at + FRESH_S]

    def of(self, key: bytes, now: float) -> str:
        """Where the second node with that key was seen; "" for none."""
        return next((each.host for each in self.seen(now) if each.key == key), "")

    def refusing(self, now: float) -> list[str]:
        """Where members are that took another start with our key for the newer one."""
        return [host for host, at in self._refused_by.items() if now < at + FRESH_S]


def _put(table: MutableMapping[_K, _V], key: _K, value: _V) -> None:
    table.pop(key, None)
    table[key] = value
    if len(table) > CLONES_MAX:
        del table[next(iter(table))]
