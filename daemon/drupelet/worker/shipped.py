"""Shipped code: the modules of a bundle, imported from memory.

Decides how a bundle's modules become module objects, and that a version that does not load leaves
no trace. The bundle's file was checked and its signature verified by the daemon.

Rules
- Nothing of a bundle is written anywhere under its own name; the modules exist in memory only.
- The bundle's modules are found before files beside the operator's (an older helper may lie there),
  never in place of the standard library.
- `sys.modules` has the newest version under each name. Modules of the version before live on as
  long as something uses them: an ``import helper`` that old code runs later finds the new one.
- Tracebacks show source lines: `linecache` asks the loader for them.

References: importlib's `abc.Loader`, `linecache.lazycache`; Erlang's code server, which keeps
"current" and "old".
Rejected: unpacking to files and `sys.path` (names from the network as file names; a torn file; a
stale ``__pycache__``); `importlib.reload` (runs the new code in the old module's globals, so old
functions would see new ones at once, and a failure half way leaves a mixture).
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Mapping, Sequence
from typing import Final

from drupelet.errors import RemoteProtocolError
from drupelet.wire.bundles import Bundle, content_of_kept, decode_bundle
from drupelet.wire.limits import BUNDLE_BYTES_MAX

_FILE_BYTES_MAX: Final = BUNDLE_BYTES_MAX + 1_024  # with key, signature, digests


def read_bundle(path: str) -> Bundle:
    """The bundle in a file that the daemon keeps.

    Raises: `OSError`, `RemoteProtocolError`.
    """
    with open(path, "rb") as stream:
        data = stream.read(_FILE_BYTES_MAX + 1)
    if len(data) > _FILE_BYTES_MAX:
        raise RemoteProtocolError("the file of a kept bundle is too long")
    return decode_bundle(content_of_kept(data), sys.stdlib_module_names)


def shown_path(label: str, name: str) -> str:
    """What stands in tracebacks and problems for a file: ``shipped/1f3a2b4c/kvs.py``."""
    return f"shipped/{label}/{name}.py"


class _Finder:
    """Finds one version's modules. On `sys.meta_path` while it is the newest."""

    def __init__(self, label: str, modules: Mapping[str, bytes]) -> None:
        self._label = label
        self._modules = modules

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: types.ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        """importlib's question."""
        source = self._modules.get(fullname)
        if source is None or path is not None:
            return None
        shown = shown_path(self._label, fullname)
        return importlib.util.spec_from_loader(fullname, _Loader(shown, source), origin=shown)


class _Loader(importlib.abc.Loader):
    """Runs one module's source."""

    def __init__(self, shown: str, source: bytes) -> None:
        self._shown = shown
        self._source = source

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        """An ordinary module."""

    def exec_module(self, module: types.ModuleType) -> None:
        """Compile and run."""
        module.__file__ = self._shown
        code = compile(self._source, self._shown, "exec", dont_inherit=True)
        exec(code, module.__dict__)

    def get_source(self, fullname: str) -> str:
        """For tracebacks and `inspect`."""
        return importlib.util.decode_source(self._source)


class Imported:
    """One version's modules while they are loaded, and how to undo that.

    ``Imported(...)`` takes the names over; `load` imports; then either keep it or `undo`.
    """

    def __init__(self, label: str, bundle: Bundle, former: Sequence[types.ModuleType]) -> None:
        self._bundle = bundle
        self._finder = _Finder(label, bundle.modules)
        names = {*bundle.modules, *(module.__name__ for module in former)}
        self._names = names
        self._saved = {name: sys.modules.pop(name) for name in names if name in sys.modules}
        self._saved_finders = [each for each in sys.meta_path if isinstance(each, _Finder)]
        sys.meta_path[:] = [each for each in sys.meta_path if not isinstance(each, _Finder)]
        sys.meta_path.insert(0, self._finder)

    def load(self, name: str) -> types.ModuleType:
        """Import one module of the bundle. Raises: whatever its code raises."""
        return importlib.import_module(name)

    def modules(self) -> tuple[types.ModuleType, ...]:
        """Every module of the bundle that was imported, the helpers too."""
        found = (sys.modules.get(name) for name in self._bundle.modules)
        return tuple(module for module in found if module is not None)

    def undo(self) -> None:
        """As it was before."""
        sys.meta_path[:] = [each for each in sys.meta_path if each is not self._finder]
        sys.meta_path[:0] = self._saved_finders
        for name in self._names:
            sys.modules.pop(name, None)
        sys.modules.update(self._saved)
