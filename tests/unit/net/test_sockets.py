from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from drupelet.errors import ConfigError
from drupelet.net import sockets
from drupelet.net.sockets import (
    PATH_BYTES_MAX,
    SOCKETS_TRIED_MAX,
    SYSTEM_SOCKET,
    candidate_sockets,
    connect_nowait,
    make_run_directory,
    run_directory,
    why_not,
)


def test_a_named_socket_is_the_only_one() -> None:
    assert candidate_sockets("/a", {"DRUPELET_SOCKET": "/b"}) == ["/a"]
    assert candidate_sockets(None, {"DRUPELET_SOCKET": "/b"}) == ["/b"]


def test_a_word_is_a_nodes_name_unless_it_is_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environ = {"XDG_RUNTIME_DIR": str(tmp_path / "run")}
    socket = str(tmp_path / "run" / "drupelet" / "alice.sock")
    assert candidate_sockets("alice", environ) == [socket]
    assert candidate_sockets(None, environ | {"DRUPELET_SOCKET": "alice"}) == [socket]
    make_run_directory(environ).chmod(0o770)
    with pytest.raises(ConfigError, match="0770"):
        candidate_sockets("alice", environ)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "alice").touch()
    assert candidate_sockets("alice", environ) == ["alice"]
    assert candidate_sockets("./bob", environ) == ["./bob"]


def test_the_order_of_the_search(tmp_path: Path) -> None:
    environ = {"XDG_RUNTIME_DIR": str(tmp_path)}
    assert candidate_sockets(None, environ) == [SYSTEM_SOCKET]
    directory = make_run_directory(environ)
    assert directory == tmp_path / "drupelet"
    for name in ("sam.sock", "bilbo.sock", "gandalf.sock", "other.txt"):
        (directory / name).touch()
    names = [Path(path).name for path in candidate_sockets(None, environ)]
    assert names == ["drupelet.sock", "gandalf.sock", "bilbo.sock", "sam.sock"]


def test_a_crowded_run_directory_is_bounded(tmp_path: Path) -> None:
    environ = {"XDG_RUNTIME_DIR": str(tmp_path)}
    directory = make_run_directory(environ)
    for number in range(SOCKETS_TRIED_MAX + 1):
        (directory / f"{number}.sock").touch()
    assert len(candidate_sockets(None, environ)) == 1 + SOCKETS_TRIED_MAX


def test_without_a_runtime_directory_it_is_one_of_the_user_in_tmp() -> None:
    expected = Path(f"/tmp/drupelet-{os.getuid()}")
    assert run_directory({}) == expected
    assert run_directory({"XDG_RUNTIME_DIR": "relative"}) == expected


def test_a_run_directory_that_is_open_to_others_is_refused(tmp_path: Path) -> None:
    environ = {"XDG_RUNTIME_DIR": str(tmp_path)}
    directory = make_run_directory(environ)
    directory.chmod(0o750)
    for function in (make_run_directory, lambda environ: candidate_sockets(None, environ)):
        with pytest.raises(ConfigError, match="0750"):
            function(environ)


def test_a_run_directory_that_is_a_link_or_a_file_is_refused(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    (tmp_path / "drupelet").symlink_to(elsewhere)
    with pytest.raises(ConfigError, match="not a directory"):
        make_run_directory({"XDG_RUNTIME_DIR": str(tmp_path)})


def test_a_run_directory_of_another_user_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environ = {"XDG_RUNTIME_DIR": str(tmp_path)}
    make_run_directory(environ)
    monkeypatch.setattr(sockets.os, "getuid", lambda: 12345)
    with pytest.raises(ConfigError, match="belongs to user"):
        make_run_directory(environ)


def test_who_is_not_in_the_group_is_told_how_to_join() -> None:
    shut = sockets.NoDaemon(((SYSTEM_SOCKET, why_not(PermissionError())),))
    assert "usermod -aG drupelet" in shut.mend
    assert "usermod" not in sockets.NoDaemon(((SYSTEM_SOCKET, "no such socket"),)).mend


def test_connecting_and_why_not(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with pytest.raises(OSError) as raised:
        connect_nowait(path)
    assert why_not(raised.value) == "no such socket"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        with pytest.raises(OSError) as raised:
            connect_nowait(path)
        assert why_not(raised.value) == "nobody listens"
        listening.listen()
        with connect_nowait(path) as connection:
            assert connection.gettimeout() == 0.0


@pytest.mark.parametrize(
    ("length", "words"), [(PATH_BYTES_MAX, "no such"), (PATH_BYTES_MAX + 1, "longer than")]
)
def test_the_longest_path(length: int, words: str) -> None:
    with pytest.raises(OSError) as raised:
        connect_nowait("/x".ljust(length, "y"))
    assert words in why_not(raised.value)
