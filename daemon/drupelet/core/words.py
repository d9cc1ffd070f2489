"""Words between nodes that only a relay joins: their order, and whether the other is still there.

Decides which word counts, when to ask a silent peer, and when it is gone.

    peers.meet(key)                           # it may speak from now on
    peers.takes(key, boot, number)            # whether this word is new
    ask, gone = peers.tick(watched, now)      # each TICK_S, while there are peers

Rules
- A word counts when its number is higher than that of the last one of the same peer and boot. So
  what comes twice, late or again from a relay that plays old mail is dropped, and what counts comes
  in the order in which it was sent. A gap is not waited for: a relay can lose mail, as a link that
  is full drops a message; who sends hears "sent" all the same.
- A word of another boot of the peer's begins a new count, and the former boot is never heard again.
  BOOTS_MAX of them are remembered; a peer with more, while it has proxies, is heard no more.
- A peer whose proxies are watched is asked each TICK_S; when nothing was heard for GONE_S, it is
  gone, and so are its proxies. One that has started anew cannot answer: it has forgotten them.
- A peer is forgotten when no proxy is left between the two; its old words open nothing then.

References: Erlang's signals (ordered, and lost only with the connection). RFC 6479's window is not
needed: a mailbox keeps the order. Rejected: waiting for a gap to close (a relay that drops a word
would stop all others); the relay's catalogue as the sign of life (its word is not believed).
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field
from math import inf
from typing import Final

from drupelet.wire.limits import WORD_PEERS_MAX

TICK_S: Final = 10.0
GONE_S: Final = 30.0
BOOTS_MAX: Final = 8


@dataclass(slots=True)
class _Peer:
    boot: bytes = b""
    number: int = 0
    former: list[bytes] = field(default_factory=list)
    asked_at: float = inf  # since when it was asked and has said nothing


class Peers:
    """All that one node exchanges words with."""

    def __init__(self) -> None:
        self._peers: dict[bytes, _Peer] = {}
        self._number = 0

    def __len__(self) -> int:
        return len(self._peers)

    def __contains__(self, key: bytes) -> bool:
        return key in self._peers

    def meet(self, key: bytes) -> bool:
        """It may speak. False: there are too many."""
        if key not in self._peers:
            if len(self._peers) >= WORD_PEERS_MAX:
                return False
            self._peers[key] = _Peer()
        return True

    def next_number(self) -> int:
        """Of a word of ours, to whomever."""
        self._number += 1
        return self._number

    def takes(self, key: bytes, boot: bytes, number: int) -> bool:
        """Whether this word of the peer's is to be heard; if so, none before it is."""
        peer = self._peers.get(key)
        if peer is None or boot in peer.former:
            return False
        if boot != peer.boot:
            if len(peer.former) >= BOOTS_MAX:
                return False
            if peer.boot:
                peer.former.append(peer.boot)
            peer.boot, peer.number = boot, 0
        if number <= peer.number:
            return False
        peer.number = number
        peer.asked_at = inf
        return True

    def tick(self, watched: Container[bytes], now: float) -> tuple[list[bytes], list[bytes]]:
        """Whom to ask for a word, and who is gone."""
        ask, gone = [], []
        for key, peer in self._peers.items():
            if key not in watched:
                peer.asked_at = inf
            elif now - peer.asked_at >= GONE_S:
                gone.append(key)
            else:
                peer.asked_at = min(peer.asked_at, now)
                ask.append(key)
        return ask, gone

    def forget(self, key: bytes) -> None:
        """No proxy is left between us and it."""
        self._peers.pop(key, None)
