"""Junk as values: `loads` takes it as data or refuses it, and what it takes is stable."""

from __future__ import annotations

from collections.abc import Callable

import harness

with harness.instrumented():
    from drupelet.errors import RemoteProtocolError
    from drupelet.wire import limits
    from drupelet.wire.codec import dumps, loads, loads_canonical, loads_control
    from drupelet.wire.scan import scan


def taken(load: Callable[[bytes], object], data: bytes) -> bool:
    try:
        load(data)
    except RemoteProtocolError:
        return False
    return True


def one_input(data: bytes) -> None:
    scanned = taken(lambda data: scan(data, limits.VALUE_ITEMS_MAX), data)
    canonical = taken(loads_canonical, data)
    control = taken(loads_control, data)
    try:
        value = loads(data)
    except RemoteProtocolError:
        assert not canonical, "taken as signed data only"
        assert not control, "taken in a control frame only"
        return
    assert scanned, "scan refused what loads took"
    encoded = dumps(value)
    assert canonical == (encoded == data)
    assert dumps(loads(encoded)) == encoded
    assert taken(loads_canonical, encoded)


if __name__ == "__main__":
    harness.fuzz("codec", one_input)
