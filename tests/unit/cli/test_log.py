"""``log``, with a daemon that answers as `services/audit.py` does."""

from __future__ import annotations

import json
import re
import time

import pytest

from drupelet.cli import log
from tests.unit.cli.conftest import Run
from tests.unit.client.fake_daemon import FakeDaemon

KEY = "abcdefgh" * 7
HASH = "0123456789abcdef" * 4
NOW = 1_795_000_000.0
LOCAL = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(NOW))
VERDICT: dict[str, object] = {
    "good": True, "hash": HASH, "entries": 3, "broken": "", "remembered": None,
}  # fmt: skip


def entry(**fields: object) -> dict[str, object]:
    return {
        "sequence": 1, "unix_s": NOW, "up_s": 3_723.5, "boot": "ab", "what": "call", "caller": KEY,
        "mission": "light", "function": "temp", "outcome": "ok", "span_ms": 12, "count": 1,
        "note": "1f" * 16,
    } | fields  # fmt: skip


ENTRIES = [
    entry(what="granted", caller="bilbo", function="", outcome="", note="Bilbo may call temp."),
    entry(),
    entry(caller="k2", unix_s=30.0, span_ms=0),
    entry(what="refused", function="\x1b[2Jevil", outcome="NotPermitted", note=""),
    entry(what="refused", function="on", outcome="RateLimited", count=7, note=""),
]


@pytest.fixture
def asked(daemon: FakeDaemon) -> list[tuple[object, ...]]:
    found: list[tuple[object, ...]] = []

    def read(*arguments: object) -> object:
        found.append(arguments)
        return ENTRIES

    daemon.functions["/audit/read"] = read
    return found


def test_a_line_for_each_entry(asked: list[tuple[object, ...]], run: Run) -> None:
    code, out, err = run("log", "light", "--since", "1h", "--count", "20")
    assert (code, err, asked) == (0, "", [("light", 3_600, 20)])
    lines = out.splitlines()
    assert [re.split(" {2,}", line) for line in lines] == [
        [LOCAL, "granted", "bilbo", "light", "Bilbo may call temp."],
        [LOCAL, "call", "abcdefgh…", "light/temp", "ok", f"12 ms, grant {'1f' * 16}"],
        ["1:02:03 after start", "call", "bilbo", "light/temp", "ok", f"0 ms, grant {'1f' * 16}"],
        [LOCAL, "refused", "abcdefgh…", "light/\N{REPLACEMENT CHARACTER}[2Jevil", "NotPermitted"],
        [LOCAL, "refused", "abcdefgh…", "light/on", "RateLimited", "7 times more"],
    ]
    assert len({line.index("light") for line in lines}) == 1  # in columns


def test_all_fields_as_json(asked: list[tuple[object, ...]], run: Run) -> None:
    code, out, _ = run("--json", "log")
    assert (code, json.loads(out), asked) == (0, ENTRIES, [("", None, log.COUNT)])


def test_more_than_is_shown_and_nothing_at_all(
    daemon: FakeDaemon, asked: list[tuple[object, ...]], run: Run
) -> None:
    assert run("log", "--count", "5")[2] == "the last 5; --count N shows more, --json all fields\n"
    daemon.functions["/audit/read"] = lambda *_: []
    code, out, err = run("log")
    assert (code, out) == (0, "")
    assert err.startswith("no entries; ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--since 1", "--since: '1' is no span of time"),
        ("--count 0", "--count '0' is no number from 1 to 10000"),
        ("--count 10001", "--count '10001' is no number from 1 to 10000"),
        ("--hash 12", "--hash: '12' is no hash; --check prints one of 64 characters"),
        (f"--hash {'x' * 64}", "is no hash"),
    ],
)
def test_what_cannot_be_meant(daemon: FakeDaemon, run: Run, words: str, message: str) -> None:
    code, _, err = run("log", *words.split())
    assert code == 2
    assert message in err


def test_an_unchanged_log_and_its_hash(daemon: FakeDaemon, run: Run) -> None:
    daemon.functions["/audit/verify"] = lambda remembered: VERDICT
    code, out, err = run("log", "--check")
    assert (code, out) == (0, f"unchanged, as far as it goes: 3 entries\nlast hash {HASH}\n")
    assert "its end was cut off" in err and "--hash HASH" in err
    assert json.loads(run("--json", "log", "--check")[1]) == VERDICT


def test_a_hash_that_was_written_down(daemon: FakeDaemon, run: Run) -> None:
    asked = []

    def verify(remembered: str) -> object:
        asked.append(remembered)
        return VERDICT | {"remembered": remembered == HASH}

    daemon.functions["/audit/verify"] = verify
    code, out, err = run("log", "--check", "--hash", HASH.upper())
    assert (code, err, asked) == (0, "", [HASH])
    assert out.startswith("unchanged, as far as it goes: 3 entries and no entry after that hash")
    for words in (("--check", "--hash", "ff" * 32), ("--hash", "ff" * 32)):
        code, out, _ = run("log", *words)
        assert (code, "no entry has that hash: the end was cut off" in out) == (1, True)
        assert run("--json", "log", *words)[0] == 1


def test_a_broken_chain_names_the_place(daemon: FakeDaemon, run: Run) -> None:
    broken = {"good": False, "broken": "00000001.log at byte 512: entry 4 is missing"}
    daemon.functions["/audit/verify"] = lambda remembered: VERDICT | broken
    code, out, err = run("log", "--check")
    assert code == 1
    assert out == f"changed: {broken['broken']}\nlast hash {HASH}\n"
    assert err.startswith("mend: copy the folder audit")


@pytest.mark.parametrize("answer", [None, [1], [{"what": "call"}], {}])
def test_a_malformed_answer_is_told(daemon: FakeDaemon, run: Run, answer: object) -> None:
    daemon.functions["/audit/read"] = lambda *_: answer
    daemon.functions["/audit/verify"] = lambda *_: answer
    for words in ((), ("--check",)):
        code, _, err = run("log", *words)
        assert (code, "audit/" in err) == (1, True)
