from __future__ import annotations

from pathlib import Path

import pytest

from drupelet.errors import ConfigError
from drupelet.services.mission_files import FILES_MAX, KEYS, parse_mission, read_missions

GOOD = 'module = "kvs"\nexports = ["store"]\n'


def test_defaults_and_all_keys(tmp_path: Path) -> None:
    spec = parse_mission(GOOD, tmp_path / "kvs.toml")
    assert (spec.name, spec.modules, spec.exports) == ("kvs", ("kvs",), ("store",))
    assert (spec.memory_mb, spec.stuck_s, spec.cluster) == (256, 10.0, True)
    text = (
        'module = ["a.py", "/b.py"]\nexports = ["f"]\nname = "n"\nmemory_mb = 16\nstuck_s = 0.1\n'
        "cluster = false\n"
    )
    spec = parse_mission(text, tmp_path / "kvs.toml")
    assert spec.modules == (str(tmp_path / "a.py"), "/b.py")
    assert (spec.name, spec.memory_mb, spec.stuck_s, spec.cluster) == ("n", 16, 0.1, False)
    assert len(KEYS) == 6


@pytest.mark.parametrize(
    ("text", "line", "key", "word"),
    [
        (GOOD + 'cluster = "no"\n', 3, "cluster", "must be true or false"),
        (GOOD + 'exprots = ["x"]\n', 3, "exprots", 'did you mean "exports"?'),
        ('exports = ["x"]\n', 1, "module", "is missing"),
        ('module = "kvs"\n', 1, "exports", "is missing"),
        ('module = "kvs"\nexports = []\n', 2, "exports", "0 entries"),
        ('module = "kvs"\nexports = "store"\n', 2, "exports", "list of texts"),
        ('module = "kvs"\nexports = ["a", "a"]\n', 2, "exports", "listed twice"),
        (f'module = "kvs"\nexports = ["{"a" * 128}"]\n', 2, "exports", "too long"),
        ('module = "../kvs"\nexports = ["a"]\n', 1, "module", "neither a name"),
        ('module = 7\nexports = ["a"]\n', 1, "module", "list of texts"),
        (GOOD + "memory_mb = 15\n", 3, "memory_mb", "use 16 to"),
        (GOOD + "memory_mb = 20.5\n", 3, "memory_mb", "a number"),
        (GOOD + "memory_mb = true\n", 3, "memory_mb", "a number"),
        (GOOD + 'stuck_s = "10"\n', 3, "stuck_s", "without quotes"),
        (GOOD + "stuck_s = nan\n", 3, "stuck_s", "out of range"),
        (GOOD + "stuck_s = 3601\n", 3, "stuck_s", "out of range"),
        (GOOD + 'name = "a b"\n', 3, "name", "no mission name"),
        (GOOD + 'name = ["a"]\n', 3, "name", "no mission name"),
        (GOOD + 'name = "code"\n', 3, "name", "the daemon's own"),
    ],
)
def test_what_is_wrong_and_where(tmp_path: Path, text: str, line: int, key: str, word: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_mission(text, tmp_path / "kvs.toml")
    assert (caught.value.line, caught.value.key) == (line, key)
    assert word in str(caught.value)
    assert "kvs.toml" in str(caught.value)


def test_problems_of_all_files_at_once_and_names_taken_twice(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(GOOD + 'name = "same"\n')
    (tmp_path / "b.toml").write_text(GOOD + 'name = "same"\n')
    (tmp_path / "c.toml").write_text("module = \n")
    (tmp_path / ".hidden.toml").write_text("no")
    with pytest.raises(ConfigError) as caught:
        read_missions(tmp_path)
    text = str(caught.value)
    assert "b.toml:1" in text and "is defined in" in text and "c.toml:1" in text


def test_directories(tmp_path: Path) -> None:
    assert read_missions(tmp_path / "none") == []
    for n in range(FILES_MAX):
        (tmp_path / f"m{n}.toml").write_text(GOOD)
    assert len(read_missions(tmp_path)) == FILES_MAX
    (tmp_path / "more.toml").write_text(GOOD)
    with pytest.raises(ConfigError, match="at most 128"):
        read_missions(tmp_path)


def test_the_files_that_come_with_drupelet() -> None:
    directory = Path(__file__).parents[3] / "config" / "missions.d"
    assert {spec.name for spec in read_missions(directory)} >= {"kvs", "echo"}
