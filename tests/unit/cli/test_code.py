from __future__ import annotations

import json
from pathlib import Path

import pytest

from drupelet.wire.limits import BUNDLE_MODULE_BYTES_MAX
from tests.unit.cli.conftest import Run
from tests.unit.client.fake_daemon import FakeDaemon


@pytest.fixture
def kettle(tmp_path: Path) -> Path:
    file = tmp_path / "kettle.py"
    file.write_bytes(b"x = 1\n")
    return file


def test_a_line_for_each_node(daemon: FakeDaemon, run: Run, kettle: Path) -> None:
    code, out, _ = run("nl", str(kettle), "pot")
    assert code == 1
    assert out == (
        "bilbo    has it already\n"
        "gandalf  loaded\n"
        "sam      error: invalid_export: kettle.py:3: no boil\n"
        "kettle/6/pot/- is 0123456789ab on 2 of 3 nodes\n"
    )
    code, out, _ = run("--json", "nl", str(kettle))
    found = json.loads(out)
    assert (code, found["mission"], found["sequence"]) == (1, "kettle/6", 7)
    assert found["nodes"]["sam"]["error"]["kind"] == "invalid_export"


def test_done_when_all_have_it(daemon: FakeDaemon, run: Run) -> None:
    code, out, _ = run("nl", "all", "--mission", "mine")
    assert (code, out) == (0, "gandalf  loaded\nmine is 0123456789ab on 1 of 1 nodes\n")


def test_what_is_no_module(daemon: FakeDaemon, run: Run, tmp_path: Path) -> None:
    assert run("nl")[0] == 2
    assert run("nl", "some/folder")[0] == 2
    for name, words in (
        ("none.py", "No such file"),
        ("__main__.py", "no module name"),
        ("a b.py", "no module name"),
        ("sitecustomize.py", "cannot be the name"),
    ):
        code, _, err = run("nl", str(tmp_path / name))
        assert (code, words in err) == (1, True)
    large = tmp_path / "large.py"
    large.write_bytes(bytes(BUNDLE_MODULE_BYTES_MAX))
    assert run("nl", str(large))[0] == 1  # shipped; one node of the fake says no
    large.write_bytes(bytes(BUNDLE_MODULE_BYTES_MAX + 1))
    code, _, err = run("nl", str(large))
    assert (code, "larger than 262144" in err, "mend: split it" in err) == (1, True, True)


def test_what_the_daemon_refuses(daemon: FakeDaemon, run: Run) -> None:
    code, _, err = run("nl", "broken")
    assert code == 1
    assert "shipped/1f/broken.py:3: file_wont_compile: bad" in err
    assert run("nl", "strange")[0] == 1
