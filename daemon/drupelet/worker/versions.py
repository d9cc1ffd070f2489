"""Versions: a running worker takes new code in place, as Erlang's code server does.

Decides which version of its code a worker runs, which function or process belongs to which, and
when an old one has to go.

Rules
- A new version is loaded beside the current one, in modules of its own, with fresh globals: state
  lives in processes, not in modules. Only when it loaded whole does it become current: the table of
  exports is replaced, calls under way finish on the functions they began with. One that does not
  load changes nothing, and the shipper is told file and line.
- Two versions are kept. Loading a third ends ("killed") the processes that still run the first.
- A process belongs to the version in whose module its entry function was defined. It goes over
  when it calls ``become(fn)``; a GenServer (its entry is ours) at its next message. Both ask
  `newest`, which takes code of any older version. A class without a single method of its own has
  no version.
- The daemon asks by a CALL to LOAD_TARGET with ``[path, digest]``. No mission can have that name,
  so no caller can reach it; the answer is the worker's HELLO once more.
- Loading runs in the worker's loop: while it lasts the worker answers nothing, as at its start.

References: Erlang Reference Manual, "Code loading"; `code:load_file/1`, `code:purge/1`.
Rejected: handing the old module's globals on (old and new code would share state that neither
expects); loading in a thread (module code that starts processes has no runtime there).
"""

from __future__ import annotations

import functools
import gc
import types
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Protocol

from drupelet.errors import RemoteError
from drupelet.wire.messages.workers import WorkerOrder, encode_hello
from drupelet.worker.loading import Loaded, LoadError, load
from drupelet.worker.targets import Target

if TYPE_CHECKING:
    from drupelet.process.table import Process

LOAD_TARGET: Final = b"/load"  # an empty mission name: not in any whitelist
VERSIONS_KEPT: Final = 2
_UNWRAPPED_MAX: Final = 16  # decorators and partials round one function
_MARK: Final = "__drupelet_version__"  # in the globals of each module: it outlives our own lists


class RuntimeLike(Protocol):
    """What this needs of `process/runtime.py`."""

    processes: dict[int, Process]
    newest: Callable[[Any], Any]

    def exit_process(self, process: Process, reason: object) -> None: ...


class Versions:
    """The code of one worker. `table` is what its session looks calls up in; changed in place."""

    def __init__(self, order: WorkerOrder, loaded: Loaded) -> None:
        self.table: dict[bytes, Target] = {}
        self._order = order
        self._number = 0
        self._namespaces: dict[str, dict[str, object]] = {}  # of the current modules, by name
        self._runtime: RuntimeLike | None = None
        self._loader = Target("load", self.load)
        self.on_taken: Callable[[], None] | None = None  # the processes follow (servers.py)
        self.current = loaded  # what new calls run
        self._take(loaded)

    def attach(self, runtime: RuntimeLike) -> None:
        """Processes run in `runtime`; it asks here for the newest code."""
        self._runtime = runtime
        runtime.newest = self.newest

    # -- a new version

    def load(self, path: str, digest: bytes) -> bytes:
        """Take the bundle in the file `path`; the HELLO of what came of it.

        Raises: `RemoteError` for other arguments.
        """
        if not isinstance(path, str) or not path or not isinstance(digest, bytes):
            raise RemoteError("badarg", "load(path, digest)")
        if digest == self.current.digest:
            return encode_hello(self.current.hello())
        gc.unfreeze()  # else what goes would stay
        try:
            order = replace(self._order, shipped=path)
            loaded = load(order, self.current.modules)
        except LoadError as error:
            return encode_hello(error.hello())
        else:
            self._order = order
            self._take(loaded)
            return encode_hello(loaded.hello())
        finally:
            gc.collect()
            gc.freeze()

    def _take(self, loaded: Loaded) -> None:
        """`loaded` is current from now on."""
        self._number += 1
        self._namespaces = {module.__name__: vars(module) for module in loaded.modules}
        for namespace in self._namespaces.values():
            namespace[_MARK] = self._number
        self.current = loaded
        self._end_processes(self._number - VERSIONS_KEPT)
        table = loaded.table()
        self.table.clear()
        self.table.update(table)
        self.table[LOAD_TARGET] = self._loader
        if self.on_taken is not None:
            self.on_taken()

    def _end_processes(self, number_max: int) -> None:
        """Those that run version `number_max` or an older one."""
        runtime = self._runtime
        if runtime is None:
            return
        for process in list(runtime.processes.values()):
            number = _namespace(process.function).get(_MARK)
            if isinstance(number, int) and number <= number_max:
                runtime.exit_process(process, "killed")

    # -- which version something is of

    def newest(self, thing: Any) -> Any:
        """The current version of a function or class of this worker's code; else `thing` itself.

        Also `thing` itself when the current version has nothing of that name and kind.
        """
        if self._number == 1:  # a GenServer asks at each message
            return thing
        if not isinstance(thing, types.FunctionType | type):
            return thing
        current = self._namespaces.get(thing.__module__)
        if current is not None and current.get(thing.__qualname__) is thing:
            return thing
        namespace = _namespace(thing)
        if namespace.get(_MARK, self._number) == self._number:
            return thing
        newer = self._namespaces.get(str(namespace.get("__name__")))
        found = _lookup(newer, thing.__qualname__) if newer is not None else None
        if callable(found) and isinstance(found, type) is isinstance(thing, type):
            return found
        return thing

    def version_of(self, thing: object) -> int | None:
        """How many versions came after that of `thing`: 0 is the current one. None: not of ours."""
        number = _namespace(thing).get(_MARK)
        return self._number - number if isinstance(number, int) else None


def _namespace(thing: object) -> Mapping[str, object]:
    """The globals of the module that a function or class was defined in; empty if nobody knows."""
    for _ in range(_UNWRAPPED_MAX):
        if isinstance(thing, types.MethodType):
            thing = thing.__func__
        elif isinstance(thing, functools.partial):
            thing = thing.func
        elif hasattr(thing, "__wrapped__"):  # by a decorator from elsewhere
            thing = thing.__wrapped__
        else:
            break
    if isinstance(thing, types.FunctionType):
        return thing.__globals__
    if isinstance(thing, type):
        for member in vars(thing).values():
            function = getattr(member, "__func__", member)  # of a static or class method
            function = getattr(function, "fget", function)  # of a property
            if (
                isinstance(function, types.FunctionType)
                and function.__module__ == thing.__module__
                and function.__qualname__.startswith(f"{thing.__qualname__}.")
            ):
                return function.__globals__
    return {}


def _lookup(namespace: Mapping[str, object], qualified: str) -> object:
    """``Oven.heat`` in a module's namespace; None when it is not there."""
    first, *more = qualified.split(".")
    found = namespace.get(first)
    for name in more:
        found = getattr(found, name, None)
    return found
