from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from drupelet import config
from drupelet.cli import places
from drupelet.cli.output import Failed


@pytest.fixture(autouse=True)
def own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


def test_a_demo_node_is_on_loopback_with_its_own_socket(tmp_path: Path) -> None:
    file = places.write_demo_node("gandalf", 4368)
    found = config.load(file)
    assert found == places.development_config("gandalf", file.parent, 4368)
    assert found.node.socket == tmp_path / "drupelet" / "gandalf.sock"
    assert found.link.listen == ("127.0.0.1",)
    assert found.link.cookie_file == tmp_path / "state" / "drupelet" / "cookie"
    assert (found.portmapper.port, found.mdns.enabled) == (4368, False)
    assert (found.missions.launcher, found.node.environment) == ("subprocess", "dev")
    files = sorted(one.stem for one in found.missions.dir.iterdir())
    assert files == ["echo", "kvs", "resa", "ring"]


def test_a_node_alone_shares_no_cookie_and_no_port_mapper(tmp_path: Path) -> None:
    directory = tmp_path / "alice"
    directory.mkdir()
    found = places.development_config("alice", directory, 4368, listen="0.0.0.0", alone=True)
    assert (found.link.listen, found.portmapper.enabled) == (("0.0.0.0",), False)
    assert found.link.cookie_file == directory / "cookie"
    places.make_cookie(found.link.cookie_file)
    places.make_cookie()
    assert found.link.cookie_file.read_text() != (places.state_directory() / "cookie").read_text()


def test_the_cookie_is_made_once_and_is_private(tmp_path: Path) -> None:
    places.make_cookie()
    file = tmp_path / "state" / "drupelet" / "cookie"
    text = file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    places.make_cookie()
    assert file.read_text() == text


def test_state_that_cannot_be_made_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    with pytest.raises(Failed, match="cannot make"):
        places.state_directory()


def test_the_lock_names_its_holder_and_its_port_mapper() -> None:
    assert places.demo_mapper_port() is None
    with places.demo_lock() as lock:
        assert places.demo_mapper_port() == places.MAPPER_PORT
        places.note_mapper(lock, 4367)
        assert places.demo_mapper_port() == 4367
        with pytest.raises(Failed, match=str(os.getpid())), places.demo_lock():
            pass
    assert places.demo_mapper_port() is None
    with places.demo_lock():
        pass
