"""GenEvent: an event manager, and the handlers that it calls for each event.

    class Counter(GenEvent):                           # a handler
        def init(self, first=0):
            self.count = first

        def handle_event(self, event):
            self.count += 1

        def handle_call(self, request):
            return self.count

    alarms = await GenEvent.start_link(name="alarms")  # a manager, without handlers
    await GenEvent.add_handler(alarms, Counter, 10)
    await GenEvent.notify(alarms, "fire")
    await GenEvent.call(alarms, Counter)               # 11

Decides which handlers are called, in which order, and what becomes of one that fails, as OTP's
gen_event does: the newest handler is called first, one at a time, in the manager's process; one
that raises is removed, its `terminate` is called with ``("error", reason)``, and the manager and
the others live on. A handler that was added supervised is linked to who added it: when that process
ends, the handler goes (``("stop", reason)``); when the handler goes, the process is told by the
message ``("gen_event_EXIT", handler, reason)``: "normal", "shutdown" (the manager ended),
``("swapped", new handler, pid)``, or the reason of a crash.

A handler is named by its class, or by ``(class, id)`` where there are several of one class; what
`which_handlers` gives ("module.Class") names it too.

Unlike OTP's: state stands in the instance's fields; `remove` and `swap` are calls on `self`; the
handler that takes over gets what `terminate` of the other gave as the last argument of `init`;
what a crash is told as is the reason alone, without 'EXIT' round it.

References: OTP's `gen_event.erl` (server_notify, do_terminate, terminate_supervised).
Rejected: a process per handler (that is a supervisor with servers); handlers as plain functions
(nothing would hold their state when one is swapped for another).
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from math import inf
from typing import Any, ClassVar, Final, NoReturn, cast

from drupelet.errors import NotSendable, ProcessDown, ProcessExit, RemoteError
from drupelet.process import api
from drupelet.process.api import Caller
from drupelet.process.behaviours import (
    CALL_TIMEOUT_S,
    NO_REASON,
    Body,
    Startable,
    Started,
    answer,
    ask_verb,
    change_class,
    reason_of_end,
    refuse,
    run_callback,
    run_terminate,
    stop,
    stop_reason,
)
from drupelet.process.current import this_process, this_runtime
from drupelet.process.data import copy_data
from drupelet.process.errands import carried_out
from drupelet.process.gen_server import Stop
from drupelet.process.parcels import pack, unpack
from drupelet.process.runtime import Runtime, To, reason_of
from drupelet.process.status import shown_fields
from drupelet.process.table import Process
from drupelet.process.verbs import check_marked, check_names, own_names
from drupelet.wire.ids import Pid
from drupelet.wire.limits import EVENT_HANDLERS_MAX
from drupelet.wire.messages import processes as wire
from drupelet.wire.notices import Exit, Request

_log = logging.getLogger("drupelet.process")

NOTIFY: Final = "$gen_notify"
EVENT_EXIT: Final = "gen_event_EXIT"
REMOVE_HANDLER: Final = "remove_handler"

Name = str | tuple[str, Any]
Handler = Any  # a class, (class, id), or a name of which_handlers


class GenEvent(Startable):
    """Base class of handlers; started, a manager. See the top of this file, and BEHAVIOURS.md.

    *Owns* (a manager) its process. *Cancellation* of a call: the handler finishes, its answer is
    dropped.
    """

    __left: Callable[[], Any] | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for base in cls.__mro__[: cls.__mro__.index(GenEvent)]:
            check_names(base, _OWN_NAMES, base="GenEvent", what="method")
        check_marked(cls)

    # -- callbacks of a handler, plain or async

    def init(self, *args: Any) -> Any:
        """Set the first state. After a swap the last argument is what the other's terminate gave.

        ``raise Stop(reason)``: it is not added.
        """

    def handle_event(self, event: Any) -> Any:
        """What was notified."""

    def handle_call(self, request: Any) -> Any:
        """A request to this handler; the value is the answer."""
        raise RemoteError("undef", f"{type(self).__name__} answers nothing")

    def handle_info(self, message: Any) -> Any:
        """Another message to the manager."""
        _log.warning(
            "unexpected_message handler=%s type=%s, ignoring; define handle_info",
            type(self).__qualname__,
            type(message).__name__,
        )

    def terminate(self, reason: Any) -> Any:
        """It goes; the value is for who deletes it, or for the handler that takes over.

        `reason`: what `delete_handler` or a swap gave, "remove_handler", "stop" (the manager ends),
        ``("stop", reason)`` (who added it ended), ``("error", reason)`` (it raised).
        """

    def code_change(self, former: type) -> Any:
        """The class of this handler was replaced by a newer one; `former` was it before."""

    def format_status(self) -> dict[str, Any]:
        """What `process_info` shows of it: fields that look like secrets are hidden."""
        own = "_GenEvent__"
        return shown_fields({k: v for k, v in vars(self).items() if not k.startswith(own)})

    # -- for the handler itself

    def remove(self) -> None:
        """Leave the manager after this callback."""
        self.__left = lambda: REMOVE_HANDLER

    def swap(self, handler: Handler, *args: object, why: object = None) -> None:
        """Give this place to another handler after this callback; `why` is for `terminate`."""
        self.__left = lambda: (handler, args, why)

    # -- a manager, for others

    stop = staticmethod(stop)

    @staticmethod
    async def add_handler(manager: To, handler: Handler, *args: object) -> None:
        """Add a handler. Its arguments are data. Raises: `Refused` with the reason of its init."""
        await _add(manager, handler, args, supervised=False)

    @staticmethod
    async def add_sup_handler(manager: To, handler: Handler, *args: object) -> None:
        """As `add_handler`; the handler and this process hear of each other's end."""
        this_process()
        await _add(manager, handler, args, supervised=True)

    @staticmethod
    async def delete_handler(manager: To, handler: Handler, why: object = None) -> Any:
        """Remove a handler; the value of its `terminate`. Raises: `Refused` "module_not_found"."""
        return await ask_verb(manager, "delete", name_of(handler), why)

    @staticmethod
    async def swap_handler(
        manager: To, former: Handler, handler: Handler, *args: object, why: object = None
    ) -> None:
        """Replace a handler; its `terminate` gets `why`, and the other one what that gives.

        When the former is not there, the other is added, and gets "error". It stays supervised.
        """
        await _swap(manager, former, handler, args, why, supervised=False)

    @staticmethod
    async def swap_sup_handler(
        manager: To, former: Handler, handler: Handler, *args: object, why: object = None
    ) -> None:
        """As `swap_handler`, and as `add_sup_handler`."""
        this_process()
        await _swap(manager, former, handler, args, why, supervised=True)

    @staticmethod
    async def which_handlers(manager: To) -> list[Name]:
        """The handlers, the newest first: "module.Class", or ``("module.Class", id)``."""
        return cast(list[Name], await ask_verb(manager, "which"))

    @staticmethod
    async def notify(manager: To, event: object) -> None:
        """Tell all handlers; nobody says whether it arrived. Raises: `NotSendable`."""
        with contextlib.suppress(ProcessDown):
            await api.send(manager, (NOTIFY, event))

    @staticmethod
    async def sync_notify(manager: To, event: object) -> None:
        """Tell all handlers, and wait until they have dealt with it. Raises: `ProcessDown`."""
        await ask_verb(manager, "notify", event)

    @staticmethod
    async def call(
        manager: To, handler: Handler, request: object = None, *, timeout: float = CALL_TIMEOUT_S
    ) -> Any:
        """Ask one handler. Raises: `Refused` "bad_module" (there is none), or the reason for which
        it crashed or refused; `Timeout`, `ProcessDown`, `NoConnection`.
        """
        return await ask_verb(manager, "call", name_of(handler), request, timeout=timeout)

    @classmethod
    def _behaviour_body(cls, args: tuple[Any, ...], linked: bool) -> Body:
        if args:
            raise TypeError("a manager starts without arguments; give them to add_handler")

        async def body(started: Started) -> None:
            process = this_process()
            await _Manager(process, process.parent if linked else None).run(started)

        return body

    @staticmethod
    def _taken_leave(handler: GenEvent) -> Any:
        """What `remove` or `swap` asked for; None."""
        left, handler.__left = handler.__left, None
        return left() if left is not None else None


_OWN_NAMES: Final = own_names(GenEvent) - {"handle_event"}


def name_of(handler: Handler) -> Name:
    """How a handler is called in messages. Raises: `TypeError` for what is none."""
    match handler:
        case str() | (str(), _):
            return cast(Name, handler)
        case type():
            return f"{handler.__module__.removeprefix('mission_')}.{handler.__qualname__}"
        case (type() as cls, id):
            return (cast(str, name_of(cls)), id)
    raise TypeError(f"a handler is a class, or (class, id), not {handler!r:.100}")


def _class_of(handler: Handler) -> tuple[type[GenEvent], Name]:
    cls = handler[0] if isinstance(handler, tuple) and handler else handler
    if not isinstance(cls, type) or not issubclass(cls, GenEvent):
        raise TypeError(f"a handler is a class of GenEvent, not {cls!r:.100}")
    return cls, name_of(handler)


async def _add(to: To, handler: Handler, args: tuple[object, ...], *, supervised: bool) -> None:
    cls, name = _class_of(handler)
    with pack(this_runtime(), to, cls) as code:
        await ask_verb(to, "add", code, name, args, supervised)


async def _swap(
    to: To,
    former: Handler,
    handler: Handler,
    args: tuple[object, ...],
    why: object,
    *,
    supervised: bool,
) -> None:
    cls, name = _class_of(handler)
    with pack(this_runtime(), to, cls) as code:
        await ask_verb(to, "swap", name_of(former), why, code, name, args, supervised)


class _Place:
    """One handler in its manager. `owner`: who added it supervised."""

    __slots__ = ("handler", "name", "owner", "refused")

    def __init__(self, name: Name, handler: GenEvent, owner: Pid | None) -> None:
        self.name = name
        self.handler = handler
        self.owner = owner
        self.refused: object = None  # newer code that it cannot go over to


class _Refusal(Exception):
    def __init__(self, reason: object) -> None:
        super().__init__(reason)
        self.reason = reason


class _Manager:
    """A manager's process."""

    supervises: ClassVar[bool] = False

    def __init__(self, process: Process, parent: Pid | None) -> None:
        self._process = process
        self._runtime = cast(Runtime, process.runtime)
        self._parent = parent
        self._places: list[_Place] = []  # the newest first
        self._verbs = {
            "add": self._add,
            "delete": self._delete,
            "swap": self._swap,
            "which": self._which,
            "notify": self._sync_notify,
            "call": self._call,
        }

    async def run(self, started: Started) -> NoReturn:
        process = self._process
        process.trap_exit = True
        process.state = self
        started()
        try:
            while True:
                message: Any = await self._runtime.receive_message(process, None, inf)
                for place in self._places:
                    handler = place.handler
                    newest = self._runtime.newest(type(handler))
                    is_other = newest is not type(handler) and newest is not place.refused
                    if is_other and not await change_class(handler, newest):
                        place.refused = newest
                await self._take(message)
        except BaseException as error:
            if reason_of_end(process, error) is not NO_REASON:
                await run_terminate(process, self._end)
            raise

    async def _take(self, message: Any) -> None:
        match message:
            case (str(word), event) if word == NOTIFY and type(message) is tuple:
                await self._notify(event, "handle_event")
            case Request(caller, request):
                reason = stop_reason(request)
                if reason is not NO_REASON:
                    raise ProcessExit(reason)
                with carried_out(message) as wanted:
                    if wanted:
                        await self._serve(caller, request)
            case Exit(pid, reason):
                if pid == self._parent:
                    raise ProcessExit(reason)
                for place in [each for each in self._places if each.owner == pid]:
                    place.owner = None
                    await self._leave(place, ("stop", reason), "shutdown")
            case _:
                await self._notify(message, "handle_info")

    async def _serve(self, caller: Caller, request: Any) -> None:
        word = request[0] if isinstance(request, tuple) and request else None
        verb = self._verbs.get(word) if isinstance(word, str) else None
        if verb is None:
            text = f"a manager has the verbs {list(self._verbs)}"
            refuse(self._process, caller, ("undef", text))
            return
        try:
            value = await verb(caller, *request[1:])  # type: ignore[operator]
        except _Refusal as refusal:
            refuse(self._process, caller, refusal.reason)
        except RemoteError as error:  # code that is not here, a refusal of a handler
            refuse(self._process, caller, (error.kind, error.message))
        except Exception as error:  # a request that is none
            refuse(self._process, caller, reason_of(error))
        else:
            answer(self._process, caller, value)

    # -- verbs

    async def _which(self, _: Caller) -> list[Name]:
        return [place.name for place in self._places]

    async def _sync_notify(self, _: Caller, event: Any) -> None:
        await self._notify(event, "handle_event")

    async def _add(self, caller: Caller, code: Any, name: Any, args: Any, supervised: bool) -> None:
        cls, _ = _class_of(unpack(self._runtime, code))
        await self._enter(cls, name_of(name), args, caller[0] if supervised else None)

    async def _delete(self, _: Caller, name: Any, why: Any) -> Any:
        place = self._find(name)
        if place is None:
            raise _Refusal("module_not_found")
        return await self._leave(place, why, "normal")

    async def _swap(
        self, caller: Caller, former: Any, why: Any, code: Any, name: Any, args: Any, sup: bool
    ) -> None:
        cls, _ = _class_of(unpack(self._runtime, code))
        owner = caller[0] if sup else None
        await self._replace(self._find(former), why, cls, name_of(name), args, owner)

    async def _call(self, _: Caller, name: Any, request: Any) -> Any:
        place = self._find(name)
        if place is None:
            raise _Refusal("bad_module")
        try:
            value = await run_callback(place.handler.handle_call, request)
        except RemoteError as error:
            if error.__class__ is RemoteError:
                raise
            raise _Refusal(await self._crashed(place, error)) from None
        except Exception as error:
            raise _Refusal(await self._crashed(place, error)) from None
        await self._after(place)
        return value

    # -- handlers

    def _find(self, name: Any) -> _Place | None:
        return next((place for place in self._places if place.name == name), None)

    async def _notify(self, event: Any, callback: str) -> None:
        places = list(self._places)
        for place in places:
            own = event if len(places) == 1 else copy_data(event)  # none sees another's changes
            try:
                await run_callback(getattr(place.handler, callback), own)
            except Exception as error:
                await self._crashed(place, error)
            else:
                await self._after(place)

    async def _after(self, place: _Place) -> None:
        """What it asked for in its callback."""
        match GenEvent._taken_leave(place.handler):
            case None:
                return
            case (handler, args, why):
                try:
                    cls, name = _class_of(handler)
                    at = self._places.index(place)
                    await self._replace(place, why, cls, name, args, None, at)
                except (_Refusal, TypeError) as error:
                    _log.warning(
                        "handler_not_swapped manager=%s handler=%s: %.200r, going on without it",
                        self._process.pid,
                        place.name,
                        getattr(error, "reason", error),
                    )
            case reason:
                await self._leave(place, reason, "normal")

    async def _enter(
        self, cls: type[GenEvent], name: Name, args: Any, owner: Pid | None, at: int = 0
    ) -> None:
        if len(self._places) >= EVENT_HANDLERS_MAX:
            raise _Refusal("system_limit")
        handler = cls()
        try:
            await run_callback(handler.init, *args)
        except (Stop, ProcessExit) as error:
            raise _Refusal(error.reason) from None
        except Exception as error:
            raise _Refusal(reason_of(error)) from error
        self._places.insert(at, _Place(name, handler, owner))
        if owner is not None:
            self._runtime.link(self._process, owner)
        await self._after(self._places[at])

    async def _replace(
        self,
        former: _Place | None,
        why: Any,
        cls: type[GenEvent],
        name: Name,
        args: Any,
        owner: Pid | None,
        at: int = 0,
    ) -> None:
        handed: object = "error"
        if former is not None:
            owner = owner or former.owner
            handed = await self._leave(former, why, ("swapped", name, owner))
        await self._enter(cls, name, (*args, handed), owner, at)

    async def _leave(self, place: _Place, why: Any, told: object) -> Any:
        """Remove a handler; what its `terminate` gives."""
        if place not in self._places:
            return None  # it left in the callback that ended it
        self._places.remove(place)
        try:
            value = await run_callback(place.handler.terminate, why)
        except Exception as error:
            _log.warning(
                "handler_terminate_failed manager=%s handler=%s, ignoring",
                self._process.pid,
                place.name,
                exc_info=error,
            )
            value = ("EXIT", reason_of(error))
        owner = place.owner
        if owner is not None:
            self._tell(owner, (EVENT_EXIT, place.name, told))
            if owner != self._parent and all(each.owner != owner for each in self._places):
                self._runtime.unlink(self._process, owner)
        return value

    async def _crashed(self, place: _Place, error: Exception) -> object:
        """It raised; the reason for which it goes."""
        reason = error.reason if isinstance(error, Stop | ProcessExit) else reason_of(error)
        _log.warning(
            "handler_crashed manager=%s handler=%s, removing it",
            self._process.pid,
            place.name,
            exc_info=error,
        )
        await self._leave(place, ("error", reason), reason)
        return reason

    async def _end(self) -> None:
        while self._places:
            await self._leave(self._places[0], "stop", "shutdown")

    def _tell(self, owner: Pid, message: object) -> None:
        """As a notice: no full mailbox holds the manager; it is one message for each handler."""
        runtime = self._runtime
        receiver = runtime.target(owner)
        try:
            if not isinstance(receiver, Process):
                runtime.transmit_message(wire.SEND, self._process.pid, receiver, 0, message)
            elif not receiver.exiting:
                runtime.put(receiver, message, self._process)
        except NotSendable:
            _log.warning("handler_end_not_told owner=%s, ignoring", owner)

    def format_status(self) -> dict[str, Any]:
        """What `process_info` shows: the handlers, the newest first."""
        return {
            "handlers": [[str(place.name), place.handler.format_status()] for place in self._places]
        }
