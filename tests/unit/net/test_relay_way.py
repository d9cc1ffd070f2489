"""Where a relay is, whom to believe that it is that one, and what is said when it is not."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import pytest
import trio

from drupelet.net.relay_way import Place, RelayGone, decoded, hello_of, said, split_url, value_of
from drupelet.wire import relay as wire
from drupelet.wire.relay import RelayRefused


def test_addresses() -> None:
    assert split_url("https://relay.example.org") == (True, "relay.example.org", 443)
    assert split_url("https://relay.example.org:8443/") == (True, "relay.example.org", 8443)
    assert split_url("http://[::1]:80") == (False, "::1", 80)
    assert split_url("http://localhost") == (False, "localhost", 80)
    for wrong in (
        "relay.example.org", "http://relay.example.org", "https://", "ftp://x", "https://x/y",
        "https://u@x", "https://x?y", "https://x:0x", "https://x:99999", "http://127.0.0.1.evil.org",
    ):  # fmt: skip
        with pytest.raises(ValueError):
            split_url(wrong)


def test_a_hello_of_another_version_says_whom_to_update() -> None:
    hello = wire.Hello(version=1, nonce=bytes(32), run=bytes(16))
    assert hello_of(decoded(wire.encode(hello))) == hello
    with pytest.raises(RelayGone, match="speaks version 2, this node 1: update the older"):
        hello_of(wire.Hello(version=2, nonce=bytes(32), run=bytes(16)))
    with pytest.raises(RelayGone, match="no relay answers"):
        hello_of(wire.Done(ref=0, value=None))
    with pytest.raises(RelayGone, match="no relay's language"):
        decoded(b"HTTP/1.1 200 OK")


def test_answers_and_refusals() -> None:
    assert value_of(wire.Done(ref=3, value=[1]), 3) == [1]
    with pytest.raises(RelayGone, match="another question"):
        value_of(wire.Done(ref=3, value=[1]), 4)
    with pytest.raises(RelayRefused) as caught:
        value_of(wire.Refused(ref=3, code="busy", text="full", retry_after_ms=1_500), 3)
    assert (caught.value.code, caught.value.retry_after_s) == ("busy", 1.5)


def test_failures_of_the_network_in_words() -> None:
    assert said(OSError(111, "Connection refused")) == "Connection refused"
    group = ExceptionGroup("all addresses", [OSError(113, "No route to host"), OSError(1, "x")])
    failure = OSError("all failed")
    failure.__cause__ = group
    assert said(failure) == "No route to host"
    broken = trio.BrokenResourceError()
    broken.__cause__ = OSError(104, "Connection reset by peer")
    assert said(broken) == "Connection reset by peer"
    assert said(trio.ClosedResourceError()) == "ClosedResourceError"
    untrusted = ssl.SSLCertVerificationError(1, "verify failed")
    untrusted.verify_message = "certificate has expired"
    assert said(untrusted) == "its certificate does not hold: certificate has expired"
    untrusted.verify_code = 20  # X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY
    assert said(untrusted).endswith("; for an authority of your own set ca_file")


async def test_a_file_of_authorities_that_is_none_is_named(tmp_path: Path) -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    for name, content in (("no.pem", None), ("empty.pem", b"")):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        place = Place(f"https://127.0.0.1:{port}", os.urandom(32), tmp_path / name)
        with pytest.raises(RelayGone, match=f"ca_file .*{name}"):
            await place.connect()
    await listeners[0].aclose()


async def test_nobody_listens() -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    await listeners[0].aclose()
    with pytest.raises(RelayGone, match="Connection refused"):
        await Place(f"http://127.0.0.1:{port}", os.urandom(32)).connect()
