"""Ends: endpoints without a channel, for calls that came on another way than a link.

Decides nothing: a call that is passed to a worker needs an endpoint that is answered; here the
answer goes to a function. Calls through a relay have one (`services/relayed_calls.py`), and calls
with an idempotency key, which outlive the link that brought them (`services/once.py`). Pids travel
where there is a way for what is sent to them: through a relay (`services/words.py`), and not with
a key: they could be gone before the answer is read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from drupelet.errors import CallError
from drupelet.services.deadlines import Deadlines
from drupelet.services.endpoint import Endpoint, Router

if TYPE_CHECKING:
    from drupelet.net.channel import Channel
    from drupelet.wire.grants import Grant


class _NoChannel:
    """What an endpoint has in place of a channel."""

    close_reason = ""
    closed = False
    congested = False
    queued_bytes = 0
    bulk_bytes = 0

    def queue(self, frame: bytes) -> None:
        """There is no frame to send."""

    def send_now(self) -> None:
        """Nor anything that waits."""

    def close(self, reason: str) -> None:
        """It is not used any more."""
        self.close_reason = reason
        self.closed = True


class End(Endpoint):
    """Who called, or whom we call. `answered` gets the outcome of a call of theirs, by its id."""

    __slots__ = ("_answered", "grant")
    direct = False

    def __init__(
        self,
        router: Router,
        deadlines: Deadlines,
        answered: Callable[[int, bytes | CallError], None],
        *,
        ring: str = "stranger",
        name: str = "",
        key: bytes = b"",
    ) -> None:
        channel = cast("Channel", _NoChannel())
        super().__init__(channel, router, deadlines, opener=True, ring=ring, name=name, key=key)
        self._answered = answered
        self.grant: Grant | None = None  # by which it called last: pids for it live as long

    def way(self) -> End | None:
        """Where messages to proxy pids of that peer go. None: no pid travels."""
        return None

    def reply(self, ident: int, encoded: bytes) -> None:
        """The value of the call `ident`, an encoded one."""
        self.serving.pop(ident, None)
        self._answered(ident, encoded)

    def reply_error(self, ident: int, error: CallError) -> None:
        """Or its failure."""
        self.serving.pop(ident, None)
        self._answered(ident, error)


__all__ = ["End"]
