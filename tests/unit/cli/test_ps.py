from __future__ import annotations

import json

import pytest

from drupelet.cli.ps import rows_of
from drupelet.errors import EXIT_DONE, EXIT_FAILED, EXIT_NO_CONNECTION, RemoteProtocolError
from tests.unit.cli.conftest import GANDALF, Run
from tests.unit.client.fake_daemon import FakeDaemon


def test_the_processes_of_one_node(daemon: FakeDaemon, run: Run) -> None:
    code, out, err = run("ps", "gandalf")
    assert (code, err) == (EXIT_DONE, "")
    heading, *lines = out.splitlines()
    columns = ["PID", "NAMES", "FUNCTION", "MISSION", "STATUS", "MESSAGES", "RECEIVED", "LINKS"]
    assert heading.split() == columns
    assert lines[0].split() == ["echo", "silent"]  # a mission that does not answer is one line
    assert lines[1].startswith("gandalf.17.42 ")  # in order, and as `trace` takes it
    assert "a, b" in lines[1] and "\x1b" not in lines[1]
    fields = ["gandalf.17.43", "kvs.Kvs", "kvs", "receive", "3", "9", "1"]
    assert lines[2].split() == fields


def test_json_has_every_field_and_pids_as_text(daemon: FakeDaemon, run: Run) -> None:
    code, out, _ = run("--json", "ps", "gandalf")
    assert code == EXIT_DONE
    silent, first, second = json.loads(out)
    assert silent == {"mission": "echo", "status": "silent"}
    assert (first["pid"], first["names"], first["parent"]) == (str(GANDALF), ["a", "b"], None)
    assert (second["links"], second["parent"]) == ([str(GANDALF)], str(GANDALF))
    assert second["mission"] == "kvs"


def test_all_nodes_that_are_up(daemon: FakeDaemon, run: Run) -> None:
    code, out, err = run("ps")
    assert (code, err) == (EXIT_DONE, "")
    assert len(out.splitlines()) == 4
    daemon.functions["/node/nodes"] = lambda: [{"name": "sam", "state": "up"}]
    code, out, err = run("ps")  # one of them went meanwhile
    assert (code, len(out.splitlines())) == (EXIT_FAILED, 4)
    assert err.startswith("sam: down")


def test_no_processes_and_no_node(daemon: FakeDaemon, run: Run) -> None:
    code, out, err = run("ps", "bilbo")
    assert (code, out) == (EXIT_DONE, "")
    assert "no process runs there" in err
    assert run("--json", "ps", "bilbo") == (EXIT_DONE, "[]\n", "")
    code, out, err = run("ps", "sam")
    assert (code, out) == (EXIT_NO_CONNECTION, "")
    assert "mend: " in err


def test_what_is_no_list_of_processes(daemon: FakeDaemon, run: Run) -> None:
    code, _, err = run("ps", "strange")
    assert (code, err) == (EXIT_FAILED, "drupelet: malformed list of processes\n")
    values: list[object] = [None, {}, [1]]
    for value in values:
        with pytest.raises(RemoteProtocolError):
            rows_of(value)
