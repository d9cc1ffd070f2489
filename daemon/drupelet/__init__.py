"""Drupelet: a cluster of Raspberry Pis that find each other and open one function at a time.

Names are loaded on first use: `import drupelet` alone costs nothing, so that the command line's
quick verbs start in a few milliseconds.
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from drupelet.mission import cast, mission

_HOMES = {"mission": "drupelet.mission", "cast": "drupelet.mission"}

__all__ = ["__version__", "cast", "mission"]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'drupelet' has no attribute {name!r}")
    return getattr(importlib.import_module(home), name)


class _Package(types.ModuleType):
    """`drupelet.mission` is a function and a module of that name; the function always wins.

    Python sets a submodule as attribute of its package when it is first imported, by whomever.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if name in _HOMES and isinstance(value, types.ModuleType):
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
