"""What strangers may ask of the daemon itself; and from an entry of the whitelist to its worker."""

from __future__ import annotations

from typing import Final, cast

from drupelet.errors import NoConnection, RemoteError
from drupelet.services.endpoint import Endpoint
from drupelet.services.missions import Export

# Every other target of a stranger is a granted function's.
STRANGERS_OWN: Final = frozenset(
    {
        b"grants/present",
        b"once/call",
        b"once/done",
        b"pair/look",
        b"pair/start",
        b"pair/step",
        b"pair/done",
    }
)


def worker_of(export: Export, *, keyed: bool = False) -> Endpoint:
    """The worker of a mission. Raises: why it does not run now, or not without a key."""
    if export.once and not keyed:
        raise RemoteError(
            "badarg",
            f"{export.mission}.{export.function} runs once for each idempotency key, and this call "
            "has none: `drupelet call --key TEXT`, idempotency_key= in Python, the header "
            "Idempotency-Key by HTTP; with the same key it can be called again safely",
        )
    endpoint = export.endpoint
    if endpoint is None or endpoint.closed:
        error = export.unavailable or RemoteError("mission_crashed", f"{export.mission} is down")
        raise error.with_traceback(None)  # one object for many callers: its traceback would grow
    worker = cast(Endpoint, endpoint)
    if worker.channel.congested:
        raise NoConnection("overloaded")
    return worker


__all__ = ["STRANGERS_OWN", "worker_of"]
