"""Effects: what the decision machines of `core` ask their drivers to do.

Decides nothing. A driver performs the effects of one `take_effects()` in order. Effects are data:
they name links by the number that the driver gave them, nodes by name and key.

Rules: frozen; no effect carries a socket, a task or a callback. An effect that reaches the program
(`NodeUp`, `NodeDown`) comes exactly once for what it tells.

Ideas rejected: calling the driver back from inside a machine (re-entrance; a test could not look at
the outcome); one class of effect with a kind (no checking of fields by `match`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from drupelet.wire.messages.membership import Gossip


@dataclass(frozen=True, slots=True, kw_only=True)
class Dial:
    """Open a link to this address. `name` is whom we hope to meet, "" when any node will do.

    The driver answers with `Membership.link_up` or `Membership.dial_failed`, for each once.
    """

    host: str
    port: int
    name: str


@dataclass(frozen=True, slots=True)
class CloseLink:
    """Say goodbye with `reason` on this link, let its open calls finish briefly, cut it.

    The machine has forgotten the link already; a later `link_down` for it is ignored.
    """

    link_id: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeUp:
    """A node can be reached now."""

    name: str
    key: bytes
    incarnation: int


@dataclass(frozen=True, slots=True)
class UseLink:
    """New calls to this node go over this link: after each `NodeUp`, and when another link of the
    same node takes over."""

    name: str
    link_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeDown:
    """A node can no longer be reached: once for each `NodeUp`."""

    name: str
    key: bytes
    incarnation: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredDown:
    """A peer tells that it had declared *us* dead; what it was told of us since is lost."""

    name: str
    key: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class SendGossip:
    """Send this as a GOSSIP frame."""

    link_id: int
    message: Gossip


@dataclass(frozen=True, slots=True)
class SendPing:
    """Send a PING frame with this token; the peer answers PONG with the same."""

    token: int


@dataclass(frozen=True, slots=True)
class SendGoodbye:
    """Send a GOODBYE frame; no call is started on this link any more."""

    reason: str


@dataclass(frozen=True, slots=True)
class Dead:
    """Cut the link now. `reason` is a word of `errors.REASONS`."""

    reason: str


ConnectionEffect: TypeAlias = SendPing | SendGoodbye | Dead
MembershipEffect: TypeAlias = (
    Dial | CloseLink | NodeUp | UseLink | NodeDown | DeclaredDown | SendGossip
)
