"""Junk to the port mapper, and junk from one."""

from __future__ import annotations

import contextlib

import harness

with harness.instrumented():
    from drupelet.errors import RemoteProtocolError
    from drupelet.wire import epmd, limits


def one_input(data: bytes) -> None:
    for parse in (epmd.parse_register_response, epmd.parse_look_up_response):
        with contextlib.suppress(RemoteProtocolError):
            parse(data)
    with contextlib.suppress(RemoteProtocolError):
        assert len(epmd.parse_names_response(data)) <= limits.MAPPER_NAMES_MAX
    for end in {0, len(data) // 2, len(data)}:
        try:
            request = epmd.parse_request(data[:end])
        except RemoteProtocolError:
            continue
        if isinstance(request, epmd.Register):
            again = epmd.parse_request(epmd.register_request(request.entry))
            assert again == request


if __name__ == "__main__":
    harness.fuzz("epmd", one_input)
