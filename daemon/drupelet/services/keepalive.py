"""Keepalive of one link: the driver of `core/connection`.

Decides nothing; sends the PINGs and GOODBYEs that the machine asks for, and closes the link that it
gives up. Registered with `Deadlines` while the link lives.
"""

from __future__ import annotations

from typing import assert_never

import trio

from drupelet.core import effects
from drupelet.core.connection import Connection
from drupelet.core.members import PeerInfo
from drupelet.errors import NoConnection
from drupelet.services.endpoint import Endpoint
from drupelet.wire import frames
from drupelet.wire.codec import dumps
from drupelet.wire.frames import frame


class Link:
    """One link with its keepalive. Registered with `Deadlines` while it lives."""

    __slots__ = ("connection", "endpoint", "initiated", "link_id", "peer", "was_up")

    def __init__(
        self, link_id: int, endpoint: Endpoint, peer: PeerInfo, initiated: bool, now: float
    ) -> None:
        self.link_id = link_id
        self.endpoint = endpoint
        self.peer = peer
        self.initiated = initiated
        self.connection = Connection(now)
        self.was_up = False  # whether membership ever heard of it

    def next_timer(self) -> float:
        """When the keepalive wants to look again."""
        return self.connection.next_timer()

    def handle_timer(self, now: float) -> None:
        """Ping, or give up."""
        connection = self.connection
        connection.last_received = max(connection.last_received, self.endpoint.last_received)
        connection.handle_timer(now)
        self.perform()

    def perform(self) -> None:
        """The connection's effects."""
        for effect in self.connection.take_effects():
            match effect:
                case effects.SendPing(token):
                    self.endpoint.ping(token)
                case effects.SendGoodbye(reason):
                    self.endpoint.channel.queue(frame(frames.GOODBYE, 0, dumps(reason)))
                case effects.Dead(reason):
                    self.endpoint.close(NoConnection(reason, maybe_ran=True))
                case _:
                    assert_never(effect)

    def pong(self, token: int) -> None:
        """The peer answered a ping."""
        self.connection.pong(token, trio.current_time())
