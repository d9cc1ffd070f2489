"""S004-10 in namespaces: curl in a third home calls Alice, who is behind NAT, by a URL over TLS.

That home has no account at the relay and no node: Bob's node signs, or another implementation of
RFC 9421 with a grant's file.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from drupelet.wire.grant_files import decode_grant_file
from tests.integration.cluster import Cluster
from tests.integration.test_grants import done, grant, key_of
from tests.integration.test_http_calls import Said, sign_without_us, signed
from tests.netns.internet import Internet, Relay, at_public_address, run, skip_without, until
from tests.netns.lights import alice_and_bob, number

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(120)]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path) as running:
        yield running


@pytest.fixture
def net(make_internet: Callable[[int], Internet]) -> Internet:
    skip_without("curl")
    return make_internet(3)


@pytest.fixture
def relay(net: Internet, tmp_path: Path) -> Iterator[Relay]:
    one = Relay(net, tmp_path / "relay")
    one.start()
    yield one
    one.kill()


class Curl:
    """curl in the third home, with the relay's authority as the only one it trusts."""

    def __init__(self, net: Internet, relay: Relay) -> None:
        where = net.within(net.homes[2])
        self._words = (*where, "curl", "-sS", "-i", "-m", "30", "--cacert", str(relay.ca_file))

    def __call__(self, made: dict[str, Any], *, body: str = "", url: str = "") -> Said:
        """A PUT; with another body or address than what was signed, where they are given."""
        words = ["-X", "PUT", url or made["url"], "--data-binary", body or made["body"]]
        for name, value in made["headers"].items():
            words += ["-H", f"{name}: {value}"]
        head, _, rest = run(*self._words, *words).partition("\n\n")
        return Said(int(head.split()[1]), rest.encode())


def refusal(said: Said) -> tuple[int, object]:
    return said.status, said.kind


def test_curl_calls_through_the_relay_and_only_as_it_was_signed(
    net: Internet, cluster: Cluster, relay: Relay
) -> None:
    alice, bob = alice_and_bob(cluster, net, relay)
    _, file = grant(alice, "--to", key_of(bob), "--only", "on,temp")
    done(bob, "accept", at_public_address(file, net.public(0)))
    put = Curl(net, relay)
    made = signed(bob, "alice", "light", "on")
    bare = {**made, "headers": {"Content-Type": "application/json"}}
    assert refusal(put(bare)) == (401, "unsigned")
    assert refusal(put(made, body="[1]")) == (401, "unsigned")
    assert refusal(put(made, url=made["url"].replace("/on", "/temp"))) == (401, "unsigned")
    assert number(alice, "count") == 0
    said = put(made)
    assert (said.status, json.loads(said.body)) == (200, "on")
    assert refusal(put(made)) == (409, "replayed")
    assert number(alice, "count") == 1
    said = put(signed(bob, "alice", "light", "temp", "5"))
    assert (said.status, json.loads(said.body)) == (200, 25)


def test_a_file_is_enough_while_its_date_is_right(
    net: Internet, cluster: Cluster, relay: Relay
) -> None:
    alice, _ = alice_and_bob(cluster, net, relay)
    ident, place = grant(alice, "--only", "on")
    file = decode_grant_file(Path(place).read_text())
    put = Curl(net, relay)
    url = f"{relay.url}/apply/alice/light/on"

    def said(token: str, created: float) -> Said:
        request = sign_without_us(file, url, b"[]", token, created)
        return put({"url": url, "headers": request.headers, "body": "[]"})

    def token() -> str:
        """Of Alice's, who tells it to whoever has the grant, as soon as the relay shows her."""
        told = said("00" * 16, time.time())
        return json.loads(told.body)["error"]["token"] if told.kind == "stale" else ""

    known = str(until(token))
    for wrong_s in (-600, 600):
        assert refusal(said(known, time.time() + wrong_s)) == (401, "unsigned")
    assert number(alice, "count") == 0
    assert said(known, time.time()).status == 200
    assert number(alice, "count") == 1
    done(alice, "revoke", ident)
    assert said(known, time.time()).status in (403, 404)
    assert number(alice, "count") == 1
