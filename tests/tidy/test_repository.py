"""The repository keeps the house rules (rules.py), with the exceptions of tables.py."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

import pytest

from tests.tidy import rules, tables

ROOT = Path(__file__).resolve().parents[2]
TEXT_BYTES_MAX = 4 * 1024 * 1024


@cache
def files() -> tuple[str, ...]:
    """Every file that git would keep; without git, every file that nothing made."""
    if (ROOT / ".git").exists():
        listed = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        ).stdout.split("\0")
        return tuple(sorted(path for path in listed if path and (ROOT / path).is_file()))
    made = {".venv", "__pycache__", "build", "dist", ".mypy_cache", ".ruff_cache", ".pytest_cache"}
    found = (path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file())
    return tuple(sorted(str(path) for path in found if not made & set(path.parts)))


def text_of(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def package() -> list[str]:
    return [path for path in files() if path.startswith(rules.PACKAGE) and path.endswith(".py")]


def python() -> list[str]:
    return [path for path in files() if path.endswith(".py")]


def check(breaches: list[str]) -> None:
    assert not breaches, "\n" + "\n".join(breaches)


def test_there_is_something_to_check() -> None:
    assert len(package()) > 30
    assert "Makefile" in files()


def test_layers() -> None:
    check([breach for path in package() for breach in rules.layers(path, text_of(path))])


def test_every_room_stands_in_the_architecture() -> None:
    text = text_of("daemon/docs/ARCHITECTURE.md")
    rooms = {rules.room_of(path) for path in package()} - {"__init__", "config_values", "toml_text"}
    assert not {room for room in rooms if room not in text}


def test_sizes() -> None:
    exceptions = tables.SIZE_EXCEPTIONS
    check([each for path in python() for each in rules.sizes(path, text_of(path), exceptions)])


def test_twins() -> None:
    check(rules.twins(package(), set(files()), tables.TWIN_EXCEPTIONS))
    dunders = [path for path in package() if path.rsplit("/", 1)[-1].startswith("__")]
    check([each for path in dunders for each in rules.hollow(path, text_of(path))])


def test_maxima() -> None:
    wire = [path for path in package() if rules.room_of(path) == "wire" and "limits.py" not in path]
    exceptions = tables.MAXIMA_EXCEPTIONS
    check([each for path in wire for each in rules.maxima(path, text_of(path), exceptions)])


@pytest.mark.parametrize("rule", [rules.banned, rules.swallowed, rules.loud])
def test_calls(rule: object) -> None:
    assert callable(rule)
    check([each for path in python() for each in rule(path, text_of(path))])


def test_exceptions_are_still_needed() -> None:
    """A line in a table whose file is gone, or has been mended, goes too."""
    names = {path.removeprefix(rules.PACKAGE) for path in package()}
    assert set(tables.TWIN_EXCEPTIONS) <= names
    assert {key.split(":")[0] for key in tables.MAXIMA_EXCEPTIONS} <= names
    for key in tables.SIZE_EXCEPTIONS:
        assert any(path.startswith(key.split(":")[0]) for path in files()), key
    assert all(len(why) > 20 for why in tables.SIZE_EXCEPTIONS.values())
    without = [each for path in python() for each in rules.sizes(path, text_of(path), {})]
    assert len(without) >= len(tables.SIZE_EXCEPTIONS)


def test_no_path_of_one_machine() -> None:
    breaches = []
    for path in files():
        if (ROOT / path).stat().st_size <= TEXT_BYTES_MAX:
            text = (ROOT / path).read_bytes().decode("utf-8", errors="replace")
            breaches += rules.machine_paths(path, text)
    check(breaches)


def test_layout() -> None:
    check(rules.layout(files()))


def test_documented_commands_are_run() -> None:
    documents = [path for path in files() if path.endswith(".md")]
    check([each for path in documents for each in rules.unrun_commands(path, text_of(path))])


def test_locks_name_no_index_and_pin_every_digest() -> None:
    locks = [path for path in files() if path.endswith(".lock")]
    assert len(locks) == 6
    for path in locks:
        text = text_of(path)
        assert "://" not in text
        assert "--index-url" not in text
        assert "--find-links" not in text
        pins = [line for line in text.split("\n") if "==" in line and not line.startswith("#")]
        assert pins
        assert all(line.endswith(" \\") for line in pins)  # a digest follows
        assert text.count("--hash=sha256:") >= 2 * len(pins)  # of the wheels and of the source


def test_ci_is_a_program() -> None:
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
