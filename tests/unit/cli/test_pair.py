"""``pair``, with a daemon that answers as `services/pairing.py` does."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable

import pytest

from drupelet.cli import pair
from drupelet.errors import NoConnection, NotPermitted, RemoteError
from tests.unit.cli.conftest import Run, fail_with
from tests.unit.client.fake_daemon import FakeDaemon

KEY = "abcdefghijklmnopqrstuvwx"
SHOWN: dict[str, object] = {
    "code": "ABCD-EFGH",
    "invitation": "drupelet-pair:o2Rb",
    "key": KEY,
    "name": "alice",
    "addresses": [["192.168.1.7", 4370], ["fd00::1", 4370]],
    "span_s": 300.0,
    "gives": "member",
    "relay": "",
    "relay_problem": "",
}
PAIRED: dict[str, object] = {"outcome": "paired", "by": "link", "name": "bob", "key": KEY}
JOINED: dict[str, object] = {
    "name": "alice",
    "key": KEY,
    "host": "192.168.1.7",
    "port": 4370,
    "by": "link",
    "addresses": [["192.168.1.7", 4370]],
    "gives": "member",
    "linked": True,
    "sentence": "",
}


@pytest.fixture
def asked(daemon: FakeDaemon) -> list[tuple[object, ...]]:
    """What the daemon was asked: (function, argument, ...)."""
    found: list[tuple[object, ...]] = []

    def answering(name: str, answer: object) -> Callable[..., object]:
        def function(*arguments: object) -> object:
            found.append((name, *arguments))
            return answer

        return function

    for name, answer in (("open", SHOWN), ("wait", PAIRED), ("join", JOINED)):
        daemon.functions[f"/pair/{name}"] = answering(name, answer)
    return found


def test_a_code_is_shown_and_waited_for(asked: list[tuple[object, ...]], run: Run) -> None:
    code, out, err = run("pair")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "On the other node:  drupelet pair ABCD-EFGH",
        "or, if it finds nobody:  ... --host 192.168.1.7:4370 or [fd00::1]:4370",
        "This is alice (abcdefghijklmnop). Who types it becomes a member; five minutes, one try. "
        "Ctrl-C takes it back.",
        "paired with bob (abcdefghijklmnop) by a direct link",
    ]
    assert asked == [("open", "", {}), ("wait",)]


def test_a_grant_with_terms(daemon: FakeDaemon, asked: list[tuple[object, ...]], run: Run) -> None:
    def opened(*words: object) -> object:
        asked.append(words)
        return SHOWN | {"gives": "grant"}

    daemon.functions["/pair/open"] = opened
    code, out, _ = run("pair", "--grant", "light", "--only", "temp", "--rate", "10/m")
    assert code == 0
    assert asked[0] == ("light", {"functions": ["temp"], "rate": (10, 60)})
    assert "Who types it gets the grant" in out


def test_json_has_two_documents(asked: list[tuple[object, ...]], run: Run) -> None:
    code, out, err = run("pair", "--json")
    assert (code, err) == (0, "")
    assert [json.loads(line) for line in out.splitlines()] == [SHOWN, PAIRED]


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        ("burnt", "somebody tried a wrong code, and it is burnt: bob (abcdefghijklmnop)"),
        ("expired", "nobody came in five minutes"),
        ("cancelled", "taken back"),
        ("unconfirmed", "did not say that it kept"),
        ("strange", "strange"),
    ],
)
def test_what_became_of_it(
    daemon: FakeDaemon, asked: list[tuple[object, ...]], run: Run, outcome: str, words: str
) -> None:
    key = KEY if outcome == "burnt" else ""
    daemon.functions["/pair/wait"] = lambda: {
        "outcome": outcome,
        "by": "link",
        "name": "bob",
        "key": key,
    }
    code, _, err = run("pair")
    assert code == 1
    assert words in err


def test_what_a_relay_has_to_do_with_it(
    daemon: FakeDaemon, asked: list[tuple[object, ...]], run: Run
) -> None:
    shown = SHOWN | {"relay": "https://relay.example"}
    daemon.functions["/pair/open"] = lambda *_: shown
    daemon.functions["/pair/wait"] = lambda: PAIRED | {"by": "relay"}
    code, out, err = run("pair")
    assert (code, err) == (0, "")
    assert "From another network, too: https://relay.example knows of it." in out
    assert "paired with bob (abcdefghijklmnop) through the relay\n" in out
    daemon.functions["/pair/open"] = lambda *_: SHOWN | {"relay_problem": "it is asleep"}
    assert "the relay does not show this code: it is asleep" in run("pair")[2]
    daemon.functions["/pair/wait"] = lambda: PAIRED | {"outcome": "burnt", "by": "relay"}
    code, _, err = run("pair")
    assert code == 1
    assert "burnt: bob (abcdefghijklmnop) through the relay" in err
    assert f"`drupelet-relay deny {KEY}`" in err


def test_a_member_that_cannot_be_reached_hears_of_grants(
    daemon: FakeDaemon, asked: list[tuple[object, ...]], run: Run
) -> None:
    joined = JOINED | {"by": "relay", "host": "", "port": 0, "linked": False}
    daemon.functions["/pair/join"] = lambda *_: joined
    code, out, err = run("pair", "abcdefgh")
    assert (code, out) == (0, "paired with alice (abcdefghijklmnop) through the relay\n")
    assert "no address of alice answers (192.168.1.7:4370)" in err
    assert "`drupelet pair --grant MISSION`" in err


def test_the_other_side(asked: list[tuple[object, ...]], run: Run) -> None:
    code, out, err = run("pair", "abcd-efgh")
    assert (code, asked) == (0, [("join", "abcd-efgh", "")])
    assert out == (
        "paired with alice (abcdefghijklmnop) by a direct link\n"
        "both are members of one cluster now: drupelet nodes\n"
    )
    assert err == "looking for the node that shows this code...\n"
    code, out, _ = run("pair", "abcdefgh", "--host", "h:1", "--json")
    assert (code, json.loads(out), asked[1]) == (0, JOINED, ("join", "abcdefgh", "h:1"))


def test_the_other_side_gets_a_grant_or_no_link_yet(
    daemon: FakeDaemon, asked: list[tuple[object, ...]], run: Run
) -> None:
    given = {"gives": "grant", "linked": False, "sentence": "bob may call temp."}
    daemon.functions["/pair/join"] = lambda *_: JOINED | given
    assert run("pair", "abcdefgh")[1].endswith("\nbob may call temp.\n")
    daemon.functions["/pair/join"] = lambda *_: JOINED | {"linked": False}
    assert "`drupelet why alice`" in run("pair", "abcdefgh")[2]


@pytest.mark.parametrize("kind", sorted(pair._MENDS))
def test_errors_teach(daemon: FakeDaemon, run: Run, kind: str) -> None:
    daemon.functions["/pair/join"] = fail_with(RemoteError(kind, "what happened"))  # type: ignore[assignment]
    code, _, err = run("pair", "abcdefgh")
    assert code == 1
    assert f"drupelet: {kind}: what happened\nmend: {pair._MENDS[kind]}" in err
    code, out, _ = run("pair", "abcdefgh", "--json")
    error = json.loads(out)["error"]
    assert (code, error["kind"], error["mend"]) == (1, kind, pair._MENDS[kind])


def test_other_failures_are_those_of_every_verb(daemon: FakeDaemon, run: Run) -> None:
    daemon.functions["/pair/join"] = fail_with(NoConnection("port_closed"))  # type: ignore[assignment]
    assert run("pair", "abcdefgh")[0] == 5
    daemon.functions["/pair/join"] = fail_with(NotPermitted())  # type: ignore[assignment]
    assert "took the code back" in run("pair", "abcdefgh")[2]
    daemon.functions["/pair/open"] = fail_with(RemoteError("badarg", "no mission"))  # type: ignore[assignment]
    code, _, err = run("pair", "--grant", "light")
    assert (code, err) == (1, "drupelet: bad_grant: no mission\n")  # no word of a signature


def test_a_node_that_no_other_computer_reaches(
    daemon: FakeDaemon, asked: list[tuple[object, ...]], run: Run
) -> None:
    daemon.functions["/pair/open"] = lambda *_: SHOWN | {"addresses": [["127.0.0.1", 4370]]}
    code, out, err = run("pair")
    assert (code, "--host 127.0.0.1:4370" in out) == (0, True)
    assert "listens on this computer only" in err and "--listen 0.0.0.0" in err


@pytest.mark.parametrize(
    "words",
    [
        ("pair", "--host", "h:1"),
        ("pair", "--only", "temp"),
        ("pair", "abcdefgh", "--grant", "light"),
        ("pair", "--grant", "light", "--rate", "often"),
    ],
)
def test_words_that_do_not_go_together(
    asked: list[tuple[object, ...]], run: Run, words: tuple[str, ...]
) -> None:
    assert run(*words)[0] == 2
    assert not asked


@pytest.mark.parametrize("function", ["open", "wait", "join"])
def test_malformed_answers(
    daemon: FakeDaemon, asked: list[tuple[object, ...]], run: Run, function: str
) -> None:
    daemon.functions[f"/pair/{function}"] = lambda *_: {"nothing": 1}
    words = ("pair", "abcdefgh") if function == "join" else ("pair",)
    code, _, err = run(*words)
    assert (code, f"malformed answer of pair/{function}" in err) == (1, True)


def test_the_qr_code_where_a_person_sees_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pair._draw("drupelet-pair:o2Rb")
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(sys.stdout, "fileno", lambda: 1)
    for columns, drawn in ((80, True), (10, False)):
        size = os.terminal_size((columns, 24))
        monkeypatch.setattr(os, "get_terminal_size", lambda _, size=size: size)
        pair._draw("drupelet-pair:o2Rb")
        assert ("\x1b[97;40m" in capsys.readouterr().out) is drawn
