"""The operator's files of a mission, as the daemon reads them: to ship them, or to see a change.

Decides where the module of a mission lies (as `worker/loading.py` has it: a path, or bundled beside
this package), the digest of all of a mission's files, and which names an installed module has.
The daemon reads source and runs none of it.
"""

from __future__ import annotations

import sys
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Final

from drupelet.core.code import NO_FILES, code_digest
from drupelet.core.missions import MissionSpec

SOURCE_BYTES_MAX: Final = 4 * 1024 * 1024  # of one file, as worker/loading.py has it
_BUNDLED: Final = Path(__file__).parents[1] / "bundled"


def module_name(module: str) -> str:
    """The name of a module that `missions.d` gives as a path or a bundled name."""
    return Path(module).name.removesuffix(".py")


def module_file(module: str) -> Path:
    """Its file."""
    return Path(module) if module.endswith(".py") else _BUNDLED / f"{module}.py"


def read_source(module: str) -> bytes:
    """Its source. Raises: `OSError`, also for a file that is too long."""
    with module_file(module).open("rb") as file:
        source = file.read(SOURCE_BYTES_MAX + 1)
    if len(source) > SOURCE_BYTES_MAX:
        raise OSError(f"{module_file(module)} is larger than {SOURCE_BYTES_MAX} bytes")
    return source


def has_files(spec: MissionSpec) -> bool:
    """Whether an operator gave this mission files; else it is only shipped code."""
    return spec.exports != ()


def files_digest(spec: MissionSpec) -> bytes | None:
    """The digest of the operator's files: NO_FILES if one is not there, None if nobody can tell."""
    if not has_files(spec):
        return NO_FILES
    try:
        return code_digest([read_source(module) for module in spec.modules])
    except FileNotFoundError:
        return NO_FILES
    except OSError:
        return None


class InstalledNames:
    """Names of modules that shipped code must not stand in for."""

    def __init__(self) -> None:
        self._places = [
            place for place in sys.path if place.endswith(("site-packages", "dist-packages"))
        ]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (
            name in sys.stdlib_module_names or PathFinder.find_spec(name, self._places) is not None
        )
