from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from drupelet.cli.daemon import main


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "drupelet.toml"
    file.write_text('[node]\nname = "gandalf"\nstate_dir = "state"\n')
    return file


def test_check_config_prints_the_effective_values(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cookie = str(config.parent / "other")
    assert main(["--config", str(config), "--check-config", "--cookie-file", cookie]) == 0
    out = capsys.readouterr().out
    assert 'name = "gandalf"' in out
    assert f'cookie_file = "{cookie}"' in out


def test_a_bad_configuration_is_78_with_file_line_and_key(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text('[node]\nnaem = "x"\n')
    assert main(["--config", str(config), "--check-config"]) == 78
    err = capsys.readouterr().err
    assert f"{config}:2: " in err
    assert "naem" in err
    assert main(["--config", str(config.parent / "none"), "--check-config"]) == 78


def test_check_config_reads_the_missions_too(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = config.parent / "missions.d" / "kvs.toml"
    file.parent.mkdir()
    file.write_text('modul = "kvs"\n')
    assert main(["--config", str(config), "--check-config"]) == 78
    captured = capsys.readouterr()
    assert f"{file}:1: modul" in captured.err
    assert captured.out == ""


@pytest.mark.parametrize("argv", [["--nonsense"], ["--parent", "x"], ["--conf", "x"], ["word"]])
def test_usage_is_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(argv)
    assert raised.value.code == 2


def test_a_parent_that_is_gone_ends_it_at_once(config: Path) -> None:
    command = [sys.executable, "-m", "drupelet.cli.daemon", "--config", str(config)]
    not_the_parent = str(os.getppid())
    done = subprocess.run([*command, "--parent", not_the_parent], capture_output=True, timeout=10)
    assert done.returncode == 1
