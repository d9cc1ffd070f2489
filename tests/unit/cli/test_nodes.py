from __future__ import annotations

import json

from tests.unit.cli.conftest import NODES, Run
from tests.unit.client.fake_daemon import FakeDaemon


def test_lists_and_records(daemon: FakeDaemon, run: Run) -> None:
    assert json.loads(run("nodes", "--json")[1]) == NODES
    assert run("nodes")[1].splitlines()[1].split() == ["bilbo", "up", "k2"]
    assert json.loads(run("status", "--json")[1])["name"] == "gandalf"
    assert "uptime_s  1.2" in run("status")[1]
    assert json.loads(run("names", "--json")[1]) == [{"name": "gandalf", "port": 4370}]
    assert "gandalfhost" in run("names", "host")[1]
    assert json.loads(run("missions", "--json")[1])[0]["state"] == "ready"
    assert run("missions")[1].splitlines()[1].split() == ["kvs", "ready", "store", "d"]
    assert run("metrics") == (0, "drupelet_nodes_up 1\n", "")
    assert json.loads(run("metrics", "--json")[1]) == "drupelet_nodes_up 1\n"
    assert set(json.loads(run("version", "--json")[1])) == {"version", "python"}


def test_a_bug_is_told_without_a_traceback(daemon: FakeDaemon, run: Run) -> None:
    daemon.functions["/node/status"] = lambda: 1
    code, _, err = run("status")
    assert (code, "malformed status" in err) == (1, True)
