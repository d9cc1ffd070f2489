"""What the behaviours share: how one starts, is asked, refuses, and ends.

Decides the protocol of GenServer, GenStatem, GenEvent and Supervisor, which is OTP's:

- `start_behaviour` returns when the new process called ``started()`` at the end of its ``init``.
  A name is registered before ``init`` runs. A process that ends before: its starter gets
  `ProcessDown(reason)`, and, linked, its exit signal first. A taken name: `NameTaken`.
- A call is a `Request` (`ask`), a cast is ``(CAST, message)``; stopping is a request ``(STOP,
  reason)`` that is never answered: the asker sees the process end.
- ``init`` that returns `IGNORE`: no process, and no error; its starter gets None.
- A call of a server or a state machine is answered by its value, or by an error (`value_of`).
- A verb of a supervisor or an event manager is answered by ``("ok", value)`` or ``("error",
  reason)``, which is `Refused` in the asker (`ask_verb`).
- ``terminate`` runs for an exception and, when exits are trapped, when the program ends; never for
  a signal that is not trapped. It has TERMINATE_S.

The wait for ``started`` takes no message of the starter's, so a supervisor loses no exit signal
while it starts a child.

References: OTP's `gen`, `proc_lib:start_link/3`, `proc_lib:stop/3`.
Rejected: an acknowledgement as a message (it would pass every message that waits).
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
from collections.abc import Awaitable, Callable, Sequence
from math import inf
from types import CoroutineType
from typing import Any, Final, Protocol, cast

import trio
from trio.lowlevel import current_task

from drupelet.errors import (
    CallError,
    NameTaken,
    NotSendable,
    ProcessDown,
    ProcessExit,
    Refused,
    RemoteError,
    Timeout,
    error_from_fields,
    error_to_fields,
)
from drupelet.process import api
from drupelet.process.current import process_var, this_process, this_runtime
from drupelet.process.data import copy_data
from drupelet.process.kernel import Ask
from drupelet.process.runtime import Runtime, To, reason_of
from drupelet.process.table import DEFAULT_MAILBOX, Mailbox, Process
from drupelet.wire.ids import Pid, Ref, check_plain_name

_log = logging.getLogger("drupelet.process")

CAST: Final = "$gen_cast"
STOP: Final = "$gen_stop"
CALL_TIMEOUT_S: Final = api.ASK_TIMEOUT_S
TERMINATE_S: Final = 5.0  # as long as any process has to end
STOP_S: Final = 10.0  # a callback under way, and terminate
NO_REASON: Final = object()
_ERROR: Final = "$gen_error"


class _Ignore:
    """See `IGNORE`."""

    def __repr__(self) -> str:
        return "IGNORE"


IGNORE: Final = _Ignore()
"""What ``init`` returns when there is to be no process, and that is no error."""


class Started(Protocol):
    """Tell the starter that ``init`` is over; `None` where it ignored."""

    def __call__(self, value: object = True, /) -> None: ...


Body = Callable[[Started], Awaitable[None]]


def is_orderly(reason: object) -> bool:
    """Whether that is how a process ends that did what it should: "normal", "shutdown", ..."""
    match reason:
        case "normal" | "shutdown":
            return True
        case ("shutdown", _):
            return type(reason) is tuple
    return False


async def start_behaviour(
    shown: object,
    body: Body,
    *,
    link: bool,
    name: str | None = None,
    mailbox: Mailbox = DEFAULT_MAILBOX,
    timeout: float = inf,
) -> Pid:
    """Start a process that runs ``body(started)``, and wait until it called ``started()``.

    `shown`: the class or function that `process_info` shows. Its pid; None when it ignored (no
    annotation: who ignores knows). Raises: `ProcessDown` with the reason for which it ended,
    `NameTaken`, `ValueError` for what is no name, `Timeout` (it was killed then).
    """
    if name is not None:
        check_plain_name(name)
    runtime = this_runtime()
    parent = this_process() if link else process_var.get(None)
    await runtime.breathe(parent)
    number = runtime.new_ref()
    process = runtime.start(
        _first,
        (runtime, number, shown, body, name),
        mailbox=mailbox,
        parent=parent.pid if parent is not None else None,
    )
    process.function = shown
    try:
        if link:
            assert parent is not None
            runtime.link(parent, process.pid)
        ask = runtime.asks[number] = Ask(process.pid, current_task())
        process.watchers = {number: runtime.pid if parent is None else parent.pid}
        value = await runtime.wait_answer(number, ask, timeout)
    except Timeout:
        _kill(runtime, parent, process)
        raise
    except BaseException:  # who starts it was cancelled; an ended starter's link tells why
        if parent is None or not parent.exiting:
            _kill(runtime, parent, process)
        raise
    if isinstance(value, Exception):
        raise value
    return cast(Pid, process.pid if value is not None else None)


async def start_watched(shown: object, body: Body, **options: Any) -> tuple[Pid, Ref]:
    """As `start_behaviour`, watched by this process once init is over; the pid and the ref.

    ``(None, None)`` when it ignored.
    """
    watcher = this_process()
    refs: list[Ref] = []

    async def watched(started: Started) -> None:
        process = this_process()

        def after_init(value: object = True, /) -> None:
            if value is not None:
                refs.append(process.runtime.monitor(watcher, process.pid))
            started(value)

        await body(after_init)

    pid = await start_behaviour(shown, watched, link=False, **options)
    return pid, cast(Ref, refs[0] if refs else None)


class Startable:
    """`start`, `start_link` and `start_monitor` of a behaviour."""

    @classmethod
    def _behaviour_body(cls, args: tuple[Any, ...], linked: bool) -> Body:
        """What its process does. `linked`: its parent is its starter."""
        raise NotImplementedError

    @classmethod
    async def start(
        cls,
        *args: Any,
        name: str | None = None,
        mailbox: Mailbox = DEFAULT_MAILBOX,
        timeout: float = inf,
    ) -> Pid:
        """Start one, and wait for its ``init(*args)``; None when that returned `IGNORE`.

        Raises: `ProcessDown` with the reason for which init failed, `NameTaken`, `Timeout` (it was
        ended then).
        """
        return await start_behaviour(
            shown_as(cls, cls.start),
            cls._behaviour_body(args, linked=False),
            link=False,
            name=name,
            mailbox=mailbox,
            timeout=timeout,
        )

    @classmethod
    async def start_link(
        cls,
        *args: Any,
        name: str | None = None,
        mailbox: Mailbox = DEFAULT_MAILBOX,
        timeout: float = inf,
    ) -> Pid:
        """As `start`, linked from its first moment; this process is its parent."""
        return await start_behaviour(
            shown_as(cls, cls.start),
            cls._behaviour_body(args, linked=True),
            link=True,
            name=name,
            mailbox=mailbox,
            timeout=timeout,
        )

    @classmethod
    async def start_monitor(
        cls,
        *args: Any,
        name: str | None = None,
        mailbox: Mailbox = DEFAULT_MAILBOX,
        timeout: float = inf,
    ) -> tuple[Pid, Ref]:
        """As `start`, watched by this process once init is over; the pid and the monitor's ref."""
        return await start_watched(
            shown_as(cls, cls.start),
            cls._behaviour_body(args, linked=False),
            name=name,
            mailbox=mailbox,
            timeout=timeout,
        )


def shown_of(function: object, args: Sequence[object]) -> object:
    """What a process that is started so is shown as: a behaviour's class, else the function."""
    return args[2] if function is _first else function


async def _first(
    runtime: Runtime, number: int, shown: object, body: Body, name: str | None
) -> None:
    process = this_process()
    process.function = shown

    def started(value: object = True, /) -> None:
        runtime.answered(number, process.pid, value)

    if name is not None:
        refused = await runtime.register(name, process)
        if refused:
            started(NameTaken(refused))
            return
    await body(started)


def _kill(runtime: Runtime, parent: Process | None, process: Process) -> None:
    if process.alive:
        if parent is not None:
            runtime.unlink(parent, process.pid)
        runtime.exit_process(process, "killed")


# -- for who asks


async def call(to: To, request: object, *, timeout: float = CALL_TIMEOUT_S) -> Any:
    """Ask a behaviour and wait. Raises: `Timeout`, `ProcessDown`, `NoConnection`."""
    return await api.ask(to, request, timeout=timeout)


async def cast_to(to: To, message: object) -> None:
    """Tell a behaviour, and do not wait for it. To nobody: nothing happens."""
    with contextlib.suppress(ProcessDown):
        await api.send(to, (CAST, message))


async def stop(to: To, reason: object = "normal", *, timeout: float = inf) -> None:
    """Tell a behaviour to end with `reason`, and wait for that.

    Raises: `ProcessDown` when it ended for another reason or was not there, `Timeout`.
    """
    try:
        await api.ask(to, (STOP, reason), timeout=timeout)
    except ProcessDown as down:
        if down.reason != reason:
            raise


class StopName:
    """``stop`` of a behaviour: for others a function, in a callback ``self.stop(reason)``."""

    def __get__(self, instance: Any, owner: type) -> Callable[..., Any]:
        return _stop_within if instance is None else cast(Callable[..., Any], instance._stop_self)


async def _stop_within(to: To, reason: object = "normal", *, timeout: float = STOP_S) -> None:
    await stop(to, reason, timeout=timeout)


async def ask_verb(to: To, *request: object, timeout: float = inf) -> Any:
    """Ask a supervisor or an event manager; it takes as long as it takes.

    Raises: `Refused`, `ProcessDown`, `NoConnection`, `Timeout`.
    """
    match await api.ask(to, request, timeout=timeout):
        case ("ok", value):
            return value
        case ("error", reason):
            raise Refused(reason)
    raise Refused("bad_answer")  # something else is registered under that name


# -- for who answers


def stop_reason(message: object) -> object:
    """The reason that a `stop` gives; `NO_REASON` for any other request."""
    if message.__class__ is tuple:
        match message:
            case (str(word), reason) if word == STOP:
                return reason
    return NO_REASON


def answer(process: Process, caller: api.Caller, value: object) -> None:
    """Answer ``("ok", value)``."""
    try:
        done = ("ok", copy_data(value))
    except NotSendable as error:
        refuse(process, caller, reason_of(error))
        return
    cast(Runtime, process.runtime).reply(process.pid, *caller, done)


def refuse(process: Process, caller: api.Caller, reason: object) -> None:
    """Answer ``("error", reason)``: `Refused` in the asker."""
    try:
        reason = copy_data(reason)
    except NotSendable as error:
        reason = reason_of(error)
    cast(Runtime, process.runtime).reply(process.pid, *caller, ("error", reason))


def reply_value(runtime: Runtime, process: Process, caller: api.Caller, value: object) -> None:
    """Answer a call by its value; what is no data is the error "not_sendable" in the asker."""
    try:
        value = copy_data(value)
    except NotSendable as error:
        value = error_value(RemoteError("not_sendable", f"the value: {error}"))
    if process.tracers is not None:
        runtime.trace(process, "reply", value, caller[0])
    runtime.reply(process.pid, caller[0], caller[1], value)


def error_value(error: CallError) -> tuple[str, list[object]]:
    """The answer that `value_of` raises."""
    return (_ERROR, error_to_fields(error))


def value_of(answer: Any) -> Any:
    """What a server answered. Raises: the error that it answered."""
    match answer:
        case (str(mark), list(fields)) if mark == _ERROR:
            raise error_from_fields(fields)
    return answer


# -- callbacks


async def run_callback(callback: Callable[..., Any], *args: object, **options: object) -> Any:
    """The value of the author's function, plain or async."""
    value = callback(*args, **options)
    if value.__class__ is CoroutineType or inspect.isawaitable(value):
        return await value
    return value


def reason_of_end(process: Process, error: BaseException) -> object:
    """The reason for which ``terminate`` is called; `NO_REASON` when it is not."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    if isinstance(error, ProcessExit):
        return error.reason
    if isinstance(error, Exception):
        return reason_of(error)
    if isinstance(error, trio.Cancelled) and process.trap_exit:
        return "shutdown"  # the program ends; `exiting` is another case
    return NO_REASON


async def run_terminate(process: Process, terminate: Callable[..., Any], *args: object) -> None:
    """The author's last words, unless the process was killed."""
    if process.exiting:
        return
    with trio.move_on_after(TERMINATE_S, shield=True) as scope:
        await run_callback(terminate, *args)
    if scope.cancelled_caught:
        _log.warning(
            "terminate_abandoned function=%s took more than %g s, ending without it",
            getattr(terminate, "__qualname__", terminate),
            TERMINATE_S,
        )


async def change_class(behaviour: Any, newest: Any) -> bool:
    """Go over to newer code, and tell it; False where that is impossible, and the old goes on."""
    former = type(behaviour)
    try:
        behaviour.__class__ = newest
    except TypeError as error:
        _log.warning("code_not_changed class=%s, keeping the old: %s", former.__qualname__, error)
        return False
    await run_callback(behaviour.code_change, former)
    return True


def shown_as(cls: type, start: Callable[..., object]) -> Callable[..., object]:
    """What `process_info` names as the function of a behaviour's process.

    Not the class itself: the process is of no version of the code, since it goes over to each new
    one at its next message.
    """
    shown = functools.partial(start)
    shown.__qualname__ = cls.__qualname__  # type: ignore[attr-defined]
    shown.__module__ = cls.__module__
    return shown
