"""The owner's verbs. Serving is tested as a process: tests/integration/test_relay.py."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from drupelet.core.relay import Account, Standing
from drupelet.relay import main as program
from drupelet.relay.main import invite_code, invite_text, main
from drupelet.relay.serving import serving
from drupelet.relay.store import Store
from drupelet.wire.keys import key_to_text
from tests.unit.relay.nodes import ALICE, BOB, TRUDY


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    file = tmp_path / "relay.toml"
    file.write_text('[relay]\nnames = ["relay.test"]\nstate_dir = "state"\n')

    def running(*words: str) -> tuple[int, str, str]:
        code = main(["--config", str(file), *words])
        out, err = capsys.readouterr()
        return code, out, err

    return running


def put(tmp_path: Path, *accounts: Account) -> None:
    store = Store(tmp_path / "state")
    store.commit([lambda store, one=one: store.put_account(one) for one in accounts])
    store.close()


def waiting(key: bytes, email: str) -> Account:
    return Account(key=key, name="node", email=email, standing=Standing.PENDING)


def test_an_invite_is_a_code_that_works(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    code, out, _ = run("invite", "--uses", "2")
    assert code == 0
    store = Store(tmp_path / "state")
    use = [lambda store: store.use_invite(invite_code(out))]
    assert [store.commit(use)[0] for _ in range(3)] == [True, True, False]
    store.close()


def test_invite_codes_as_text() -> None:
    code = os.urandom(16)
    text = invite_text(code)
    assert len(text) == 26 and invite_code(text) == code
    assert invite_code(f" {text[:13].upper()} {text[13:]}\n") == code
    for wrong in (
        "",
        text[:-1],
        text + "a",
        "1" * 26,
        text[:-1] + ("b" if text[-1] != "b" else "c"),
    ):
        with pytest.raises(ValueError):
            invite_code(wrong)


def test_who_waits_is_approved_by_address_key_or_all(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    put(tmp_path, waiting(ALICE.key, "a@x"), waiting(BOB.key, "b@x"), waiting(TRUDY.key, "t@x"))
    assert run("accounts")[1].count("pending") == 3
    code, out, _ = run("approve", "a@x")
    assert (code, out) == (0, f"approved  {key_to_text(ALICE.key)}  node  a@x\n")
    assert run("deny", key_to_text(TRUDY.key))[1].startswith("denied ")
    assert run("approve", "all")[1].split()[1] == key_to_text(BOB.key)
    assert run("approve", "all") == (0, "", "")
    listed = run("accounts")[1]
    assert (listed.count("approved"), listed.count("denied")) == (2, 1)


def test_a_key_may_be_approved_before_it_comes(run: Callable[..., tuple[int, str, str]]) -> None:
    assert run("approve", key_to_text(BOB.key))[0] == 0
    assert "approved" in run("accounts")[1]


def test_mistakes_are_told(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, err = run("approve", "nobody@x")
    assert code == 1 and "nobody has registered with nobody@x" in err
    assert run("approve", "nokey")[0] == 2
    for words in (["invite", "--uses", "0"], ["invite", "--uses", "x"], ["dance"]):
        with pytest.raises(SystemExit) as left:
            run(*words)
        assert left.value.code == 2
    assert main(["--config", str(tmp_path / "nothing.toml"), "accounts"]) == 78
    monkeypatch.setattr("drupelet.relay.store.RELAY_INVITES_MAX", 0)
    assert run("invite")[0] == 1


def test_a_port_that_is_taken_is_told(
    run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def taken(*_: object) -> None:
        raise OSError("address in use")

    monkeypatch.setattr(program, "_run", taken)
    code, _, err = run()
    assert code == 1 and "address in use" in err


def test_what_serving_needs_and_a_node_does_not_is_named(
    run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def missing(*_: object) -> None:
        raise ModuleNotFoundError("No module named 'hypercorn'", name="hypercorn")

    monkeypatch.setattr(program, "_run", missing)
    code, _, err = run()
    assert code == 1 and "hypercorn is not installed" in err and "relay.lock" in err


def test_no_accounts_yet(run: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = run("accounts")
    assert (code, out) == (0, "") and "no accounts yet; `invite`" in err


def test_the_key_of_this_relay_for_another(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    code, out, _ = run("key")
    assert code == 0 and run("key")[1] == out
    assert (tmp_path / "state" / "node.key").stat().st_mode & 0o777 == 0o600
    own, other = out.strip(), key_to_text(ALICE.key)
    file = tmp_path / "relay.toml"
    before = file.read_text()
    file.write_text(f'{before}peers = [{{ url = "https://b", key = "{other}" }}]\n')
    listed = f"peer      {other}  https://b  {program.NOT_RUNNING}\n"
    assert run("accounts") == (0, listed, "")
    store = Store(tmp_path / "state")
    store.commit([lambda store: store.put_peers([(ALICE.key, "https://b", "in step")])])
    store.close()
    assert run("accounts") == (0, listed, "")  # of a former life
    with serving(tmp_path / "state"):
        assert run("accounts")[1] == f"peer      {other}  https://b  in step\n"
        code, _, err = run()
        assert code == 1 and "another drupelet-relay serves" in err
    file.write_text(f'{before}peers = [{{ url = "https://b", key = "{own}" }}]\n')
    code, _, err = run()
    assert code == 78 and "own key" in err
