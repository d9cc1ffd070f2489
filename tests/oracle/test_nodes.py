"""The cases of several nodes: real `drupeletd` against real Erlang nodes.

Ours run in one go, one after the other, as processes of a program that is attached to the node
`oracle`; `bilbo` is killed at the end. Two tries in a row would cost two clusters.
"""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from drupelet.client import open_client
from drupelet.client.carrier import Carrier
from drupelet.process import node, self
from drupelet.process.running import open_runtime, run_main
from tests.integration.cluster import Cluster, RealNode
from tests.oracle.cases import SEVERAL_NODES, cut, lost
from tests.oracle.conftest import TEST_S, Outcomes
from tests.oracle.distant import FAR
from tests.oracle.normal import CASES, SAME, Case, forget_roles, normal, role

pytestmark = [pytest.mark.erlang, pytest.mark.slow, pytest.mark.timeout(TEST_S)]

CASE_S = 40.0  # what takes longer hangs
NAMES = ("gandalf", "bilbo", "oracle")
REMOTE = [case for name in SEVERAL_NODES for case in CASES[name].values()]
SCENES = [f"cut_node_{name}" for name in cut.NAMES]
SCENES += [f"lost_node_{name}" for name in lost.NAMES]
EXPORTS = (
    "here",
    "fails",
    "later",
    "tell",
    "getpid",
    "named",
    "where",
    "server",
    "members",
    "machine",
    "manager",
)


def start_cluster(cluster: Cluster) -> RealNode:
    """Three nodes with the mission `far`; the last one, which dials the others."""
    known: list[RealNode] = []
    for name in NAMES:
        one = cluster.add(name, *known, missions={})
        missions = one.directory / "missions.d"
        missions.mkdir()
        listed = ", ".join(f'"{each}"' for each in EXPORTS)
        (missions / "far.toml").write_text(f'module = "{FAR}"\nexports = [{listed}]\n')
        one.start()
        known.append(one)
    return known[-1]


async def run_cases(cluster: Cluster) -> Outcomes:
    outcomes: Outcomes = {}
    oracle = cluster["oracle"]
    await oracle.wait_up("gandalf", "bilbo")
    async with open_client(oracle.socket_path) as client:
        carrier = Carrier(client)
        async with open_runtime(carrier) as runtime:
            await carrier.attach(runtime)
            for name in NAMES:  # a worker is there a moment after its node
                await client.call(name, "far", "here")
            for case in REMOTE:
                outcomes[case.name] = await run_main(runtime, one, case)

            def kill() -> None:
                cluster["bilbo"].signal(signal.SIGKILL)

            outcomes |= await run_main(runtime, scene, "cut_node_", cut.scene)
            outcomes |= await run_main(runtime, scene, "lost_node_", lost.scene, kill)
    return outcomes


async def one(case: Case) -> object:
    forget_roles({node(): "here"})
    role(self(), "self")
    try:
        with trio.fail_after(CASE_S):
            return normal(await case.body())
    except Exception as error:
        return ("failed", repr(error))


async def scene(prefix: str, body: Callable[..., Awaitable[Any]], *args: object) -> Outcomes:
    """Several outcomes of one scene."""
    forget_roles({node(): "here"})
    role(self(), "self")
    with trio.fail_after(CASE_S):
        return {f"{prefix}{name}": normal(each) for name, each in await body(*args)}


@pytest.fixture(scope="session")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    with Cluster(tmp_path_factory.mktemp("nodes")) as cluster:
        start_cluster(cluster)
        return trio.run(run_cases, cluster)


def test_every_case_of_erlang_has_its_twin(otp_nodes: Outcomes, ours: Outcomes) -> None:
    assert sorted(set(otp_nodes) ^ set(ours)) == []
    assert sorted(set(ours) ^ {*SCENES, *(case.name for case in REMOTE)}) == []


@pytest.mark.parametrize("case", REMOTE, ids=lambda case: case.name)
def test_case(case: Case, otp_nodes: Outcomes, ours: Outcomes) -> None:
    if case.ours is SAME:
        assert ours[case.name] == otp_nodes[case.name]
    else:
        assert (otp_nodes[case.name], ours[case.name]) == (case.otp, case.ours)


@pytest.mark.parametrize("name", SCENES)
def test_scene(name: str, otp_nodes: Outcomes, ours: Outcomes) -> None:
    assert ours[name] == otp_nodes[name]
