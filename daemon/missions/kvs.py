"""Bundled mission `kvs`: a key-value store in memory, the first example of seed 001.

$ drupelet call gandalf kvs store weather fine
true
$ drupelet call gandalf kvs lookup weather
["ok", "fine"]

The dictionary lives as long as this worker does. Every argument came from somebody else: the number
of keys is bounded, since a mission that only grows ends at its memory limit.
"""

from __future__ import annotations

from drupelet import mission

KEYS_MAX = 100_000

_values: dict[str | int, object] = {}


@mission("kvs")
def store(key: str | int, value: object) -> bool:
    """Keep `value` under `key`; True."""
    if key not in _values and len(_values) >= KEYS_MAX:
        raise OverflowError(f"the store holds {KEYS_MAX} keys already")
    _values[key] = value
    return True


@mission("kvs")
def lookup(key: str | int) -> tuple[str, object] | None:
    """``("ok", value)``, or None when nothing was stored under `key`."""
    if key not in _values:
        return None
    return ("ok", _values[key])
