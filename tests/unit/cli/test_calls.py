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


def test_a_call_with_an_idempotency_key(daemon: FakeDaemon, run: Run) -> None:
    asked = '["bilbo", "kvs/store", 16, ["a", 1]]\n'
    assert run("call", "--key", "order-17", "bilbo", "kvs", "store", "a", "1") == (0, asked, "")
    code, _, err = run("call", "--key", "", "bilbo", "kvs", "store", "a")
    assert code != 0 and "idempotency_key" in err


def test_a_cast_says_whether_it_is_kept(daemon: FakeDaemon, run: Run) -> None:
    code, out, err = run("cast", "bilbo", "kvs", "store", "x")
    assert (code, out) == (0, "") and "kept; bilbo runs it once" in err
    assert run("cast", "sam", "kvs", "store", "x") == (0, "", "")
    assert "kept" in run("cast", "--key", "order-17", "sam", "kvs", "store", "x")[2]
    for node, kept in (("bilbo", "true"), ("sam", "false")):
        told = run("cast", node, "kvs", "store", "x", "--json")
        assert told[:2] == (0, f'{{"kept": {kept}}}\n')


def test_casts_that_wait(daemon: FakeDaemon, run: Run) -> None:
    assert json.loads(run("casts", "--json")[1])[0]["target"] == "kvs/store"
    assert run("casts")[1].splitlines()[1].split() == ["bilbo", "kvs/store", "sent"]
    daemon.functions["/once/waiting"] = list
    assert "no cast waits" in run("casts")[2]
    daemon.functions["/once/waiting"] = lambda: 1
    assert run("casts")[0] == 1
