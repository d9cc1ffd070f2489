"""Somebody without an account who sends PUTs to a relay."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from typing import Any

import trio

from drupelet.wire.http_signatures import SignedPut, headers_of


@dataclass
class Said:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def kind(self) -> str:
        """Of the failure."""
        kind: str = self.json["error"]["kind"]
        return kind

    @property
    def why(self) -> str:
        message: str = self.json["error"]["message"]
        return message


@dataclass
class Curl:
    """Somebody without an account."""

    port: int

    async def put(self, put: SignedPut, body: bytes = b"[1]", **changed: Any) -> Said:
        """A signed PUT; `changed`: headers, None for none of it."""
        return await self.ask("PUT", put.path, body, {**headers_of(put), **changed})

    async def ask(self, method: str, path: str, body: bytes, headers: dict[str, Any]) -> Said:
        """Any request. A list: the header so often."""

        def exchange() -> Said:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
            try:
                connection.putrequest(method, path)
                for name, value in headers.items():
                    for one in value if isinstance(value, list) else [value]:
                        if one is not None:
                            connection.putheader(name, one)
                if "Content-Length" not in headers:
                    connection.putheader("Content-Length", str(len(body)))
                connection.endheaders(body)
                answer = connection.getresponse()
                found = {name.lower(): value for name, value in answer.getheaders()}
                return Said(answer.status, found, answer.read())
            finally:
                connection.close()

        return await trio.to_thread.run_sync(exchange)
