"""Junk for a node's WebSocket: in the relay's place, before and after the upgrade.

The first byte says whether the junk comes in place of the answer to the upgrade, or after a good
one and a hello; the second how it is cut. Whatever comes is taken, or ends the way with a reason.
"""

from __future__ import annotations

import harness
import trio

with harness.instrumented():
    from wsproto.utilities import generate_accept_token

    from drupelet.net.relay_socket import PATH, RelaySocket
    from drupelet.net.relay_way import Place, RelayGone
    from drupelet.wire.limits import RELAY_INBOX_BYTES_MAX, RELAY_WINDOW_MESSAGES
    from drupelet.wire.relay import Hello, RelayRefused, encode

trio.current_time = lambda: 0.0  # nothing here runs
PLACE = Place("http://127.0.0.1:80", bytes(range(32)))
HELLO = encode(Hello(version=1, nonce=bytes(32), run=bytes(16)))


def one_input(data: bytes) -> None:
    way = RelaySocket(None, PLACE)
    asked = way.upgrade_request()
    assert asked.startswith(b"GET " + PATH.encode())
    token = generate_accept_token(asked.partition(b"Key: ")[2].partition(b"\r\n")[0])
    accepted = (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + token + b"\r\n\r\n"
    )
    mode, cut, junk = data[:1], data[1:2], data[2:]
    junk = junk.replace(b"{accept}", token)
    if not mode or mode[0] % 2:
        way.take(accepted + bytes([0x82, len(HELLO)]) + HELLO)
        assert way.run_id and way.gone is None
    size = cut[0] + 1 if cut else 1
    for start in range(0, len(junk), size):
        if way.gone is None:
            way.take(junk[start : start + size])
    assert way.gone is None or isinstance(way.gone, RelayGone | RelayRefused)
    assert len(way._inbox) <= RELAY_WINDOW_MESSAGES and way._inbox_bytes <= RELAY_INBOX_BYTES_MAX
    assert len(way._pong) < 140


if __name__ == "__main__":
    harness.fuzz("way", one_input)
