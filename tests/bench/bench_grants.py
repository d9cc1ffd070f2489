"""Grants: what a stranger's call costs beside a member's, and the bars of issue 4.

    python -m tests.bench.bench_grants [--quick]

The peer of a granted call is a member's call of the same function on the same node: three daemons
on this machine, the two callers taking turns in short batches, so that what else the machine does
falls on both. Checking chains and sealed requests is measured in this program; verifying one
Ed25519 signature is printed beside, since it is most of both. Revoking is timed by the command's
own caller, with every call in flight on a link.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import trio

from drupelet.client.asynchronous import Client, open_client
from drupelet.core.grants import Grants, Quota
from drupelet.core.requests import Callee, Caller, Run, Wanted
from drupelet.errors import Revoked
from drupelet.wire import sodium
from drupelet.wire.codec import dumps
from drupelet.wire.grants import NONCE_BYTES, Grant, Terms, decode_grant, issue, narrow
from tests.integration.cluster import Cluster, RealNode
from tests.integration.test_grants import done, grant, key_of

BARS = {  # at most, but for those per second
    "chain_bytes": 600.0,
    "chain_us": 200.0,
    "requests_per_s": 4_000.0,
    "granted_more_us": 10.0,
    "revoke_200_ms": 100.0,
}
CALL_BATCH = 25
PAUSE_S = 0.05  # between batches: no caller makes more than 1,000 calls a second
IN_FLIGHT = 200
PLENTY = Quota(
    caller_rate=(1_000_000, 1),
    mission_rate=(1_000_000, 1),
    node_rate=(1_000_000, 1),
    concurrent=1_000_000,
)
KITCHEN = """
import trio
from drupelet import mission

begun = 0

@mission("light")
def temp():
    return 20

@mission("light")
async def dim(seconds: float):
    global begun
    begun += 1
    await trio.sleep(seconds)

@mission("light")
def dimming():
    return begun
"""


def best_us(function: Callable[[], object], count: int) -> float:
    """The quickest of 20 batches, in microseconds a call."""
    took = []
    for _ in range(20):
        started = time.perf_counter()
        for _ in range(count):
            function()
        took.append(time.perf_counter() - started)
    return min(took) / count * 1e6


def seed() -> tuple[bytes, bytes]:
    """A new identity: its seed and its key."""
    made = os.urandom(32)
    return made, sodium.ed25519_public(made)


def chain() -> Grant:
    """Three links, each with limits."""
    own, bob, charlie, dave = (seed() for _ in range(4))
    first = Terms(functions=("boil", "temp"), rate=(10, 1), expires_s=30 * 86_400, delegable=3)
    made = issue(own[0], bob[1], "kitchen", first, os.urandom(NONCE_BYTES), sequence=1)
    second = Terms(functions=("boil",), rate=(5, 1), delegable=2)
    made = narrow(made, bob[0], charlie[1], second, os.urandom(NONCE_BYTES))
    return narrow(made, charlie[0], dave[1], Terms(rate=(1, 1)), os.urandom(NONCE_BYTES))


def in_memory(count: int) -> dict[str, float]:
    """Chains and sealed requests."""
    made = chain()
    secret, public = seed()
    signature = sodium.sign(secret, made.data[:140])
    return {
        "chain_bytes": float(len(made.data)),
        "chain_us": best_us(lambda: decode_grant(made.data), count),
        "signature_us": best_us(lambda: sodium.verify(public, made.data[:140], signature), count),
        "requests_per_s": sealed_requests(count * 10),
    }


def sealed_requests(count: int) -> float:
    """How many a callee opens, verifies and lets in a second: new ones, of one known grant."""
    own, holder = seed(), seed()
    door = Grants(own[1], lambda key: False, PLENTY)
    terms = Terms(rate=(1_000_000, 1))
    made = issue(own[0], holder[1], "kitchen", terms, os.urandom(NONCE_BYTES), sequence=1)
    door.issued(made, 0.0)
    callee = Callee(own[0], door, os.urandom, 0.0)
    took = []
    for _ in range(8):
        caller = Caller(os.urandom)
        wanted = Wanted(
            callee=own[1],
            boot_key=callee.boot_key,
            grant=made.data,
            seed=holder[0],
            target="kitchen/boil",
            arguments=dumps([1]),
            deadline=100.0,
        )
        sent = [caller.call(wanted, callee.token, 1.0) for _ in range(count)]
        started = time.perf_counter()
        runs = [callee.receive(holder[1], each.id, each.body, 1.0) for each in sent]
        took.append(time.perf_counter() - started)
        for run in runs:
            assert isinstance(run, Run)
            callee.finish(run.ticket, dumps(None), 1.0)
    return count / min(took)


def start(cluster: Cluster) -> tuple[RealNode, RealNode, RealNode]:
    """Alice with the mission, Carol who is a member with her, and Bob who is not."""
    alice = cluster.add("alice", missions={}, cookie_file=cluster.directory / "ours")
    folder = alice.directory / "missions.d"
    folder.mkdir()
    (folder / "light.toml").write_text(
        'module = "light.py"\nexports = ["temp", "dim", "dimming"]\n'
    )
    (folder / "light.py").write_text(KITCHEN)
    alice.start()
    carol = cluster.start("carol", alice, missions={}, cookie_file=cluster.directory / "ours")
    bob = cluster.start("bob", missions={}, cookie_file=cluster.directory / "his")
    return alice, carol, bob


async def calls(carol: Client, bob: Client, rounds: int) -> dict[str, float]:
    """The same call by both, in turns."""
    took: dict[str, list[float]] = {"member_us": [], "granted_us": []}
    for name, client in (("member_us", carol), ("granted_us", bob)) * (rounds + 2):
        started = time.perf_counter()
        for _ in range(CALL_BATCH):
            await client.call("alice", "light", "temp")
        took[name].append((time.perf_counter() - started) / CALL_BATCH * 1e6)
        await trio.sleep(PAUSE_S)
    figures = {name: statistics.median(each[2:]) for name, each in took.items()}
    figures["granted_more_us"] = figures["granted_us"] - figures["member_us"]
    return figures


async def revoked(alice: Client, bob: Client, ident: str) -> float:
    """Milliseconds until `revoke` has answered, with IN_FLIGHT calls running."""
    ended = 0

    async def dim() -> None:
        nonlocal ended
        try:
            await bob.call("alice", "light", "dim", 60.0, timeout=60.0)
        except Revoked:
            ended += 1

    before = await alice.call("", "light", "dimming")
    async with trio.open_nursery() as nursery:
        for _ in range(IN_FLIGHT):
            nursery.start_soon(dim)
        while await alice.call("", "light", "dimming") < before + IN_FLIGHT:  # noqa: ASYNC110
            await trio.sleep(0.01)
        started = time.perf_counter()
        answer = await alice.call("", "grants", "revoke", ident)
        took = time.perf_counter() - started
        assert answer["calls"] == IN_FLIGHT, answer
    assert ended == IN_FLIGHT, ended
    return took * 1e3


async def on_daemons(cluster: Cluster, rounds: int) -> dict[str, float]:
    """What needs nodes."""
    nodes = start(cluster)
    alice_node, _, bob_node = nodes
    revocations = []
    async with (
        open_client(socket=nodes[0].socket_path) as alice,
        open_client(socket=nodes[1].socket_path) as carol,
        open_client(socket=nodes[2].socket_path) as bob,
    ):
        for turn in range(3):
            ident, file = grant(alice_node, "--to", key_of(bob_node))
            done(bob_node, "accept", file)
            if not turn:
                figures = await calls(carol, bob, rounds)
            revocations.append(await revoked(alice, bob, ident))
    return {**figures, "revoke_200_ms": max(revocations)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    figures = in_memory(20 if options.quick else 100)
    with tempfile.TemporaryDirectory() as directory, Cluster(Path(directory)) as cluster:
        figures |= trio.run(on_daemons, cluster, 10 if options.quick else 60)
    missed = False
    for name, value in figures.items():
        bar = BARS.get(name)
        if bar is None:
            print(f"        {name:18} {value:10,.1f}")
            continue
        met = value >= bar if name.endswith("_per_s") else value <= bar
        missed = missed or not met
        print(f"  {'PASS' if met else 'MISS'}  {name:18} {value:10,.1f}   bar {bar:,.0f}")
    ratio = figures["granted_us"] / figures["member_us"]
    print(f"  a granted call takes {ratio:.2f}x a member's")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
