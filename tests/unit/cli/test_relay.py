from __future__ import annotations

import json

import pytest

from drupelet.errors import NoConnection
from tests.unit.cli.conftest import Run
from tests.unit.client.fake_daemon import FakeDaemon

UP = {
    "url": "https://one", "urls": ["https://one", "https://two"], "way": "websocket", "state": "up",
    "why": "", "mend": "", "since_s": 190.0, "name": "alice", "account": "AAAA", "email": "",
    "queued": 0, "announced_s": 4.2, "sent": 3, "received": 2,
}  # fmt: skip


def test_the_connection(daemon: FakeDaemon, run: Run) -> None:
    daemon.functions["/relay/status"] = lambda: UP
    code, out, _ = run("relay", "--json")
    assert (code, json.loads(out)) == (0, UP)
    code, out, _ = run("relay")
    lines = {line.partition(" ")[0]: line.partition(" ")[2].strip() for line in out.splitlines()}
    assert code == 0 and lines == {
        "url": "https://one", "way": "websocket", "state": "up, for 3 minutes", "account": "AAAA",
        "name": "alice", "queued": "0", "announced": "4 seconds ago", "others": "https://two",
    }  # fmt: skip


@pytest.mark.parametrize("state", ["down", "connecting", "not_verified", "off"])
def test_who_is_not_let_in_gets_another_exit_code(daemon: FakeDaemon, run: Run, state: str) -> None:
    daemon.functions["/relay/status"] = lambda: {"state": state, "why": "x", "mend": "do y\x1b[31m"}
    code, out, _ = run("relay")
    assert code == 5 and "do y" in out and "\x1b" not in out


def test_who_does_not_reach_it_is_told_how_to_look(daemon: FakeDaemon, run: Run) -> None:
    gone = UP | {"state": "down", "why": "Connection refused"}
    daemon.functions["/relay/status"] = lambda: gone
    code, out, _ = run("relay")
    assert code == 5 and "curl https://one/healthz" in out


def test_the_catalogue(daemon: FakeDaemon, run: Run) -> None:
    rows = [{"name": "alice", "key": "AAAA", "missions": ["light", "tea"], "granted": ["light"]}]
    daemon.functions["/relay/catalogue"] = lambda: rows
    code, out, _ = run("relay", "catalogue", "--json")
    assert (code, json.loads(out)) == (0, rows)
    code, out, _ = run("relay", "catalogue")
    assert code == 0 and out.splitlines()[1].split() == ["alice", "light,", "tea", "light", "AAAA"]
    daemon.functions["/relay/catalogue"] = lambda: []
    code, out, err = run("relay", "catalogue")
    assert (code, out) == (0, "") and "no node at the relay" in err


def test_no_catalogue_has_the_reason_of_the_connection(daemon: FakeDaemon, run: Run) -> None:
    def none() -> None:
        raise NoConnection("no_route")

    daemon.functions["/relay/catalogue"] = none
    daemon.functions["/relay/status"] = lambda: {"state": "down", "why": "no", "mend": "do y"}
    code, _, err = run("relay", "catalogue")
    assert code == 5 and "not let in by the relay: no" in err and "mend: do y" in err
    daemon.functions["/relay/status"] = lambda: UP
    code, _, err = run("relay", "catalogue")
    assert code == 5 and "no_route" in err


def test_what_is_no_answer_and_what_is_no_verb(daemon: FakeDaemon, run: Run) -> None:
    for function in ("status", "catalogue"):
        daemon.functions[f"/relay/{function}"] = lambda: 1
        code, _, err = run("relay", *([] if function == "status" else [function]))
        assert code == 1 and f"malformed answer of relay/{function}" in err
    code, _, err = run("relay", "catalog")
    assert code == 2 and "`relay catalogue`" in err
