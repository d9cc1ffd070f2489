"""`drupelet-relay` as a process: kill -9, TLS, the owner's verbs beside it, a thousand nodes."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
from trio_websocket import ConnectionClosed, wrap_client_stream

from drupelet.relay.main import invite_code
from drupelet.relay.store import Store
from drupelet.wire import requests, sodium
from drupelet.wire.relay import RelayRefused
from tests.bench import bench_relay
from tests.unit.relay.nodes import (
    ALICE,
    BOB,
    NAME,
    TRUDY,
    Client,
    Node,
    approved,
    certificate,
    connected,
    node,
)
from tests.unit.relay.nodes import send as message

RSS_BAR_MB = 96.0
DELIVERY_BAR_MS = 50.0  # and a round trip, which is nothing on loopback


def drupelet_relay(directory: Path, *words: str) -> str:
    command = [sys.executable, "-m", "drupelet.relay.main", "--config", str(directory / "r.toml")]
    done = subprocess.run([*command, *words], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def relay(directory: Path, *lines: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A relay that serves, and its port; killed in the end if it has not ended."""
    settings = [f'names = ["{NAME}"]', 'state_dir = "state"', 'listen = ["127.0.0.1:0"]']
    (directory / "r.toml").write_text("\n".join(["[relay]", *settings, *lines, ""]))
    command = [sys.executable, "-m", "drupelet.relay.main", "--config", str(directory / "r.toml")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, int(process.stdout.readline().rpartition(":")[2])
        finally:
            process.kill()


def accounts(directory: Path, *nodes: Node) -> None:
    store = Store(directory / "state")
    approved(store, *nodes)
    store.close()


async def test_a_killed_relay_loses_nothing_that_it_accepted(tmp_path: Path) -> None:
    senders, recipients = [node(10), node(11), node(12)], [node(20), node(21)]
    accounts(tmp_path, *senders, *recipients)
    accepted: set[bytes] = set()
    tried = 0

    async def sending(port: int, who: Node, enough: trio.Event) -> None:
        nonlocal tried
        try:
            async with connected(port, who) as client:
                for number in range(150):
                    said = message(recipients[number % 2], os.urandom(500))
                    tried += 1
                    with trio.fail_after(20):
                        await client.ask(said)
                    accepted.add(said.id)
                    if len(accepted) % 60 == 0:
                        enough.set()
        except* ConnectionClosed:
            enough.set()

    for _life in range(3):
        with relay(tmp_path) as (process, port):
            enough = trio.Event()
            async with trio.open_nursery() as nursery:
                for who in senders:
                    nursery.start_soon(sending, port, who, enough)
                await enough.wait()
                process.send_signal(signal.SIGKILL)
                await trio.to_thread.run_sync(process.wait)
                nursery.cancel_scope.cancel()  # who waits for an answer gets none
    delivered: set[bytes] = set()
    with relay(tmp_path) as (_, port):
        for who in recipients:
            async with connected(port, who) as client:
                with trio.fail_after(30):
                    while True:
                        with trio.move_on_after(1.0) as silence:
                            delivered |= {one.id for one in await client.take()}
                        if silence.cancelled_caught:
                            break
    assert len(accepted) >= 180 and tried > len(accepted)
    assert not accepted - delivered


async def test_a_sealed_call_and_its_reply_that_the_relay_cannot_read(tmp_path: Path) -> None:
    """S004-7's steps at the relay: accepted, stored, delivered, answered, matched."""
    accounts(tmp_path, ALICE, BOB)
    boot, reply_private = os.urandom(32), os.urandom(32)
    reply_key = sodium.x25519_public(reply_private)
    with relay(tmp_path) as (_, port):
        async with connected(port, BOB) as bob:
            request = requests.SignedRequest(
                callee=ALICE.key,
                token=bytes(16),
                id=os.urandom(16),
                grant=b"a grant",
                target="kitchen/boil",
                arguments=b"\x81\x01",
                timeout_ms=1_000,
                reply_key=reply_key,
            )
            signed = requests.encode_request(BOB.seed, request)
            sealed = sodium.seal(os.urandom(32), sodium.x25519_public(boot), signed)
            asked = message(ALICE, sealed)
            await bob.ask(asked)  # the callee is not there: it waits
            on_disk = b"".join(path.read_bytes() for path in (tmp_path / "state").iterdir())
            assert asked.id in on_disk and b"kitchen" not in on_disk
            async with connected(port, ALICE) as alice:
                [delivered] = await alice.take()
                opened = requests.open_request(boot, sodium.x25519_public(boot), delivered.body)
                requests.verify_request(opened, BOB.key)
                assert opened.request == request and delivered.sender == BOB.key
                reply = requests.encode_reply(
                    ALICE.seed, requests.Reply(request_hash=opened.hash, value=b"\x02")
                )
                body = sodium.seal(os.urandom(32), opened.request.reply_key, reply)
                await alice.ask(message(BOB, body, re=delivered.id))
            [answer] = await bob.take()
            assert answer.re == asked.id
            got = requests.open_reply(reply_private, reply_key, answer.body, ALICE.key)
            assert got.request_hash == requests.request_hash(signed) and got.value == b"\x02"


async def test_the_owners_verbs_beside_a_running_relay(tmp_path: Path) -> None:
    with relay(tmp_path) as (_, port):
        code = invite_code(drupelet_relay(tmp_path, "invite"))
        async with connected(port) as alice:
            await alice.ask(ALICE.register(alice.hello.nonce, invite=code))
            await alice.ask(ALICE.login(alice.hello.nonce))
        async with connected(port) as bob:
            with pytest.raises(RelayRefused, match="^not_verified"):
                await bob.ask(BOB.register(bob.hello.nonce, email="bob@example.org"))
        assert drupelet_relay(tmp_path, "approve", "bob@example.org").startswith("approved")
        with trio.fail_after(20):
            while True:
                async with connected(port) as bob:
                    try:
                        await bob.ask(BOB.login(bob.hello.nonce))
                    except RelayRefused as refusal:
                        assert refusal.code == "not_verified"
                        await trio.sleep(0.3)  # it hears of it within a second
                        continue
                    drupelet_relay(tmp_path, "deny", "bob@example.org")
                    await bob.closed.wait()  # he is cut off
                    break
        async with connected(port) as trudy:
            with pytest.raises(RelayRefused, match="^bad_invite"):
                await trudy.ask(TRUDY.register(trudy.hello.nonce, invite=code))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
async def test_tls_by_file(tmp_path: Path) -> None:
    accounts(tmp_path, ALICE)
    certificate(tmp_path)
    lines = ['tls_certificate = "cert.pem"', 'tls_key = "key.pem"']
    with relay(tmp_path, *lines) as (_, port):
        context = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        secure = trio.SSLStream(stream, context, server_hostname=NAME, https_compatible=True)
        async with secure, trio.open_nursery() as nursery:
            client = Client(await wrap_client_stream(nursery, secure, NAME, "/v1/link"))
            await client.start()
            nursery.start_soon(client.read)
            await client.ask(ALICE.login(client.hello.nonce))
            nursery.cancel_scope.cancel()


async def test_it_stops_in_order_while_nodes_are_connected(tmp_path: Path) -> None:
    accounts(tmp_path, ALICE)
    with relay(tmp_path) as (process, port):
        async with connected(port, ALICE) as alice:
            process.send_signal(signal.SIGTERM)
            with trio.fail_after(10):
                assert await trio.to_thread.run_sync(process.wait) == 0
                await alice.closed.wait()


def test_systemd_hears_when_it_serves_lives_and_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    monkeypatch.setenv("WATCHDOG_USEC", "200000")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        manager.settimeout(20)
        with relay(tmp_path) as (process, _):
            assert manager.recv(4_096) == f"READY=1\nSTATUS={NAME}: 0 accounts".encode()
            assert [manager.recv(4_096) for _ in range(3)] == [b"WATCHDOG=1"] * 3
            process.send_signal(signal.SIGTERM)
            said = b""
            while said != b"STOPPING=1":
                said = manager.recv(4_096)
            assert process.wait(20) == 0


def test_a_port_that_is_taken_is_an_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        file = tmp_path / "r.toml"
        file.write_text(f'[relay]\nnames = ["x"]\nstate_dir = "s"\nlisten = ["127.0.0.1:{port}"]\n')
        command = [sys.executable, "-m", "drupelet.relay.main", "--config", str(file)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1 and "in use" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("more", [[], ["--tls"], ["--peers"]])
def test_a_thousand_nodes_in_96_mb(more: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    command = [sys.executable, "-m", "tests.bench.bench_relay", "--messages", "500", *more]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    figures = bench_relay.figures(done.stdout)
    with capsys.disabled():
        print(f"\n{done.stdout.strip()}")
    assert figures["nodes"] == 1_000
    assert figures["rss_after_messages_mb"] <= RSS_BAR_MB
    commits = 2 if "--peers" in more else 1  # a message is durable at both
    assert figures["delivery_p50_ms"] <= DELIVERY_BAR_MS + 5 * commits * figures["commit_ms"]
