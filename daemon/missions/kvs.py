"""Bundled mission `kvs`: a key-value store in memory, the first example of seed 001.

$ drupelet call gandalf kvs store weather fine
true
$ drupelet call gandalf kvs lookup weather
["ok", "fine"]

A process, ``kvs.Kvs``, keeps the dictionary: it survives new code (`drupelet nl kvs`), and is gone
when the process ends. So a bad argument is refused and never raises anything else: that would end
the process. The number of keys is bounded, since a mission that only grows ends at its memory
limit.
"""

from __future__ import annotations

from drupelet import GenServer, mission
from drupelet.errors import RemoteError

KEYS_MAX = 100_000


@mission("kvs", prefix=False)
class Kvs(GenServer):
    """Keys with their values."""

    def init(self) -> None:
        self.values: dict[str | int, object] = {}

    def store(self, key: str | int, value: object) -> bool:
        """Keep `value` under `key`; True."""
        check_key(key)
        if key not in self.values and len(self.values) >= KEYS_MAX:
            raise RemoteError("full", f"the store holds {KEYS_MAX} keys already")
        self.values[key] = value
        return True

    def lookup(self, key: str | int) -> tuple[str, object] | None:
        """``("ok", value)``, or None when nothing was stored under `key`."""
        check_key(key)
        return ("ok", self.values[key]) if key in self.values else None


def check_key(key: object) -> None:
    """Raises: `RemoteError` ("badarg")."""
    if not isinstance(key, str | int):
        raise RemoteError("badarg", f"a key is a text or a number, not {type(key).__name__}")
