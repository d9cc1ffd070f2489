"""GenStatem: a process that is in one state at a time, and in each takes events otherwise.

    class Door(GenStatem):
        def init(self, code):
            self.code, self.tries = code, 0
            return "locked"                            # the first state

        def locked(self, kind, content):               # a state: a public method of that name
            match kind, content:
                case "call", ("enter", code) if code == self.code:
                    self.reply("welcome")
                    self.state_timeout(10, "lock")
                    return "open"                      # the next state
                case "call", ("enter", _):
                    self.tries += 1
                    self.reply("wrong")
                case "cast", "push":
                    self.postpone()                    # until the state changes

        def open(self, kind, content):
            match kind, content:
                case "state_timeout", "lock":
                    return "locked"

    door = await Door.start("1234")
    await GenStatem.call(door, ("enter", "1234"))

Decides what an event is, what a state function may ask for, and how the machine ends. Kinds are
OTP's: "call", "cast", "info", "internal", "timeout" (an event timeout), "state_timeout",
``("timeout", name)``, and "enter" where `state_enter` is set (its content is the former state).
A state function returns the next state; None or `KEEP_STATE` keeps it, `REPEAT_STATE` enters it
once more. What comes when is decided in event_queue.py.

A class with a method `handle_event` is OTP's handle_event_function: that method gets every event,
``handle_event(kind, content, state)``, and a state is any data.

Unlike OTP's
- State data stands in the instance's fields; actions are calls on `self` instead of a list.
- A call in which the state function does nothing (it answers not, puts off nothing, looks not at
  `self.caller`, and keeps the state) is answered with `RemoteError` "undef", and the machine lives
  on; so is `RemoteError` raised during a call. Other events that no `case` takes are nothing.
- A call has 5 s, as every call.
- At each message a machine goes over to the newest version of its class, as a server does.

`GenFsm` is the name that this had until OTP 19; see `GEN_FSM_HINT`.

References: OTP's `gen_statem` (transition_option(), state_enter(), callback_mode()).
Rejected: a class per state (where would the data be?); lists of actions (a misspelt tuple is
silence, or a crash as in OTP); crashing for an event that no case takes (a stranger's typing
mistake is no reason to lose state); send_event and sync_send_event of gen_fsm (two names for each
verb, and its timeouts and states behaved differently: a face of it would be a lie).
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Awaitable
from math import inf
from typing import Any, ClassVar, Final, NoReturn, cast

from drupelet.errors import ProcessExit, RemoteError
from drupelet.process.api import Caller
from drupelet.process.behaviours import (
    CALL_TIMEOUT_S,
    CAST,
    IGNORE,
    NO_REASON,
    Body,
    Startable,
    Started,
    StopName,
    call,
    cast_to,
    change_class,
    error_value,
    reason_of_end,
    reply_value,
    run_callback,
    run_terminate,
    stop_reason,
    value_of,
)
from drupelet.process.current import this_process
from drupelet.process.data import copy_data
from drupelet.process.errands import Errand
from drupelet.process.event_queue import (
    CALL,
    EVENT_TIMEOUT,
    STATE_TIMEOUT,
    Due,
    Event,
    EventQueue,
    Kind,
    Step,
    check_seconds,
)
from drupelet.process.gen_server import NOREPLY, Stop
from drupelet.process.runtime import Runtime, To
from drupelet.process.status import shown_fields
from drupelet.process.table import Process
from drupelet.process.verbs import check_marked, check_names, find_verbs, marked_verbs, own_names
from drupelet.wire.notices import Exit, Request

ENTER: Final = "enter"
INTERNAL: Final = "internal"
_INFO: Final = "info"
_INSERTABLE: Final = frozenset({"cast", _INFO, INTERNAL, EVENT_TIMEOUT, STATE_TIMEOUT})
_NOTHING: Final = object()

GEN_FSM_HINT: Final = (
    "gen_fsm became gen_statem in OTP 19, and GenFsm is GenStatem: send_event is cast, "
    "sync_send_event is call, send_all_state_event is a case that each state has, StateName/2 and "
    "StateName/3 are one method of that name"
)


class _Word:
    def __init__(self, word: str) -> None:
        self._word = word

    def __repr__(self) -> str:
        return self._word


KEEP_STATE: Final = _Word("KEEP_STATE")
"""Returned by a state function: the state stays. So does None."""
REPEAT_STATE: Final = _Word("REPEAT_STATE")
"""Returned by a state function: the state stays, and is entered once more."""


class GenStatem(Startable):
    """Base class of state machines; see the top of this file, and BEHAVIOURS.md.

    *Owns* its process. *Cancellation* of a call: the machine finishes the event, its answer is
    dropped.
    """

    state_enter: ClassVar[bool] = False
    """Whether a state is called with "enter" and the former state before its first event."""

    __states: ClassVar[frozenset[str]] = frozenset()
    __one_function: ClassVar[bool] = False
    __queue: EventQueue
    __process: Process
    __state: Any
    __step: Step
    __event: Event | None
    __stop: object

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for base in cls.__mro__[: cls.__mro__.index(GenStatem)]:
            check_names(base, _OWN_NAMES, base="GenStatem", what="state")
        check_marked(cls)
        methods = find_verbs(cls, own=_OWN_NAMES | {"handle_event"})
        cls.__states = frozenset(methods).difference(marked_verbs(cls))
        cls.__one_function = cls.handle_event is not GenStatem.handle_event

    # -- callbacks

    def init(self, *args: Any) -> Any:
        """The first state, or `IGNORE`. `start` gives the arguments, and waits for this."""
        raise NotImplementedError

    def handle_event(self, kind: Kind, content: Any, state: Any) -> Any:
        """Every event, in a class that defines this."""
        raise NotImplementedError

    def terminate(self, reason: Any) -> Any:
        """The machine ends. Within `TERMINATE_S`."""

    def code_change(self, former: type) -> Any:
        """The class of this machine was replaced by a newer one; `former` was it before."""

    def format_status(self) -> dict[str, Any]:
        """What `process_info` shows: fields that look like secrets are hidden."""
        own = "_GenStatem__"
        data = {name: each for name, each in vars(self).items() if not name.startswith(own)}
        return {
            "state": getattr(self, "_GenStatem__state", None),
            "data": shown_fields(data),
            "postponed": self.__queue.postponed_count,
        }

    # -- for the machine itself

    @property
    def state(self) -> Any:
        """The state that the machine is in."""
        return self.__state

    @property
    def caller(self) -> Caller:
        """Whom a call is to be answered: keep it for later, for `reply(caller, value)`.

        Raises: `RuntimeError` outside of a call.
        """
        event = self.__event
        if event is None or event.caller is None:
            raise RuntimeError("nobody asked: this event is no call")
        self.__step.taken = True
        return event.caller

    def reply(self, value: object, caller: Caller | None = None) -> None:
        """Answer this call, or an earlier one whose `caller` was kept."""
        runtime = cast(Runtime, self.__process.runtime)
        reply_value(runtime, self.__process, caller or self.caller, value)

    def postpone(self) -> None:
        """Put this event off: it comes again when the state has changed."""
        self.__no_entering("postpone")
        self.__step.postponed = True

    def next_event(self, kind: Kind, content: object, caller: Caller | None = None) -> None:
        """An event that comes next, before all that wait; several come in their order.

        `caller`: of a "call" that is handed on. Raises: `ValueError` for another kind.
        """
        self.__no_entering("next_event")
        if (kind == CALL) != (caller is not None) or (
            kind != CALL and kind not in _INSERTABLE and not _is_generic(kind)
        ):
            raise ValueError(f"next_event({kind!r}, ...): use 'internal', or a kind of event")
        self.__step.taken |= kind == CALL
        self.__step.inserted.append(Event(kind, content, caller))

    def event_timeout(self, seconds: float, content: object = None) -> None:
        """The event "timeout" when no other event comes for so long; `inf`: not any more."""
        self.__set(EVENT_TIMEOUT, seconds, content)

    def state_timeout(self, seconds: float, content: object = None) -> None:
        """The event "state_timeout" after so long in the state that is then; `inf`: not any more.

        It is the next state's when this event changes the state, and ends with that.
        """
        self.__set(STATE_TIMEOUT, seconds, content)

    def generic_timeout(self, name: object, seconds: float, content: object = None) -> None:
        """The event ``("timeout", name)`` after so long, whatever happens until then."""
        self.__set(_generic(name), seconds, content)

    def cancel_timeout(self, kind: Kind) -> None:
        """ "timeout", "state_timeout" or ``("timeout", name)`` does not come any more."""
        _check_timeout(kind)
        self.__step.timeouts.append(lambda queue: queue.cancel(kind))

    def update_timeout(self, kind: Kind, content: object) -> None:
        """Another content for a timeout that runs; at once when it does not run, as in OTP."""
        _check_timeout(kind)
        self.__step.timeouts.append(lambda queue: queue.update(kind, content))

    def __set(self, kind: Kind, seconds: float, content: object) -> None:
        check_seconds(seconds)
        self.__step.timeouts.append(lambda queue: queue.set(kind, seconds, content))

    def __no_entering(self, what: str) -> None:
        if self.__event is None or self.__event.kind == ENTER:
            raise RuntimeError(f"{what} is for an event; here is none (init, or an enter call)")

    def _stop_self(self, reason: object = "normal") -> None:
        self.__stop = reason

    stop = StopName()
    """``await GenStatem.stop(to, reason="normal", timeout=10)``: end a machine, and wait for it.
    ``self.stop(reason)`` in a state function: end after it."""

    # -- for others

    @staticmethod
    async def call(to: To, request: object, *, timeout: float = CALL_TIMEOUT_S) -> Any:
        """Ask a machine and wait for its answer. `to`: a pid, a name, or (name, node).

        Raises: `Timeout`, `ProcessDown` (the machine is gone; `reason`), `NoConnection`,
        `RemoteError` ("undef": no such call in this state; "not_sendable"; the machine's own).
        """
        return value_of(await call(to, request, timeout=timeout))

    @staticmethod
    async def cast(to: To, message: object) -> None:
        """Tell a machine something; nobody says whether it arrived. Raises: `NotSendable`."""
        await cast_to(to, message)

    # -- the process

    @classmethod
    def _behaviour_body(cls, args: tuple[Any, ...], linked: bool) -> Body:
        async def body(started: Started) -> None:
            process = this_process()
            machine = cls()
            machine.__process = process
            machine.__queue = EventQueue(process, machine.__refuse_full)
            machine.__state = machine.__event = None
            machine.__stop = _NOTHING
            machine.__step = Step()
            process.state = machine
            try:
                await machine.__run(started, args, process.parent if linked else None)
            finally:
                machine.__queue.cancel_all()

        return body

    async def __run(self, started: Started, args: tuple[Any, ...], parent: object) -> None:
        try:
            state = await run_callback(self.init, *args)
        except Stop as stop:
            raise ProcessExit(stop.reason) from None
        if state is IGNORE:
            started(None)
            return
        self.__state = self.__checked(state)
        started()
        try:
            await self.__begin()
            await self.__live(parent)
        except Stop as stop:
            event = self.__event
            if stop.reply is not NOREPLY and event is not None and event.caller is not None:
                self.reply(stop.reply)
            await run_terminate(self.__process, self.terminate, stop.reason)
            raise ProcessExit(stop.reason) from None
        except BaseException as error:
            reason = reason_of_end(self.__process, error)
            if reason is not NO_REASON:
                await run_terminate(self.__process, self.terminate, reason)
            raise

    async def __begin(self) -> None:
        """The first state is entered, as from itself."""
        self.__check_stop()
        if self.state_enter:
            await self.__enter(self.__state)
        self.__queue.finish(None, self.__step, changed=False)

    async def __live(self, parent: object) -> NoReturn:
        process, queue = self.__process, self.__queue
        runtime = cast(Runtime, process.runtime)
        refused: object = None  # newer code that this machine cannot go over to
        while True:
            event = queue.take()
            if event is not None:
                await runtime.breathe(process)
            else:
                message: Any = await runtime.receive_message(process, None, inf)
                newest = runtime.newest(type(self))
                is_other = newest is not type(self) and newest is not refused
                if is_other and not await change_class(self, newest):
                    refused = newest
                event = self.__event_of(message, parent)
                if event is None:
                    continue
            await self.__handle(event)

    def __event_of(self, message: Any, parent: object) -> Event | None:
        match message:
            case Request(caller, request):
                reason = stop_reason(request)
                if reason is not NO_REASON:
                    raise Stop(reason)
                return Event(CALL, request, caller, message if type(message) is Errand else None)
            case (str(word), content) if word == CAST and type(message) is tuple:
                return Event("cast", content)
            case Due():
                return self.__queue.take_due(message)
            case Exit(pid, reason) if pid == parent:
                raise Stop(reason)
        return Event(_INFO, message)

    async def __handle(self, event: Event) -> None:
        self.__event = event
        self.__step = step = Step()
        errand = event.errand
        if errand is None:
            await self.__carry_out(event, step)
        elif errand.begin():
            try:
                await self.__carry_out(event, step)
            finally:
                if self.__step.postponed:
                    errand.wait_again()
                else:
                    errand.end()
        self.__event = None

    async def __carry_out(self, event: Event, step: Step) -> None:
        try:
            result = await self.__call_state(event.kind, event.content)
        except RemoteError as error:
            if error.__class__ is not RemoteError or event.caller is None:
                raise  # ProcessDown of another process is a crash
            self.reply(error_value(error), event.caller)
            self.__step = step = Step()  # what it asked for before it raised does not count
            result = KEEP_STATE
        self.__check_stop()
        changed = await self.__go(event, result)
        self.__queue.finish(event, step, changed)

    async def __go(self, event: Event, result: Any) -> bool:
        """To the next state; whether it is another one."""
        if result is None and event.caller is not None and self.__step.empty:
            self.reply(error_value(self.__undefined(event)), event.caller)
        if result is None or result is KEEP_STATE:
            return False
        former = self.__state
        if result is REPEAT_STATE:
            if self.state_enter:
                await self.__enter(former)
            return False
        state = self.__checked(result)
        if _same(state, former):
            return False
        self.__state = state
        if self.state_enter:
            await self.__enter(former)
        return True

    async def __enter(self, former: Any) -> None:
        event = self.__event
        while True:
            self.__event = Event(ENTER, former, event.caller if event is not None else None)
            result = await self.__call_state(ENTER, former)
            self.__check_stop()
            former = self.__state
            if result is not REPEAT_STATE:
                break
        if result is not None and result is not KEEP_STATE and not _same(result, self.__state):
            raise RuntimeError(f"an enter call cannot change the state, to {result!r:.100}")
        self.__event = event

    def __call_state(self, kind: Kind, content: Any) -> Awaitable[Any]:
        if self.__one_function:
            return run_callback(self.handle_event, kind, content, self.__state)
        return run_callback(getattr(self, self.__state), kind, content)

    def __checked(self, state: Any) -> Any:
        """Raises: `ValueError` for what is no state of this machine."""
        if self.__one_function:
            return copy_data(state)
        if isinstance(state, str) and state in self.__states:
            return state
        near = difflib.get_close_matches(str(state)[:80], self.__states, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"its states: {sorted(self.__states)}"
        raise ValueError(f"{type(self).__name__} has no state {state!r:.80}; {hint}")

    def __undefined(self, event: Event) -> RemoteError:
        text = f"{type(self).__name__} takes no such call in state {self.__state!r:.80}"
        return RemoteError("undef", text)

    def __refuse_full(self, caller: Caller) -> None:
        error = RemoteError("overloaded", f"{type(self).__name__} put off too many events already")
        self.reply(error_value(error), caller)

    def __check_stop(self) -> None:
        if self.__stop is not _NOTHING:
            raise Stop(self.__stop)


_OWN_NAMES: Final = own_names(GenStatem) - {"handle_event", "state_enter"}


def _same(one: object, other: object) -> bool:
    return type(one) is type(other) and one == other


def _generic(name: object) -> tuple[str, Any]:
    hash(name)
    return (EVENT_TIMEOUT, name)


def _is_generic(kind: object) -> bool:
    return type(kind) is tuple and len(kind) == 2 and kind[0] == EVENT_TIMEOUT


def _check_timeout(kind: Kind) -> None:
    if kind not in (EVENT_TIMEOUT, STATE_TIMEOUT) and not _is_generic(kind):
        raise ValueError(
            f"{kind!r:.100} is no timeout; use 'timeout', 'state_timeout' or ('timeout', name)"
        )


def __getattr__(name: str) -> object:
    if name == "GenFsm":
        warnings.warn(GEN_FSM_HINT, DeprecationWarning, stacklevel=3)
        return GenStatem
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
