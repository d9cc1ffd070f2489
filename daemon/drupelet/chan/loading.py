"""Which function a service of the conf is.

Decides where a module is looked for: beside the conf file first, then among the bundled missions,
then on Python's path. What a conf names is the operator's own code (the file is 0600) and runs in
the chan server's process, which has no keys. Everything is loaded before the first guest comes, so
that a mistake is a `ConfigError` at the start, with the line of the conf that names it.

A file is loaded once in a program, under ``chan_service_NAME``: two services of one module share
it, and none stands in for a module of the library.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from drupelet.chan.conf import Conf, Service
from drupelet.errors import ConfigError

ServiceFunction = Callable[[Any, Any, Any], Any]

_BUNDLED: Final = Path(__file__).parents[1] / "bundled"


def find_function(conf: Conf, service: Service) -> ServiceFunction:
    """The function of a service, ready to call. Raises: `ConfigError`."""

    def error(what: str, mend: str) -> ConfigError:
        return ConfigError(what, mend=mend, file=conf.file, line=service.line)

    directory = Path(conf.file).absolute().parent
    try:
        module = _module(service.module, (directory, _BUNDLED))
    except Exception as reason:  # the operator's code runs here
        raise error(
            f"the module {service.module} does not load: {type(reason).__name__}: {reason}",
            "mend it and start again",
        ) from reason
    if module is None:
        raise error(
            f"there is no module {service.module}",
            f"put {service.module}.py into {directory}, or name a bundled one",
        )
    function = getattr(module, service.function, None)
    if not callable(function):
        raise error(
            f"{service.module} has no function {service.function}",
            f"define it: async def {service.function}(mm, argument, extra)",
        )
    try:
        inspect.signature(function).bind(None, None, None)
    except TypeError:
        raise error(
            f"{service.module}.{service.function} does not take three arguments",
            f"define it: async def {service.function}(mm, argument, extra)",
        ) from None
    found: ServiceFunction = function
    return found


def _module(name: str, directories: tuple[Path, ...]) -> types.ModuleType | None:
    for directory in directories:
        file = directory / f"{name}.py"
        if file.is_file():
            return _from_file(f"chan_service_{name}", file)
    if importlib.util.find_spec(name) is None:
        return None
    return importlib.import_module(name)


def _from_file(name: str, file: Path) -> types.ModuleType:
    loaded = sys.modules.get(name)
    if loaded is not None and loaded.__file__ == str(file):
        return loaded
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
