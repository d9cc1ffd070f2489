"""S001-8: two machines on one network, found by mDNS alone, then by an address alone; cuts.

Each machine is a network namespace with a real `drupeletd`; the network is cut by dropping
packets as they arrive, which neither machine can notice but by silence.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

from drupelet.client import NodeDown, NodeUp
from drupelet.wire.limits import KEEPALIVE_S
from tests.integration.cluster import Cluster, RealNode
from tests.netns.conftest import Lan

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.timeout(90),
    pytest.mark.skipif(shutil.which("nft") is None, reason="needs nft (nftables)"),
]

SILENT_S = 5.0  # NodeDown after the last sign of life
LINK_PORT = 4370
FOUND_S = 15.0


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path) as running:
        yield running


def machine(
    cluster: Cluster, lan: Lan, index: int, name: str, *known: int, mdns: bool = False
) -> RealNode:
    """A node on the machine `index` that has the addresses of the machines `known`."""
    names = ("gandalf", "bilbo")
    return cluster.start(
        name,
        prefix=("ip", "netns", "exec", lan.nodes[index]),
        listen=lan.address(index),
        port=LINK_PORT,
        peers=tuple(f"{names[each]}@{lan.address(each)}:{LINK_PORT}" for each in known),
        mdns=mdns,
    )


class Cut:
    """Drops what arrives: at the second machine, at the first, or at both. Nobody is told."""

    RULES = """
        add table ip cut
        add chain ip cut input { type filter hook input priority 0; }
        add rule ip cut input iifname "eth0" drop
    """

    def __init__(self, lan: Lan, direction: str) -> None:
        arrives_at = {"both": (0, 1), "to bilbo": (1,), "from bilbo": (0,)}
        self._names = [lan.nodes[index] for index in arrives_at[direction]]

    def begin(self) -> None:
        """No packet of that direction arrives from now on."""
        for name in self._names:
            self._nft(name, self.RULES)

    def heal(self) -> None:
        """All do again."""
        for name in self._names:
            self._nft(name, "delete table ip cut")

    @staticmethod
    def _nft(name: str, rules: str) -> None:
        command = ["ip", "netns", "exec", name, "nft", rules]
        subprocess.run(command, check=True, capture_output=True, timeout=10)


async def kvs_session(gandalf: RealNode, bilbo: RealNode) -> None:
    """The session of seed 001, by the command line, from both machines."""
    assert bilbo.run("call", "gandalf", "kvs", "store", "weather", "fine").stdout == "true\n"
    for node in (gandalf, bilbo):
        found = node.run("--json", "call", "gandalf", "kvs", "lookup", "weather").stdout
        assert json.loads(found) == ["ok", "fine"]


async def linked(gandalf: RealNode, bilbo: RealNode, within_s: float = FOUND_S) -> float:
    started = time.monotonic()
    await gandalf.wait_up("bilbo", timeout_s=within_s)
    await bilbo.wait_up("gandalf", timeout_s=within_s)
    return time.monotonic() - started


async def test_two_machines_meet_by_mdns_alone(
    make_lan: Callable[..., Lan], cluster: Cluster
) -> None:
    lan = make_lan(2)
    gandalf = machine(cluster, lan, 0, "gandalf", mdns=True)
    bilbo = machine(cluster, lan, 1, "bilbo", mdns=True)
    print(f"found each other {await linked(gandalf, bilbo):.2f} s after the second was ready")
    await kvs_session(gandalf, bilbo)


async def test_two_machines_meet_by_an_address_alone(
    make_lan: Callable[..., Lan], cluster: Cluster
) -> None:
    lan = make_lan(2)
    gandalf = machine(cluster, lan, 0, "gandalf")
    bilbo = machine(cluster, lan, 1, "bilbo", 0)
    print(f"linked {await linked(gandalf, bilbo, 5.0):.2f} s after the second was ready")
    await kvs_session(gandalf, bilbo)


@pytest.mark.parametrize("direction", ["both", "to bilbo", "from bilbo"])
async def test_a_cut_is_noticed_on_both_sides_and_heals(
    make_lan: Callable[..., Lan], cluster: Cluster, direction: str
) -> None:
    lan = make_lan(2)
    gandalf = machine(cluster, lan, 0, "gandalf")
    bilbo = machine(cluster, lan, 1, "bilbo", 0)
    await linked(gandalf, bilbo)
    cut = Cut(lan, direction)
    took_s: dict[str, float] = {}
    async with gandalf.watch() as one, bilbo.watch() as other:
        started = time.monotonic()
        cut.begin()

        async def wait_down(node: RealNode, watch: object) -> None:
            event = await watch.next(12.0)  # type: ignore[attr-defined]
            assert isinstance(event, NodeDown)
            took_s[node.name] = time.monotonic() - started

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait_down, gandalf, one)
            nursery.start_soon(wait_down, bilbo, other)
        print(f"cut {direction}: NodeDown after {took_s}")
        deaf = {"both": ("gandalf", "bilbo"), "to bilbo": ("bilbo",), "from bilbo": ("gandalf",)}
        for name, span_s in took_s.items():
            # who still hears is sent one more PING; later ones wait behind it for its ACK
            assert span_s <= SILENT_S + (0.0 if name in deaf[direction] else KEEPALIVE_S), took_s
        told = gandalf.run("--json", "ping", "bilbo", "--timeout", "4")
        assert json.loads(told.stdout)["ok"] is False
        healed = time.monotonic()
        cut.heal()
        for watch in (one, other):
            assert isinstance(await watch.next(15.0), NodeUp)
        print(f"linked again {time.monotonic() - healed:.2f} s after the cut was healed")
    await kvs_session(gandalf, bilbo)
