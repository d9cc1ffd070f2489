from __future__ import annotations

from pathlib import Path

import pytest

from drupelet.cli.run import default_name
from drupelet.wire.limits import NAME_CHARS_MAX
from tests.unit.cli.conftest import Run


@pytest.mark.parametrize(
    ("file", "host", "name"),
    [
        ("kitchen.py", "pi", "kitchen"),
        ("my kitchen (2).py", "pi", "my-kitchen-2"),
        ("a.b.py", "pi", "a-b"),
        ("küche.py", "pi", "k-che"),
        ("???.py", "pi3.local", "pi3"),
        ("???.py", "", "node"),
        ("x" * NAME_CHARS_MAX + ".py", "pi", "x" * NAME_CHARS_MAX),
        ("x" * (NAME_CHARS_MAX + 1) + ".py", "pi", "x" * NAME_CHARS_MAX),
    ],
)
def test_default_name(file: str, host: str, name: str) -> None:
    assert default_name(Path(file), host) == name


def test_mistakes_are_told(run: Run, tmp_path: Path) -> None:
    code, _, err = run("run", str(tmp_path / "none.py"))
    assert (code, "is no file" in err) == (1, True)
    file = tmp_path / "kitchen.py"
    file.touch()
    assert run("run", str(file), "--name", "a b")[0] == 2
