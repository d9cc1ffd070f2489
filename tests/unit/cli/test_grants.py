"""The verbs of grants, with a daemon that answers as `services/grants.py` does."""

from __future__ import annotations

import io
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from drupelet.cli import grants
from drupelet.errors import RateLimited, RemoteError, Revoked
from drupelet.wire import sodium
from drupelet.wire.grant_files import GrantFile, encode_grant_file
from drupelet.wire.grants import Terms, issue
from drupelet.wire.limits import GRANT_FILE_CHARS_MAX
from tests.unit.cli.conftest import Run, fail_with
from tests.unit.client.fake_daemon import FakeDaemon

IDENT = "0123456789abcdef" * 2
SENTENCE = "Whoever has this file may call temp of the mission light on alice."
TEXT = f"# {SENTENCE}\ndrupelet-grant:o2Rb\n"
MADE: dict[str, object] = {"id": IDENT, "text": TEXT, "sentence": SENTENCE}


@pytest.fixture
def asked(daemon: FakeDaemon) -> list[tuple[object, ...]]:
    """What the daemon was asked: (function, argument, ...)."""
    found: list[tuple[object, ...]] = []

    def answering(name: str, answer: object) -> Callable[..., object]:
        def function(*arguments: object) -> object:
            found.append((name, *arguments))
            return answer

        return function

    accepted = {"id": IDENT, "name": "alice", "sentence": SENTENCE}
    issued = {"id": IDENT, "mission": "light", "holder": "k", "sentence": SENTENCE}
    answers: dict[str, object] = {
        "issue": MADE,
        "narrow": MADE,
        "accept": accepted,
        "list": {"issued": [issued | {"left_s": 172_801.0}], "accepted": [accepted]},
        "forget": accepted,
        "revoke": {"calls": 2, "killed": ["light"], "members": {"bilbo": True, "sam": False}},
    }
    for name, answer in answers.items():
        daemon.functions[f"/grants/{name}"] = answering(name, answer)
    return found


# -- grant and narrow


def test_a_file_that_only_its_owner_reads(
    asked: list[tuple[object, ...]], run: Run, tmp_path: Path
) -> None:
    file = tmp_path / "bob.grant"
    code, out, err = run("grant", "light", "--only", "temp", "-o", str(file))
    assert (code, err) == (0, "")
    assert out.startswith(f"{SENTENCE}\nid {IDENT}\n")
    assert file.read_text() == TEXT
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert asked == [("issue", "light", "", {"functions": ["temp"]})]


@pytest.mark.parametrize(
    ("hosts", "told"),
    [
        (["127.0.0.1"], True),
        (["127.0.0.1", "::1"], True),
        (["127.0.0.1", "192.168.1.7"], False),
        ([], False),
    ],
)
def test_a_grant_of_a_node_that_no_other_computer_reaches(
    daemon: FakeDaemon,
    asked: list[tuple[object, ...]],
    run: Run,
    tmp_path: Path,
    hosts: list[str],
    told: bool,
) -> None:
    key = sodium.ed25519_public(b"b" * 32)
    made = issue(b"a" * 32, key, "light", Terms(), bytes(8), sequence=1)
    places = tuple((host, 4370) for host in hosts)
    text = encode_grant_file(GrantFile(grant=made, name="alice", addresses=places))
    for function in ("issue", "narrow"):
        daemon.functions[f"/grants/{function}"] = lambda *_: MADE | {"text": text}
    code, _, err = run("grant", "light", "-o", str(tmp_path / "bob.grant"))
    assert (code, "listens on this computer only" in err) == (0, told)
    file = tmp_path / "bob.grant"  # whoever narrows it is not at that node
    assert run("narrow", str(file), "-o", str(tmp_path / "dave.grant"))[2] == ""


def test_all_terms(asked: list[tuple[object, ...]], run: Run) -> None:
    words = (
        "grant light --to bilbo --only temp,on --rate 3/20s --burst 5 --concurrent 2 --bytes 1000 "
        "--expires 30d --delegable 0 --json"
    )
    code, out, _ = run(*words.split())
    assert (code, json.loads(out)) == (0, {"id": IDENT, "sentence": SENTENCE, "text": TEXT})
    assert asked == [
        (
            "issue",
            "light",
            "bilbo",
            {"functions": ["temp", "on"], "rate": (3, 20), "burst": 5, "concurrent": 2}
            | {"bytes": 1_000, "expires_s": 2_592_000, "delegable": 0},
        )
    ]


def test_json_with_a_file_has_no_secret(
    asked: list[tuple[object, ...]], run: Run, tmp_path: Path
) -> None:
    file = str(tmp_path / "bob.grant")
    code, out, _ = run("grant", "light", "-o", file, "--json")
    assert (code, json.loads(out)) == (0, {"id": IDENT, "sentence": SENTENCE, "file": file})


def test_text_goes_alone_to_standard_output(asked: list[tuple[object, ...]], run: Run) -> None:
    for words in (("--text",), ("-o", "-")):
        code, out, err = run("grant", "light", *words)
        assert (code, out, err) == (0, TEXT, f"id {IDENT}\n")


def test_a_qr_code_has_only_the_line_that_counts(
    asked: list[tuple[object, ...]], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    monkeypatch.setattr(grants.qr, "draw", lambda text: drawn.append(text) or ["█▀"])
    code, out, err = run("grant", "light", "--qr")
    assert (code, out, drawn) == (0, "█▀\n", ["drupelet-grant:o2Rb"])
    assert err == f"{SENTENCE}\nid {IDENT}\n"


def test_what_fits_no_qr_code_is_printed(
    daemon: FakeDaemon, asked: list[tuple[object, ...]], run: Run
) -> None:
    text = f"drupelet-grant:{'x' * 3_000}\n"
    daemon.functions["/grants/issue"] = lambda *_: MADE | {"text": text}
    code, out, err = run("grant", "light", "--qr")
    assert (code, out) == (0, text)
    assert "room for 2953 bytes, and the grant has more; here is its text" in err


def test_a_terminal_that_is_too_narrow_gets_the_text(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grants.sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(grants.sys.stdout, "fileno", lambda: 1)
    for columns, coloured in ((33, True), (32, False)):
        size = os.terminal_size((columns, 24))
        monkeypatch.setattr(grants.os, "get_terminal_size", lambda _, size=size: size)
        grants._draw("drupelet-grant:o2Rb" + "x" * 30 + "\n")
        out, err = capsys.readouterr()
        assert ("\x1b[97;40m" in out, "33 columns of 32" in err) == (coloured, not coloured)


def test_narrowing_sends_the_file(
    asked: list[tuple[object, ...]], run: Run, tmp_path: Path
) -> None:
    (tmp_path / "bob.grant").write_text(TEXT)
    file = tmp_path / "dave.grant"
    code, out, _ = run(
        "narrow", str(tmp_path / "bob.grant"), "--to", "k", "--rate", "1/m", "-o", str(file)
    )
    assert (code, out.splitlines()[1], file.read_text()) == (0, f"id {IDENT}", TEXT)
    assert asked == [("narrow", TEXT, "k", {"rate": (1, 60)})]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "say where the grant goes: -o FILE, --text or --qr"),
        ("--rate 10 --text", "--rate: '10' is no rate; it is calls/time: 10/s"),
        ("--expires 30 --text", "--expires: '30' is no span of time"),
        ("--only , --text", "--only: ',' names no function"),
        ("--burst -1 --text", "--burst: '-1' is no whole number"),
        ("--bytes 1k --text", "--bytes: '1k' is no whole number"),
        ("--concurrent 9999999999 --text", "--concurrent: '9999999999' is no whole number"),
        ("--json --qr", "with --json the text is in the document"),
    ],
)
def test_a_wrong_command_line_issues_nothing(
    asked: list[tuple[object, ...]], run: Run, words: str, message: str
) -> None:
    code, out, err = run("grant", "light", *words.split())
    assert (code, asked) == (2, [])
    assert message in (json.loads(out)["error"]["message"] if "--json" in words else err)


def test_no_file_is_replaced_and_nothing_issued(
    asked: list[tuple[object, ...]], run: Run, tmp_path: Path
) -> None:
    file = tmp_path / "bob.grant"
    file.write_text("mine")
    code, _, err = run("grant", "light", "-o", str(file))
    assert (code, "is there already" in err, file.read_text()) == (1, True, "mine")
    code, _, err = run("grant", "light", "-o", str(tmp_path / "none" / "bob.grant"))
    assert (code, "cannot make" in err) == (1, True)
    assert asked == []


def test_a_refusal_leaves_no_file(daemon: FakeDaemon, run: Run, tmp_path: Path) -> None:
    error = RemoteError("badarg", "light exports no 'wipe', but on, temp")
    daemon.functions["/grants/issue"] = fail_with(error)  # type: ignore[assignment]
    file = tmp_path / "bob.grant"
    code, _, err = run("grant", "light", "--only", "wipe", "-o", str(file))
    assert (code, file.exists()) == (1, False)
    assert err == "drupelet: bad_grant: light exports no 'wipe', but on, temp\n"


def test_a_disk_that_is_full_says_which_grant_nobody_has(
    asked: list[tuple[object, ...]], run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(grants.os, "fsync", full)
    code, _, err = run("grant", "light", "-o", str(tmp_path / "bob.grant"))
    assert (code, f"mend: drupelet revoke {IDENT}" in err) == (1, True)
    assert not (tmp_path / "bob.grant").exists()


# -- accept, grants, revoke


def test_accepting_a_file_and_standard_input(
    asked: list[tuple[object, ...]], run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "bob.grant"
    file.write_text(TEXT)
    code, out, err = run("accept", str(file))
    assert (code, out) == (0, f"{SENTENCE}\nid {IDENT}\n")
    assert "drupelet call alice MISSION FUNCTION" in err
    monkeypatch.setattr("sys.stdin", io.StringIO(TEXT))
    code, out, _ = run("--json", "accept", "-")
    assert json.loads(out) == {"id": IDENT, "name": "alice", "sentence": SENTENCE}
    assert asked == [("accept", TEXT)] * 2


def test_a_file_is_read_up_to_one_character_more_than_it_may_have(
    asked: list[tuple[object, ...]], run: Run, tmp_path: Path
) -> None:
    file = tmp_path / "large"
    for size in (GRANT_FILE_CHARS_MAX, GRANT_FILE_CHARS_MAX + 1, GRANT_FILE_CHARS_MAX + 2):
        file.write_text("x" * size)
        run("accept", str(file))
    lengths = [len(str(text)) for _, text in asked]
    assert lengths == [GRANT_FILE_CHARS_MAX, GRANT_FILE_CHARS_MAX + 1, GRANT_FILE_CHARS_MAX + 1]


def test_what_cannot_be_read(asked: list[tuple[object, ...]], run: Run, tmp_path: Path) -> None:
    code, _, err = run("accept", str(tmp_path / "none"))
    assert (code, "No such file" in err) == (1, True)
    code, _, err = run("narrow", str(tmp_path), "--text")
    assert (code, "Is a directory" in err) == (1, True)
    code, _, err = run("accept", "drupelet-grant:o2Rb")
    assert (code, "drupelet accept --help" in err, "accept -" in err) == (2, True, True)
    (tmp_path / "bytes").write_bytes(b"\xff\x00")
    assert run("accept", str(tmp_path / "bytes"))[0] == 0  # the daemon has the word
    assert asked == [("accept", "\ufffd\x00")]


def test_the_list(asked: list[tuple[object, ...]], run: Run) -> None:
    code, out, _ = run("grants")
    assert (code, out.splitlines()) == (
        0,
        [
            "issued by this node:",
            f"  {IDENT}  {SENTENCE} (2 days left)",
            "accepted from others:",
            f"  {IDENT}  {SENTENCE}",
        ],
    )
    assert json.loads(run("grants", "--json")[1])["issued"][0]["left_s"] == 172_801.0


def test_an_empty_list_says_how_to_make_one(daemon: FakeDaemon, run: Run) -> None:
    daemon.functions["/grants/list"] = lambda: {"issued": [], "accepted": []}
    code, out, err = run("grants")
    assert (code, out, "drupelet grant MISSION" in err) == (0, "", True)


def test_revoking_says_what_ended_and_who_does_not_know(
    asked: list[tuple[object, ...]], run: Run
) -> None:
    code, out, err = run("revoke", "light")
    assert (code, out) == (0, "revoked; 2 calls were under way\nended and started anew: light\n")
    assert err.startswith("not told yet: sam; ")
    assert json.loads(run("--json", "revoke", "light")[1])["calls"] == 2
    assert asked == [("revoke", "light")] * 2


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("issue", ("grant", "light", "--text")),
        ("accept", ("accept", "-")),
        ("list", ("grants",)),
        ("revoke", ("revoke", "x")),
    ],
)
@pytest.mark.parametrize("answer", [None, {}, {"issued": [1], "accepted": []}])
def test_a_malformed_answer_is_told(
    daemon: FakeDaemon,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    function: str,
    words: tuple[str, ...],
    answer: object,
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(TEXT))
    daemon.functions[f"/grants/{function}"] = lambda *_: answer
    code, _, err = run(*words)
    assert (code, f"malformed answer of grants/{function}" in err) == (1, True)


def test_refused_calls_have_their_exit_codes_and_words(daemon: FakeDaemon, run: Run) -> None:
    daemon.functions["alice/light/temp"] = fail_with(RateLimited(7.5))  # type: ignore[assignment]
    code, out, _ = run("--json", "call", "alice", "light", "temp")
    found = json.loads(out)["error"]
    assert (code, found["kind"], found["retry_after_s"]) == (4, "RateLimited", 7.5)
    err = run("call", "alice", "light", "temp")[2]
    assert err.startswith("drupelet: called too often; try again in 7.5 s\nmend: wait so long")
    daemon.functions["alice/light/temp"] = fail_with(Revoked())  # type: ignore[assignment]
    code, out, _ = run("--json", "call", "alice", "light", "temp")
    found = json.loads(out)["error"]
    assert (code, found["kind"], found["word"]) == (3, "Revoked", "revoked")


def test_forgetting(asked: list[tuple[object, ...]], run: Run) -> None:
    assert run("forget", IDENT)[:2] == (0, f"forgotten: {SENTENCE}\n")
    assert json.loads(run("--json", "forget", IDENT)[1])["id"] == IDENT
    assert asked == [("forget", IDENT)] * 2


def test_what_was_not_asked_or_not_seen_is_said(
    daemon: FakeDaemon, asked: list[tuple[object, ...]], run: Run, tmp_path: Path
) -> None:
    file = tmp_path / "alice.grant"
    file.write_text(TEXT)
    assert "kept, though alice could not be asked about it; now: " in run("accept", str(file))[2]
    relayed = {"id": IDENT, "name": "alice", "sentence": SENTENCE, "by_relay": True}
    daemon.functions["/grants/accept"] = lambda text: relayed
    assert "kept; alice is reached by the relay, and says" in run("accept", str(file))[2]
    accepted = {"id": IDENT, "name": "alice", "sentence": SENTENCE, "asked": True}
    daemon.functions["/grants/accept"] = lambda text: accepted
    assert run("accept", str(file))[2].startswith("kept; now: drupelet call alice")
    unseen = {"calls": 0, "killed": [], "members": {}, "seen": False}
    daemon.functions["/grants/revoke"] = lambda what: unseen
    code, out, _ = run("revoke", IDENT)
    assert (code, out) == (
        0,
        "revoked; it was not seen here yet, and will be refused when it comes\n",
    )
