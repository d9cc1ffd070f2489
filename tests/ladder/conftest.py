"""The ladder: the same test file on every rung.

    pytest tests/ladder --ladder 0,1,2,3

| rung | where the store runs, and the program |
|---|---|
| 0 | two nodes of the simulator: one loop, virtual time |
| 1 | one process, without any node |
| 2 | two `drupeletd` on this machine; the program is a client of the other one |
| 3 | the same in two network namespaces; needs root |

Decides what each rung is made of; a test knows none of it. `make test` runs 0 and 1, `make real` 2,
`make netns` 3.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from subprocess import CalledProcessError
from typing import Any

import pytest
import trio

from drupelet import (
    Pid,
    net_kernel,
    node,
    nodes,
    receive,
    self,
    send,
    send_after,
    spawn,
    whereis,
)
from drupelet.bundled.kvs import Kvs
from drupelet.ladder import Cluster, simulate
from drupelet.process import run
from drupelet.process.children import Child
from drupelet.process.supervisor import Supervisor
from tests.integration.cluster import Cluster as RealCluster
from tests.netns.conftest import Lan

READY_S = 20.0
LINK_PORT = 4370
NAME = "kvs.Kvs"  # as a worker registers it

Program = Callable[[str], Awaitable[Any]]
Climb = Callable[[Program], Any]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--ladder", default="0,1", metavar="RUNGS", help="rungs of tests/ladder, 0,1 unless given"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "climb" in metafunc.fixturenames:
        rungs = metafunc.config.getoption("--ladder").split(",")
        metafunc.parametrize("climb", [RUNGS[rung] for rung in rungs], ids=rungs, indirect=True)


@pytest.fixture
def climb(request: pytest.FixtureRequest, tmp_path: Path, seed: int) -> Iterator[Climb]:
    """``climb(program)`` runs ``program(node)`` as a process; `node` is where the store is."""
    with request.param(tmp_path, seed) as run_on_rung:
        yield run_on_rung


async def start_store() -> None:
    """As a mission's worker does: for as long as the node runs."""
    await spawn(_keep_store, self())
    await receive("ready")


async def _keep_store(starter: Pid) -> None:
    await Supervisor.start_link([Child(NAME, Kvs, name=NAME)])
    await send(starter, "ready")
    await trio.sleep_forever()


async def _see_store() -> None:
    while "bilbo" not in nodes() or await whereis(NAME, "bilbo") is None:
        send_after(0.05, self(), "look again")
        await receive("look again")


class Simulated:
    """Rung 0."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.seed = seed

    def __enter__(self) -> Climb:
        return self.climb

    def __exit__(self, *_: object) -> None:
        pass

    def climb(self, program: Program) -> Any:
        async def main(cluster: Cluster) -> Any:
            await cluster.on("bilbo", start_store)
            return await cluster.on("gandalf", program, "bilbo")

        return simulate(main, nodes=("gandalf", "bilbo"), seed=self.seed)


class Alone(Simulated):
    """Rung 1."""

    def climb(self, program: Program) -> Any:
        async def main() -> Any:
            await start_store()
            return await program(node())

        return run(main)


class Real:
    """Rung 2."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.cluster = RealCluster(directory)

    def __enter__(self) -> Climb:
        self.cluster.__enter__()
        try:
            self.start()
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self.climb

    def start(self) -> None:
        """Both nodes."""
        bilbo = self.cluster.start("bilbo", missions={"kvs": ("store", "lookup")})
        self.cluster.start("gandalf", bilbo, missions={})

    def __exit__(self, *error: Any) -> None:
        self.cluster.__exit__(*error)

    def climb(self, program: Program) -> Any:
        async def main() -> Any:
            await net_kernel.start(self.cluster["gandalf"].socket_path)
            with trio.fail_after(READY_S):
                await _see_store()
            return await program("bilbo")

        return run(main)


class Namespaces(Real):
    """Rung 3."""

    def __init__(self, directory: Path, seed: int) -> None:
        super().__init__(directory, seed)
        if os.geteuid() != 0 or shutil.which("ip") is None:
            pytest.skip("network namespaces need root and iproute2")
        self.lan = Lan(2, is_up=True)

    def __enter__(self) -> Climb:
        try:
            self.lan.__enter__()
        except CalledProcessError as error:
            pytest.skip(f"no network namespaces here: {error.stderr!r}")
        return super().__enter__()

    def start(self) -> None:
        for index, (name, known, missions) in enumerate(
            [
                ("bilbo", (), {"kvs": ("store", "lookup")}),
                ("gandalf", (f"bilbo@{self.lan.address(0)}:{LINK_PORT}",), {}),
            ]
        ):
            self.cluster.start(
                name,
                prefix=("ip", "netns", "exec", self.lan.nodes[index]),
                listen=self.lan.address(index),
                port=LINK_PORT,
                peers=known,
                missions=missions,
            )

    def __exit__(self, *error: Any) -> None:
        try:
            super().__exit__(*error)
        finally:
            self.lan.__exit__()


RUNGS = {"0": Simulated, "1": Alone, "2": Real, "3": Namespaces}
