"""The units of systemd/: understood by systemd, hardened, and true to the program."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from drupelet.errors import EXIT_BAD_CONFIGURATION

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "systemd"
UNITS = sorted(path.name for path in FOLDER.glob("*.service"))
EXPOSURE_MAX = {  # of 10
    "drupelet.service": 1.4,
    "drupelet-discovery.service": 1.4,
    "drupelet-relay.service": 1.6,  # port 443 needs a capability, and that the machine's own users
}

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units with programs that exist on this machine and a user it has."""
    for name in UNITS:
        text = (FOLDER / name).read_text()
        text = re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", text, flags=re.MULTILINE)
        (tmp_path / name).write_text(re.sub(r"=drupelet(-relay)?\n", "=daemon\n", text))
    return tmp_path


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *arguments], capture_output=True, text=True, timeout=30
    )


@needs_systemd
@pytest.mark.parametrize("name", UNITS)
def test_systemd_understands_every_line(name: str, units: Path) -> None:
    done = run("verify", "--man=no", str(units / name))
    # `verify` exits 0 on unknown keys and complains about the machine's other units: read its words
    ours = [line for line in done.stderr.split("\n") if "drupelet" in line]
    assert ours == []
    assert done.returncode == 0


@needs_systemd
@pytest.mark.parametrize("name", UNITS)
def test_a_wrong_line_would_be_seen(name: str, units: Path) -> None:
    unit = units / name
    unit.write_text(unit.read_text().replace("[Service]", "[Service]\nProtectEverything=yes"))
    assert "drupelet" in run("verify", "--man=no", str(unit)).stderr


@needs_systemd
@pytest.mark.parametrize("name", UNITS)
def test_the_exposure_is_small(name: str, units: Path) -> None:
    done = run("security", "--offline=true", "--no-pager", str(units / name))
    score = re.search(r"exposure level for .*: ([0-9.]+)", done.stdout)
    assert score is not None, done.stderr
    assert float(score[1]) <= EXPOSURE_MAX[name], done.stdout


@pytest.mark.parametrize("name", ["drupelet.service", "drupelet-relay.service"])
def test_a_bad_configuration_is_not_tried_again(name: str) -> None:
    text = (FOLDER / name).read_text()
    assert f"\nRestartPreventExitStatus={EXIT_BAD_CONFIGURATION}\n" in text
    assert "\nType=notify\n" in text
    assert "\nWatchdogSec=" in text
    assert "\nNoNewPrivileges=yes\n" in text


def test_the_units_start_the_programs_of_the_package() -> None:
    scripts = (ROOT / "pyproject.toml").read_text()
    for name in UNITS:
        started = re.search(r"^ExecStart=/usr/bin/(\S+)", (FOLDER / name).read_text(), re.MULTILINE)
        assert started is not None
        assert f"\n{started[1]} = " in scripts


def test_comments_stand_on_lines_of_their_own() -> None:
    """systemd takes a comment after a value for a part of the value."""
    for path in FOLDER.iterdir():
        if path.suffix == ".service":
            for line in path.read_text().split("\n"):
                assert line.startswith("#") or "#" not in line


@pytest.mark.skipif(
    shutil.which("systemd-sysusers") is None or os.geteuid() != 0,
    reason="needs systemd-sysusers, systemd-tmpfiles and root (in a folder of its own)",
)
def test_user_and_folders_are_made(tmp_path: Path) -> None:
    (tmp_path / "etc" / "drupelet").mkdir(parents=True)
    cookie = tmp_path / "etc" / "drupelet" / "cookie"
    cookie.write_text("x")
    cookie.chmod(0o644)
    for program, options, name in [
        ("systemd-sysusers", [], "drupelet.sysusers"),
        ("systemd-sysusers", [], "drupelet-relay.sysusers"),
        ("systemd-tmpfiles", ["--create"], "drupelet.tmpfiles"),
        ("systemd-tmpfiles", ["--create"], "drupelet-relay.tmpfiles"),
    ]:
        command = [program, *options, f"--root={tmp_path}", str(FOLDER / name)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr
    users = {
        line.split(":")[0]: line.split(":")
        for line in (tmp_path / "etc" / "passwd").read_text().splitlines()
    }
    user = users["drupelet"]
    assert user[5:] == ["/var/lib/drupelet", "/usr/sbin/nologin"]
    assert users["drupelet-relay"][5:] == ["/var/lib/drupelet-relay", "/usr/sbin/nologin"]
    relay = (tmp_path / "etc" / "drupelet-relay").stat()
    group = int(users["drupelet-relay"][3])
    assert (relay.st_mode & 0o777, relay.st_uid, relay.st_gid) == (0o750, 0, group)
    for folder in ("", "conf.d", "missions.d"):
        made = (tmp_path / "etc" / "drupelet" / folder).stat()
        assert (made.st_mode & 0o777, made.st_uid, made.st_gid) == (0o750, 0, int(user[3]))
    assert (cookie.stat().st_mode & 0o777, cookie.stat().st_uid) == (0o600, int(user[2]))
