"""S004-10 on real processes: a signed PUT from curl, through a relay, to a daemon."""

from __future__ import annotations

import base64
import datetime
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import http_message_signatures as rfc9421
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from drupelet.wire import sodium
from drupelet.wire.grant_files import GrantFile, decode_grant_file
from drupelet.wire.http_signatures import COVERED
from drupelet.wire.keys import key_from_text, key_to_text
from tests.integration.cluster import Cluster, RealNode, free_port
from tests.integration.relays import two_relays
from tests.integration.test_grants import done, failed, grant, key_of, start
from tests.integration.test_relay import drupelet_relay
from tests.integration.test_relayed_calls import at_relay, relay

LIMIT_S = 30.0
CURL = shutil.which("curl")
pytestmark = pytest.mark.skipif(CURL is None, reason="curl is not installed")


@dataclass
class Said:
    """What curl got."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def kind(self) -> object:
        """Of the failure."""
        return json.loads(self.body)["error"]["kind"]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path) as running:
        yield running


@pytest.fixture
def parties(cluster: Cluster, tmp_path: Path) -> Iterator[tuple[RealNode, RealNode, str]]:
    """Alice with a light, and Bob, both at one relay; its address."""
    alice, bob = start(cluster, "alice", "bob")
    port, directory = free_port(), tmp_path / "relay"
    with relay(directory, port):
        invite = drupelet_relay(directory, "invite", "--uses", "2").strip()
        for one in (alice, bob):
            at_relay(one, f"http://127.0.0.1:{port}", invite)
        yield alice, bob, f"http://127.0.0.1:{port}"


def signed(node: RealNode, *words: str) -> dict[str, Any]:
    """`drupelet --json sign`, as soon as the relay shows who is called."""
    until = time.monotonic() + LIMIT_S
    while True:
        result = node.run("--json", "sign", *words)
        if result.returncode == 0:
            made: dict[str, Any] = json.loads(result.stdout)
            return made
        assert time.monotonic() < until, result.stdout + result.stderr


def curl(*words: str) -> Said:
    """What curl says to these words: status, headers, body."""
    assert CURL is not None
    result = subprocess.run(
        [CURL, "-s", "-m", "30", "-i", *words], capture_output=True, timeout=60, check=True
    )
    head, _, body = result.stdout.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    pairs = (line.partition(": ") for line in lines)
    return Said(int(first.split()[1]), body, {name.lower(): value for name, _, value in pairs})


def send(made: dict[str, Any], *more: str, body: str = "", url: str = "") -> Said:
    """A signed PUT. `more`: further words for curl."""
    words = ["-X", made["method"], url or made["url"], "--data-binary", body or made["body"]]
    for name, value in made["headers"].items():
        words += ["-H", f"{name}: {value}"]
    return curl(*words, *more)


def test_s004_10(parties: tuple[RealNode, RealNode, str]) -> None:
    alice, bob, _ = parties
    _, file = grant(alice, "--to", key_of(bob), "--only", "temp,dim", "--rate", "100/m")
    done(bob, "accept", file)
    signed(bob, "alice", "light", "temp")

    # the line works as it is printed, in bash
    result = bob.run("sign", "alice", "light", "temp", "5")
    assert result.returncode == 0 and result.stderr.startswith("it counts once")
    line = result.stdout
    assert line.startswith("curl -X PUT http://127.0.0.1:")
    shell = ["bash", "-c", line.replace("curl", "curl -s", 1)]
    first = subprocess.run(shell, capture_output=True, text=True, timeout=60, check=True)
    assert first.stdout == "25\n"

    # replayed
    again = subprocess.run(shell, capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(again.stdout)["error"]["kind"] == "replayed"
    made = signed(bob, "alice", "light", "temp")
    assert [send(made).status for _ in range(3)] == [200, 409, 409]

    # unsigned
    made = signed(bob, "alice", "light", "temp")
    bare = {**made, "headers": {"Content-Type": "application/json"}}
    said = send(bare)
    assert (said.status, said.kind) == (401, "unsigned") and "accept-signature" in said.headers

    # altered: body, body with its digest, path, grant, date
    said = send(made, body="[100]")
    assert (said.status, said.kind) == (401, "unsigned")
    path = made["url"].replace("/temp", "/dim")
    said = send(made, url=path)
    assert (said.status, said.kind) == (401, "unsigned")
    later = made["headers"]["Signature-Input"].replace("created=", "created=1")
    for name, value in (("Signature-Input", later), ("Content-Type", "application/cbor")):
        said = send({**made, "headers": {**made["headers"], name: value}})
        assert (said.status, said.kind) == (401, "unsigned")
    assert send(made).status == 200  # the same, unaltered, had not been used up

    # what is not granted, who is not there, what is no argument
    assert failed(bob, "sign", "alice", "light", "wipe")[0] == 3
    assert failed(bob, "sign", "charlie", "light", "temp")[0] == 5
    said = send(signed(bob, "alice", "light", "temp", "not a number"))
    assert said.status in (422, 500)
    elsewhere = made["url"].replace(key_of(alice), key_of(bob))
    assert send(signed(bob, "alice", "light", "temp"), url=elsewhere).status == 401

    # an answer in CBOR, and one that is late
    said = send(signed(bob, "alice", "light", "temp"), "-H", "Accept: application/cbor")
    assert (said.headers["content-type"], said.body) == ("application/cbor", b"\x14")
    said = send(signed(bob, "alice", "light", "dim", "60"), "-H", "Prefer: wait=1")
    assert (said.status, said.kind) == (504, "Timeout")

    # it is in Alice's log, as each of Bob's calls
    log = done(alice, "log", "light")
    assert isinstance(log, list)
    calls = [each for each in log if each["what"] == "call" and each["function"] == "temp"]
    assert len(calls) >= 4 and {each["caller"] for each in calls} == {key_of(bob)}


class Keys(rfc9421.HTTPSignatureKeyResolver):
    """The key in a grant's file, and the one that an answer is expected of."""

    def __init__(self, file: GrantFile) -> None:
        self._file = file

    def resolve_private_key(self, key_id: str) -> Any:
        assert self._file.seed is not None
        return Ed25519PrivateKey.from_private_bytes(self._file.seed)

    def resolve_public_key(self, key_id: str) -> Any:
        assert key_from_text(key_id) == self._file.grant.issuer
        return Ed25519PublicKey.from_public_bytes(self._file.grant.issuer)


@dataclass
class Message:
    """A request or an answer, as http-message-signatures wants it."""

    headers: dict[str, str]
    url: str = ""
    method: str = "PUT"


@dataclass
class Answer(Message):
    status_code: int = 0
    request: Message | None = None


def sign_without_us(file: GrantFile, url: str, body: bytes, token: str, created: float) -> Message:
    """A PUT that http-message-signatures signs: no code of ours, no daemon, no account."""
    assert file.seed is not None
    request = Message(
        {
            "Content-Type": "application/json",
            "Drupelet-Grant": f":{base64.b64encode(file.grant.data).decode()}:",
        },
        url,
    )
    signer = rfc9421.HTTPMessageSigner(
        signature_algorithm=rfc9421.algorithms.ED25519, key_resolver=Keys(file)
    )
    rfc9421.ContentDigest.add(request.headers, body)
    signer.sign(
        request,
        key_id=key_to_text(sodium.ed25519_public(file.seed)),
        created=datetime.datetime.fromtimestamp(created, datetime.UTC),
        nonce=token + os.urandom(16).hex(),
        tag="drupelet",
        covered_component_ids=COVERED,
        use_existing_digest=True,
    )
    return request


def test_another_implementation_and_a_file_are_enough(
    parties: tuple[RealNode, RealNode, str],
) -> None:
    alice, _, relay_url = parties
    ident, place = grant(alice, "--only", "temp")
    file = decode_grant_file(Path(place).read_text())
    url, token = f"{relay_url}/apply/alice/light/temp", "00" * 16

    def put(created: float, body: bytes = b"[1]") -> tuple[Message, Said]:
        request = sign_without_us(file, url, body, token, created)
        made = {"method": "PUT", "url": url, "headers": request.headers, "body": body.decode()}
        return request, send(made)

    until = time.monotonic() + LIMIT_S
    while True:  # until the relay has heard of the grant: then the node tells its token
        _, said = put(time.time())
        if said.status == 401:
            break
        assert said.status == 404 and time.monotonic() < until
    assert said.kind == "stale"
    token = json.loads(said.body)["error"]["token"]

    _, said = put(time.time() - 600)
    assert (said.status, said.kind) == (401, "unsigned") and b"clock" in said.body
    _, said = put(time.time() + 600)
    assert said.status == 401

    request, said = put(time.time())
    assert (said.status, said.body) == (200, b"21\n")
    verifier = rfc9421.HTTPMessageVerifier(
        signature_algorithm=rfc9421.algorithms.ED25519, key_resolver=Keys(file)
    )
    verifier.require_created = False
    answer = Answer(said.headers, status_code=200, request=request)
    [checked] = verifier.verify(answer, max_age=None, expect_tag="drupelet", body=said.body)
    assert checked.body == b"21\n"
    with pytest.raises(rfc9421.InvalidSignature):  # a relay that would say something else
        verifier.verify(answer, max_age=None, expect_tag="drupelet", body=b"22\n")

    done(alice, "revoke", ident)
    _, said = put(time.time())
    assert said.status in (403, 404)


def test_a_node_at_the_other_of_two_relays(cluster: Cluster, tmp_path: Path) -> None:
    alice, bob = start(cluster, "alice", "bob")
    (tmp_path / "relays").mkdir()
    with two_relays(tmp_path / "relays") as (first, second):
        for one, urls in ((alice, (second.url, first.url)), (bob, (first.url, second.url))):
            one.stop()
            folder = one.directory / "conf.d"
            folder.mkdir()
            invite = first.run("invite").strip()
            (folder / "relay.toml").write_text(
                f'[relay]\nurl = {json.dumps(urls)}\ninvite = "{invite}"\n'
            )
            one.start()
        _, file = grant(alice, "--to", key_of(bob), "--only", "temp")
        done(bob, "accept", file)
        signed(bob, "alice", "light", "temp")
        until = time.monotonic() + LIMIT_S
        while True:  # until the one knows that she is at the other
            made = signed(bob, "alice", "light", "temp")
            assert made["url"].startswith(first.url)
            said = send(made)
            if said.status == 307:
                break
            assert said.status in (404, 502) and time.monotonic() < until
        assert said.headers["location"].startswith(second.url)
        line = bob.run("sign", "alice", "light", "temp", "5").stdout
        shell = ["bash", "-c", line.replace("curl", "curl -s", 1)]
        result = subprocess.run(shell, capture_output=True, text=True, timeout=60, check=True)
        assert result.stdout == "25\n"
