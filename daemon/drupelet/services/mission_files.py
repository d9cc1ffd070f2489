"""``missions.d/*.toml``: what the operator lets missions expose.

Decides the keys of such a file and turns each into a `MissionSpec`. Every problem in every file is
reported at once, with file, line, key and mend (`toml_text.py` has the helpers).

    module = "kvs"                    # bundled, or a path ending in .py; or a list of such
    exports = ["store", "lookup"]     # the names that others may call; the code marks them too
    name = "kvs"                      # default: the file's name
    memory_mb = 256                   # more than the bare worker uses
    stuck_s = 10                      # a worker silent for so long is killed
    cluster = true                    # false: it may call and signal nothing beyond itself
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from drupelet.core.missions import MEMORY_MB, STUCK_S, MissionSpec
from drupelet.errors import ConfigError
from drupelet.toml_text import locate, parse_toml, raise_all, read_text, suggest
from drupelet.wire.bundles import RESERVED_MISSIONS
from drupelet.wire.limits import NAME_CHARS_MAX
from drupelet.wire.messages.workers import EXPORT_CHARS_MAX, EXPORTS_MAX, MODULES_MAX

FILES_MAX: Final = 128  # one process each; a Pi has no room for more
MEMORY_MB_MIN: Final = 16  # less and the first import fails
MEMORY_MB_MAX: Final = 65_536
STUCK_S_MIN: Final = 0.1
STUCK_S_MAX: Final = 3_600.0

KEYS: Final = ("module", "exports", "name", "memory_mb", "stuck_s", "cluster")


def read_missions(directory: Path) -> list[MissionSpec]:
    """The missions that the files in `directory` ask for; none when there is no such directory.

    Raises: `ConfigError` with everything that is wrong in them.
    """
    problems: list[ConfigError] = []
    specs: dict[str, MissionSpec] = {}
    try:
        files = sorted(path for path in directory.glob("*.toml") if not path.name.startswith("."))
    except OSError as error:
        what = f"cannot be read: {error.strerror}"
        raise ConfigError(what, mend="check its owner and mode", file=str(directory)) from None
    if len(files) > FILES_MAX:
        what = f"holds {len(files)} files; at most {FILES_MAX} missions fit one node"
        raise ConfigError(what, mend="remove some", file=str(directory))
    for path in files:
        try:
            spec = parse_mission(read_text(path), path)
        except ConfigError as error:
            problems.extend(getattr(error, "problems", (error,)))
            continue
        if spec.name in specs:
            what = f'mission "{spec.name}" is defined in {specs[spec.name].source} too'
            problems.append(ConfigError(what, mend="give one another name", file=str(path), line=1))
        specs[spec.name] = spec
    raise_all(problems)
    return list(specs.values())


def parse_mission(text: str, path: Path) -> MissionSpec:
    """One file. Raises: `ConfigError`."""
    table = parse_toml(text, str(path))
    reader = _Reader(text, path, table)
    for key in table:
        if key not in KEYS:
            reader.problem(key, "unknown key", suggest(key, KEYS))
    modules = reader.modules()
    exports = reader.texts("exports", EXPORTS_MAX, 'list the functions: exports = ["boil"]')
    for name in exports:
        if len(name) > EXPORT_CHARS_MAX:
            reader.problem("exports", f'"{name[:40]}..." is too long', "use a shorter name")
    if len(set(exports)) != len(exports):
        reader.problem("exports", "a name is listed twice", "list each name once")
    name = reader.name()
    memory_mb = int(reader.number("memory_mb", MEMORY_MB, MEMORY_MB_MIN, MEMORY_MB_MAX))
    stuck_s = reader.number("stuck_s", STUCK_S, STUCK_S_MIN, STUCK_S_MAX)
    cluster = reader.flag("cluster", True)
    raise_all(reader.problems)
    return MissionSpec(
        name=name,
        modules=modules,
        exports=exports,
        memory_mb=memory_mb,
        stuck_s=stuck_s,
        cluster=cluster,
        source=str(path),
    )


class _Reader:
    """Takes values out of one parsed file and gathers what is wrong."""

    def __init__(self, text: str, path: Path, table: dict[str, object]) -> None:
        self.problems: list[ConfigError] = []
        self._text = text
        self._path = path
        self._table = table

    def problem(self, key: str, what: str, mend: str) -> None:
        """One more."""
        line = locate(self._text, "", key)
        error = ConfigError(what, mend=mend, file=str(self._path), line=line, key=key)
        self.problems.append(error)

    def texts(self, key: str, count_max: int, mend: str) -> tuple[str, ...]:
        """A list of texts, not empty."""
        value = self._table.get(key)
        if key not in self._table:
            self.problem(key, "is missing", mend)
        elif not isinstance(value, list) or not all(isinstance(v, str) and v for v in value):
            self.problem(key, "must be a list of texts", mend)
        elif not 0 < len(value) <= count_max:
            self.problem(key, f"has {len(value)} entries, not 1 to {count_max}", mend)
        else:
            return tuple(value)
        return ()

    def modules(self) -> tuple[str, ...]:
        """Bundled names as they are, paths made absolute."""
        mend = 'name a bundled mission, module = "kvs", or a file, module = "kitchen.py"'
        if isinstance(self._table.get("module"), str):
            self._table["module"] = [self._table["module"]]
        modules = []
        for name in self.texts("module", MODULES_MAX, mend):
            if name.endswith(".py"):
                modules.append(str((self._path.parent / name).absolute()))
            elif _is_name(name):
                modules.append(name)
            else:
                self.problem("module", f"{name[:80]!r} is neither a name nor a .py file", mend)
        return tuple(modules)

    def name(self) -> str:
        """The mission's name."""
        value = self._table.get("name", self._path.stem)
        if isinstance(value, str) and value in RESERVED_MISSIONS:
            self.problem("name", f'"{value}" is the daemon\'s own', "choose another name")
            return ""
        if isinstance(value, str) and _is_name(value):
            return value
        what = f"{str(value)[:80]!r} is no mission name"
        mend = f"use 1 to {NAME_CHARS_MAX} letters, digits, - and _"
        self.problem("name", what, mend)
        return ""

    def number(self, key: str, default: float, low: float, high: float) -> float:
        """A number in a range."""
        value = self._table.get(key, default)
        whole_only = not key.endswith("_s")
        if isinstance(value, bool) or not isinstance(value, int if whole_only else int | float):
            self.problem(key, "must be a number, without quotes", f"write {key} = {default:g}")
        elif not low <= value <= high:  # NaN is out of every range
            self.problem(key, f"{value} is out of range", f"use {low:g} to {high:g}")
        else:
            return float(value)
        return default

    def flag(self, key: str, default: bool) -> bool:
        """true or false."""
        value = self._table.get(key, default)
        if isinstance(value, bool):
            return value
        self.problem(key, "must be true or false, without quotes", f"write {key} = false")
        return default


def _is_name(text: str) -> bool:
    plain = text.replace("-", "").replace("_", "")
    return plain.isascii() and plain.isalnum() and len(text) <= NAME_CHARS_MAX
