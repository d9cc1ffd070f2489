"""Work that computes: a process whose function runs in a thread or in another program.

Decides how: the process is an ordinary one (pid, links, monitors, exit signals); its only work is
to wait for the computation. The function is a plain one.

| where     | runs                        | for                             | killed              |
|-----------|-----------------------------|---------------------------------|---------------------|
| "thread"  | in a thread of this program | calls that wait; code that lets | abandoned, reported |
|           |                             | the lock go (zlib, nacl)        |                     |
| "process" | in a program of its own     | Python that computes            | at once             |

Rules
- At most as many at once as there are processors, and COMPUTATIONS_MAX that wait for their turn.
- Nothing can stop a thread. When its process is killed, that ends at once for everybody else; the
  thread runs on, keeps its place among those that run at once, and is counted (`abandoned`).
- In a thread only `self` and `send` of this module work; the other functions are the loop's, and
  raise there. They raise `ProcessExit` once the process was told to end: so an abandoned thread
  ends at its next word.
- For a program of its own the function is found again by module and name, and its arguments and
  its value are data: what is neither raises in the spawner. Shipped code, which is in no file,
  travels along. The program ends with ours.
- A file that such a program loads must not start computations while it is loaded: see LOADING.
- The value of a spawned computation is dropped, as every process's is. `compute` returns it.

References: trio, "Threads"; `child.py` is the other half of "process".
Rejected: multiprocessing (it forks, or pickles); a pool of programs (20 MB each while idle); death
by prctl(PR_SET_PDEATHSIG) (it is the thread's that started the child, and trio's threads come and
go): the child watches its standard input.
"""

from __future__ import annotations

import contextlib
import contextvars
import inspect
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, Final

import trio

from drupelet.errors import NotSendable, ProcessExit, RemoteError, RemoteProtocolError
from drupelet.lease import lease_var
from drupelet.process.current import process_var
from drupelet.process.data import copy_data
from drupelet.process.information import function_name
from drupelet.process.table import Process
from drupelet.wire.codec import dumps, loads
from drupelet.wire.ids import Pid
from drupelet.wire.limits import BODY_BYTES_MAX, COMPUTATIONS_MAX

_log = logging.getLogger("drupelet.process")

INLINE: Final = "inline"
THREAD: Final = "thread"
PROCESS: Final = "process"
LOADING: Final = "DRUPELET_COMPUTING_LOADS"  # set in a program's environment while it loads a file

_READ_BYTES: Final = 65_536
_REAP_S: Final = 5.0  # a program that was killed is gone in milliseconds

Function = Callable[..., Any]
To = Pid | str | tuple[str, str]


class _Places:
    """Who computes, of one trio loop."""

    def __init__(self) -> None:
        count = os.cpu_count() or 1
        self.limiters = {THREAD: trio.CapacityLimiter(count), PROCESS: trio.CapacityLimiter(count)}
        self.abandoned: set[_ThreadCall] = set()


_places: Final = trio.lowlevel.RunVar[_Places]("drupelet_computing")
_thread_call: Final[contextvars.ContextVar[_ThreadCall | None]] = contextvars.ContextVar(
    "drupelet_thread", default=None
)


def wrap(
    function: Function, args: Sequence[object], where: str
) -> tuple[Function, Sequence[object]]:
    """A function that waits for ``function(*args)``, which runs in a thread or program.

    Raises: `ValueError` for another place, `TypeError` for an async function, `NotSendable` for
    what cannot go to another program, `RemoteError` ("system_limit") for too many.
    """
    request = _prepare(function, args, where)

    async def waiter() -> None:
        await _run(function, args, request)

    waiter.__qualname__ = getattr(function, "__qualname__", "function")
    waiter.__module__ = getattr(function, "__module__", "")
    waiter.__wrapped__ = function  # type: ignore[attr-defined]  # of its version of the code
    return waiter, ()


async def compute(function: Function, *args: object, where: str = THREAD) -> Any:
    """The value of ``function(*args)``, which runs in a thread or in a program of its own.

    Raises what the function raised, from another program as `ProcessExit` with the reason
    ``(class name, message)``; `ProcessExit` ("ProgramDied", how) for a program that gave no answer;
    and what `wrap` raises.
    """
    return await _run(function, args, _prepare(function, args, where))


def abandoned() -> int:
    """How many threads run for processes that were told to end."""
    return len(_here().abandoned)


def _prepare(function: Function, args: Sequence[object], where: str) -> bytes | None:
    """The request to the other program; None for a thread."""
    if where not in (THREAD, PROCESS):
        raise ValueError(f'where={where!r} is not known; use "{INLINE}", "{THREAD}" or "{PROCESS}"')
    if not callable(function):
        raise TypeError(f"this takes a function, not {function!r:.100}")
    if inspect.iscoroutinefunction(function):
        raise TypeError(
            f'{function_name(function)} is async; where="{where}" is for plain functions'
        )
    _check_room(where)
    if where == THREAD:
        return None
    if LOADING in os.environ:
        raise RuntimeError(
            "this file is being loaded by a program that computes for it; write what is to run "
            'only in the first one below: if __name__ == "__main__":'
        )
    module, file, name, sources = _address(function)
    arguments = [copy_data(each) for each in args]
    return dumps([module, file, name, arguments, list(sys.path), sources])


def _check_room(where: str) -> None:
    if _here().limiters[where].statistics().tasks_waiting >= COMPUTATIONS_MAX:
        raise RemoteError("system_limit", f"{COMPUTATIONS_MAX:,} computations wait already")


async def _run(function: Function, args: Sequence[object], request: bytes | None) -> Any:
    where = THREAD if request is None else PROCESS
    _check_room(where)  # many may have been prepared before the first of them waits
    if request is None:
        return await _run_in_thread(function, args)
    async with _here().limiters[PROCESS]:
        return await _run_in_program(function, request)


def _here() -> _Places:
    try:
        return _places.get()
    except LookupError:
        _places.set(places := _Places())
        return places


# -- a thread


class _ThreadCall:
    """What a thread knows of its process."""

    def __init__(self, process: Process | None) -> None:
        self.process = process
        self.runs = False
        self.sends: set[trio.CancelScope] = set()


async def _run_in_thread(function: Function, args: Sequence[object]) -> Any:
    places = _here()
    process = process_var.get(None)
    call = _ThreadCall(process)

    def work() -> Any:
        call.runs = True
        _thread_call.set(call)
        try:
            return function(*args)
        finally:
            call.runs = False
            places.abandoned.discard(call)

    # an empty context: the loop's functions find no process there
    context = contextvars.Context()
    try:
        return await trio.to_thread.run_sync(
            context.run, work, abandon_on_cancel=True, limiter=places.limiters[THREAD]
        )
    except trio.Cancelled:
        for scope in call.sends:
            scope.cancel()
        if call.runs:
            _abandon(places, call, function)
            lease = lease_var.get()
            if lease is not None:
                lease.linger(call, lambda: call.runs)
        raise


def _abandon(places: _Places, call: _ThreadCall, function: Function) -> None:
    places.abandoned.add(call)
    if not call.runs:  # it ended meanwhile, perhaps before it was added
        places.abandoned.discard(call)
    _log.warning(
        "thread_abandoned function=%s pid=%s count=%d of=%d was told to end and cannot be stopped, "
        "leaving its thread to itself",
        function_name(function),
        call.process.pid if call.process is not None else "none",
        len(places.abandoned),
        places.limiters[THREAD].total_tokens,
    )


def self() -> Pid:
    """In a thread: the pid of its process. Raises: `ProcessExit` when that was told to end."""
    return _thread_process().pid


def send(to: To, message: object) -> None:
    """In a thread: as `drupelet.send`; the thread waits while the receiver's mailbox is full."""
    process = _thread_process()
    call = _thread_call.get()
    assert call is not None

    async def deliver() -> bool:
        with trio.CancelScope() as scope:
            call.sends.add(scope)
            try:
                await process.runtime.send(process, to, message)  # type: ignore[attr-defined]
            finally:
                call.sends.discard(scope)
        return scope.cancelled_caught

    if trio.from_thread.run(deliver):
        raise ProcessExit(process.exit_reason)


def _thread_process() -> Process:
    call = _thread_call.get()
    if call is None or call.process is None:
        raise RuntimeError('no process runs in this thread; start it with spawn(where="thread")')
    if not call.process.alive:
        raise ProcessExit(call.process.exit_reason)
    return call.process


# -- a program of its own


def _address(function: Function) -> tuple[str, str, str, dict[str, str]]:
    """Module, its file where no name leads to it, name, and the sources of what is in no file.

    Raises: `NotSendable`.
    """
    module = getattr(function, "__module__", None) or ""
    name = getattr(function, "__qualname__", "")
    loaded = sys.modules.get(module)
    found: object = loaded
    for part in name.split("."):
        found = getattr(found, part, None)
    if loaded is None or found is not function:
        raise NotSendable(
            f"{function!r:.100} has no name that another program could find it by; use a function "
            "at the top of a module"
        )
    spec = getattr(loaded, "__spec__", None)
    if spec is not None and module != "__main__":
        if spec.has_location or spec.origin in ("built-in", "frozen"):
            return module, "", name, {}
        sources = _sources_like(loaded)
        if module in sources:
            return module, "", name, sources
    file = getattr(loaded, "__file__", None)
    if not isinstance(file, str) or not os.path.isfile(file):
        raise NotSendable(f"module {module} of {name} has no file that another program could read")
    return module, os.path.abspath(file), name, {}


def _sources_like(module: ModuleType) -> dict[str, str]:
    """The modules that came from where `module` came from: shipped code is in memory only."""
    kind = type(module.__loader__)
    sources = {}
    for name, each in list(sys.modules.items()):
        loader = getattr(each, "__loader__", None)
        get_source = getattr(loader, "get_source", None)
        if type(loader) is kind and get_source is not None:
            source = get_source(name)
            if source is not None:
                sources[name] = source
    return sources


async def _run_in_program(function: Function, request: bytes) -> Any:
    program = await trio.lowlevel.open_process(
        [sys.executable, "-m", "drupelet.process.child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(_package_path())},
    )
    assert program.stdin is not None and program.stdout is not None
    try:
        answer = bytearray()
        with contextlib.suppress(trio.BrokenResourceError):  # it ended: its exit code says more
            await program.stdin.send_all(len(request).to_bytes(4, "big") + request)
        while len(answer) <= BODY_BYTES_MAX:
            data = await program.stdout.receive_some(_READ_BYTES)
            if not data:
                break
            answer += data
        if len(answer) > BODY_BYTES_MAX:
            raise RemoteError("too_large", f"{function_name(function)} returned too much")
        await program.stdin.aclose()
        code = await program.wait()
    finally:
        with trio.move_on_after(_REAP_S, shield=True):
            program.kill()
            await program.wait()
            await program.stdin.aclose()
            await program.stdout.aclose()
    return _value(function, bytes(answer), code)


def _package_path() -> list[str]:
    """Where the child finds this package: it may not be installed."""
    here = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    former = os.environ.get("PYTHONPATH")
    return [here, former] if former else [here]


def _value(function: Function, answer: bytes, code: int) -> Any:
    try:
        decoded = loads(answer) if answer else None
    except RemoteProtocolError:  # torn: it died while it wrote
        decoded = None
    match decoded:
        case ["value", value]:
            return value
        case ["exit", reason]:
            raise ProcessExit(reason)
        case ["error", str(kind), str(message), str(traceback_text)]:
            _log.warning(
                "computation_crashed function=%s, telling who watches it\n%s",
                function_name(function),
                traceback_text,
            )
            raise ProcessExit((kind, message))
    how = f"was ended by {_signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
    raise ProcessExit(("ProgramDied", f"{function_name(function)} {how}"))


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time one
        return f"signal {number}"
