"""Two live nodes with one key, as a copied card makes them, are named on both and on a third."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

from tests.integration.cluster import Cluster, RealNode

NOTICED_S = 60.0  # 10 s for the delayed link that it could be, and a few dials

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path) as running:
        yield running


async def until(what: Callable[[], str]) -> str:
    with trio.fail_after(NOTICED_S):
        while not (found := what()):  # noqa: ASYNC110  (of other programs)
            await trio.sleep(0.5)
    return found


def warning(node: RealNode) -> str:
    return str(node.status().get("clone", ""))


async def test_a_copied_key_is_named_on_both_nodes_and_on_a_third(cluster: Cluster) -> None:
    bilbo = cluster.start("bilbo")
    gandalf = cluster.start("gandalf", bilbo)
    await bilbo.wait_up("gandalf")
    copy = cluster.add("copy", bilbo, name="gandalf")
    copy.state_dir.mkdir(mode=0o700)
    shutil.copy2(gandalf.state_dir / "node.key", copy.state_dir / "node.key")
    began = time.monotonic()
    copy.start()
    assert copy.status()["key"] == gandalf.status()["key"]
    for node in (gandalf, copy):
        said = await until(lambda node=node: warning(node))  # type: ignore[misc]
        assert said.startswith("another live node has the key of this one: ")
        assert "remove node.key" in said
    (shown,) = json.loads(bilbo.run("--json", "nodes").stdout)
    assert shown["name"] == "gandalf"
    assert shown["clone"].startswith("another live node has its key: 127.0.0.1")
    print(f"all three say so {time.monotonic() - began:.0f} s after the copy began to start")
    assert warning(bilbo) == ""
    copy.stop()
    (copy.state_dir / "node.key").unlink()  # as it says
    copy.name = "gandalf2"
    copy.start()
    assert copy.status()["key"] != gandalf.status()["key"]
    await bilbo.wait_up("gandalf2")
