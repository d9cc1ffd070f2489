from __future__ import annotations

import json

from tests.unit.cli.conftest import Run
from tests.unit.client.fake_daemon import FakeDaemon


def test_call_prints_the_value_as_json(daemon: FakeDaemon, run: Run) -> None:
    assert run("call", "gandalf", "kvs", "store", "weather", "fine") == (0, "true\n", "")
    assert run("call", "bilbo", "kvs", "lookup", "weather") == (0, '["ok", "weather"]\n', "")
    assert run("--json", "call", "bilbo", "kvs", "lookup", "1") == (0, '["ok", 1]\n', "")


def test_a_slow_call_times_out(daemon: FakeDaemon, run: Run) -> None:
    code, out, _ = run("--json", "call", "gandalf", "m", "silent", "--timeout", "0.01")
    assert code == 6
    assert json.loads(out)["error"]["maybe_ran"] is True


def test_ping(daemon: FakeDaemon, run: Run) -> None:
    assert run("ping", "bilbo") == (0, "bilbo answers in 0.25 ms\n", "")
    assert run("--json", "ping", "bilbo") == (0, '{"ok": true, "rtt_ms": 0.25}\n', "")
    assert run("--json", "ping", "x") == (5, '{"ok": false, "reason": "no_route"}\n', "")
    code, out, err = run("ping", "x")
    assert (code, out) == (5, "x does not answer: no_route\n")
    assert "mend: " in err


def test_why_names_the_step_and_the_mend(daemon: FakeDaemon, run: Run) -> None:
    code, out, _ = run("why", "frodo")
    assert code == 1
    for text in ("ok    name", "broken step: port", "port_closed", "mend: start it"):
        assert text in out
    code, out, _ = run("--json", "why", "frodo", "kvs", "store")
    assert (code, json.loads(out)["steps"][0]["detail"]) == (1, "known ('kvs', 'store')")
    assert run("why", "bilbo")[0] == 0


def test_multicall(daemon: FakeDaemon, run: Run) -> None:
    code, out, _ = run("--json", "multicall", "bilbo,sam", "kvs", "lookup", "x")
    found = json.loads(out)
    assert (code, found["bilbo"]) == (1, {"value": ["ok", "x"]})
    assert found["sam"]["error"]["kind"] == "undef"
    code, out, _ = run("multicall", "bilbo", "kvs", "lookup", "x")
    assert (code, out) == (0, 'bilbo  ["ok", "x"]\n')
    assert run("multicall", ",", "kvs", "lookup")[0] == 2


def test_a_value_that_is_no_data_is_refused_here(daemon: FakeDaemon, run: Run) -> None:
    code, out, _ = run("--json", "call", "gandalf", "kvs", "lookup", str(2**63))
    assert (code, json.loads(out)["error"]["kind"]) == (1, "NotSendable")
    code, out, _ = run("--json", "call", "gandalf", "kvs", "lookup", "\udcff")
    assert (code, json.loads(out)["error"]["kind"]) == (1, "NotSendable")
