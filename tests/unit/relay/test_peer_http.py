"""One HTTP connection to another relay."""

from __future__ import annotations

import shutil
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from drupelet.relay import peer_http
from drupelet.relay.listening import tls_context
from drupelet.relay.peer_http import PeerGone, connect, host_of
from drupelet.wire.limits import RELAY_PEER_BATCH_BYTES_MAX
from tests.unit.relay.nodes import certificate, relay_at


@asynccontextmanager
async def saying(*answers: bytes, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A server that says these, one for each request, and then ends the connection; its port."""

    async def serve(stream: trio.SocketStream) -> None:
        transport: trio.abc.Stream = stream
        if tls is not None:
            transport = trio.SSLStream(stream, tls, server_side=True, https_compatible=True)
        try:
            for answer in answers:
                request = b""
                while b"\r\n\r\n" not in request:
                    request += await transport.receive_some(65_536) or b"\r\n\r\n"
                await transport.send_all(answer)
            if not answers:
                await trio.sleep_forever()
            await transport.aclose()
        except trio.BrokenResourceError:
            pass

    async with trio.open_nursery() as nursery:
        serving = partial(trio.serve_tcp, serve, 0, host="127.0.0.1")
        (listener,) = await nursery.start(serving)
        yield listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


def ok(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


async def test_questions_one_after_the_other_on_one_connection(tmp_path: Path) -> None:
    async with relay_at(tmp_path) as (_, port):
        async with connect(f"http://127.0.0.1:{port}") as http:
            for _ in range(3):
                assert await http.ask("GET", "/healthz") == (200, b"ok\n")
            status, body = await http.ask("POST", "/v1/say", b"junk")
            assert status == 400 and body
            assert (await http.ask("GET", "/nowhere"))[0] == 404
    assert host_of("https://relay.example.org:8443") == "relay.example.org"
    assert host_of("http://[::1]:80") == "::1"


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        ok(bytes(RELAY_PEER_BATCH_BYTES_MAX + 1)),
    ],
)
async def test_whatever_it_says_instead_it_is_gone(answer: bytes) -> None:
    async with saying(answer) as port, connect(f"http://127.0.0.1:{port}") as http:
        with pytest.raises(PeerGone):
            await http.ask("GET", "/")


async def test_the_longest_answer() -> None:
    body = bytes(RELAY_PEER_BATCH_BYTES_MAX)
    async with saying(ok(body)) as port, connect(f"http://127.0.0.1:{port}") as http:
        assert await http.ask("GET", "/") == (200, body)


async def test_one_that_says_nothing_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_http, "ANSWER_S", 0.05)
    async with saying() as port, connect(f"http://127.0.0.1:{port}") as http:
        with pytest.raises(PeerGone, match="no answer within"):
            await http.ask("GET", "/")


async def test_nobody_is_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(PeerGone, match="OSError"):
        async with connect(f"http://127.0.0.1:{port}"):
            pass


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
async def test_a_certificate_is_believed_only_by_file_and_for_its_name(tmp_path: Path) -> None:
    ours = certificate(tmp_path, "DNS:localhost")
    tls = tls_context(str(ours), str(tmp_path / "key.pem"))
    async with saying(ok(b"yes"), tls=tls) as port:
        async with connect(f"https://localhost:{port}", ours) as http:
            assert await http.ask("GET", "/") == (200, b"yes")
        for url, ca_file, problem in (
            (f"https://localhost:{port}", None, "self-signed|self signed"),
            (f"https://127.0.0.1:{port}", ours, "mismatch"),
            (f"https://localhost:{port}", tmp_path / "none.pem", "FileNotFoundError"),
        ):
            with pytest.raises(PeerGone, match=problem):
                async with connect(url, ca_file):
                    pass
