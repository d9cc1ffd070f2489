"""``sign``: a call as a line for curl, which works for a minute wherever the relay is reached.

The daemon signs, for it has the keys; this makes the body and the line.
"""

from __future__ import annotations

import json
import shlex
from typing import Final

from drupelet.cli import output
from drupelet.cli.calls import arguments_of
from drupelet.cli.grammar import Request
from drupelet.cli.grants import read_grant
from drupelet.cli.values import to_json
from drupelet.client.blocking import connect
from drupelet.errors import EXIT_DONE, RemoteProtocolError

SIGN_S: Final = 15.0  # it asks the relay
NOTE: Final = "it counts once, and for a minute; sign again for the next"


def sign(request: Request) -> int:
    """``sign NODE MISSION FUNCTION [ARG...] [--file FILE] [--key TEXT]``."""
    node_name, mission, function, *texts = request.arguments
    body = json.dumps(to_json(arguments_of(request, texts)), allow_nan=False, separators=(",", ":"))
    file = request.options.get("file")
    text = read_grant(file, request) if file is not None else ""
    once = request.options.get("key", "")
    with connect(request.socket) as node:
        answer = node.call(
            "",
            "grants",
            "sign",
            *(node_name, mission, function, body.encode(), text, once),
            timeout=SIGN_S,
        )
    match answer:
        case {"method": str(method), "url": str(url), "headers": dict(headers)}:
            pass
        case _:
            raise RemoteProtocolError("malformed answer of grants/sign")
    if request.json:
        output.document({"method": method, "url": url, "headers": headers, "body": body})
        return EXIT_DONE
    words = ["curl", "-X", method, url, "-L"]
    for name, value in headers.items():
        words += ["-H", f"{name}: {value}"]
    words += ["--data-binary", body]
    output.line(" ".join(map(shlex.quote, words)))
    output.note(NOTE)
    return EXIT_DONE
