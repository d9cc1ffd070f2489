"""S004-6 between two daemons that only a relay joins: pids, their messages, and their ends."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.cluster import Cluster, RealNode, free_port
from tests.integration.test_proxies import DESK, LIGHT, done, start, until
from tests.integration.test_relay import drupelet_relay
from tests.integration.test_relayed_calls import at_relay, call, relay, without_addresses

GONE_S = 90.0  # 40 s, and a busy machine

TELLER = """

@mission("light")
async def count(first: int, last: int):
    for number in range(first, last):
        for place, pid in enumerate(pids):
            await send(pid, [place, number])
    return "sent"
"""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path) as running:
        yield running


def until_after(node: RealNode, limit_s: float, *words: str, count: int) -> list[object]:
    """As `until`, for what takes longer."""
    deadline = time.monotonic() + limit_s
    while True:
        try:
            return until(node, *words, count=count)
        except AssertionError:
            assert time.monotonic() < deadline, node.log


@pytest.mark.timeout(240)
def test_pids_through_a_relay(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exports = ["subscribe", "tell", "ended", "attack", "count"]
    alice = start(cluster, "alice", "light", LIGHT + TELLER, exports)
    bob = start(cluster, "bob", "desk", DESK, ["start", "got", "kill", "crash"])
    port, directory = free_port(), tmp_path / "relay"
    with relay(directory, port):
        invite = drupelet_relay(directory, "invite", "--uses", "2").strip()
        for node in (alice, bob):
            at_relay(node, f"http://127.0.0.1:{port}", invite)
        file = str(alice.directory / "bob.grant")
        done(alice, "grant", "light", "--to", str(bob.status()["key"]), "-o", file)
        done(bob, "accept", without_addresses(file))
        assert call(bob, "alice", "light", "ended") == []  # it is announced
        assert "by_relay node=alice" in bob.log
        kinds = done(bob, "call", "bob", "desk", "start", "3")
        assert isinstance(kinds, list) and {kind[:6] for kind in kinds} == {"<proxy"}
        assert done(alice, "call", "alice", "light", "count", "0", "10") == "sent"
        got = until(bob, "bob", "desk", "got", count=30)
        for place in range(3):  # each has all of it, in order
            assert [each for each in got if each[0] == place] == [[place, n] for n in range(10)]  # type: ignore[index]
        assert done(alice, "call", "alice", "light", "attack") == ["refused"] * 5
        done(bob, "call", "bob", "desk", "kill", "0")
        assert until(alice, "alice", "light", "ended", count=1) == ["noproc"]
    # The relay is killed; what is said meanwhile leaves when it is back.
    assert done(alice, "call", "alice", "light", "count", "10", "11") == "sent"
    with relay(directory, port):
        late = until_after(bob, GONE_S, "bob", "desk", "got", count=32)[30:]
        assert sorted(map(str, late)) == ["[1, 10]", "[2, 10]"]
        bob.signal(signal.SIGKILL)
        bob.wait()
        killed = time.monotonic()
        ended = until_after(alice, GONE_S, "alice", "light", "ended", count=3)
        span_s = time.monotonic() - killed
        assert ended[1:] == ["noconnection"] * 2
        with capsys.disabled():
            print(f"killed to noconnection, by a relay: {span_s:.0f} s ", end="")
        assert done(alice, "call", "alice", "light", "tell", "nobody") == "sent"
