"""GenServer: a process that keeps state and answers one request at a time.

    class Counter(GenServer):
        def init(self, first=0):
            self.count = first

        def add(self, number):              # a verb: await GenServer.call(pid, "add", 5)
            self.count += number
            return self.count

        @cast                               # nobody waits: await GenServer.cast(pid, "reset")
        def reset(self):
            self.count = 0

    pid = await Counter.start(10)

Decides what a message means to a server, in which order things happen around it, and how it ends.
A class's public methods are its verbs; plain or async. A request is the tuple ``(verb, *args)`` in
a `Request`, a cast ``("$gen_cast", (verb, *args))``; everything else goes to `handle_info`.

As OTP's gen_server
- One message at a time. `start` waits for `init`; its failure is the starter's: `ProcessDown`;
  `IGNORE` returned by it: no process, and None for the starter.
- What a callback raises ends the server: `terminate(reason)` first, then links and monitors are
  told, and the caller gets ``ProcessDown(reason)``.
- `terminate` runs at a stop, after an exception, and, when exits are trapped, when the parent ends
  or the program does; never after "kill" or an exit signal that is not trapped. It has TERMINATE_S.
- `continue_with` comes before any message, `timeout_after` is given up at the first one.

Unlike OTP's
- A request that is no verb, or has other arguments than the verb, is an answer (`RemoteError`
  "undef", "badarg") and the server lives on: a stranger's typing mistake is no reason to lose
  state. So is `RemoteError` raised by a verb itself: a refusal that has no other consequence. A
  value that is no data: "not_sendable".
- State stands in the instance's fields; nothing is returned for it.
- At each message a server goes over to the newest version of its class (`Runtime.newest`), and
  `code_change(former)` is called: no release handler.

References: OTP's `gen_server.erl` (`handle_common_reply`: terminate comes before the reply of a
stop), `proc_lib.erl` (init_ack, stop), Elixir's GenServer.
Rejected: handle_call clauses as the only way (a table of verbs is what a whitelist needs);
decorators on each verb; answering exceptions and living on (the state may be half changed).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from math import inf
from types import CoroutineType
from typing import Any, Final, NoReturn, cast

import trio

from drupelet.errors import (
    DrupeletError,
    ProcessDown,
    ProcessExit,
    ReceiveTimeout,
    RemoteError,
)
from drupelet.process.api import Caller
from drupelet.process.behaviours import (
    CALL_TIMEOUT_S,
    CAST,
    IGNORE,
    NO_REASON,
    STOP,
    TERMINATE_S,
    Body,
    Startable,
    Started,
    StopName,
    change_class,
    error_value,
    reason_of_end,
    reply_value,
)
from drupelet.process.behaviours import value_of as value_of
from drupelet.process.current import process_var, this_process, this_runtime
from drupelet.process.errands import Errand
from drupelet.process.runtime import Runtime, To
from drupelet.process.status import shown_fields
from drupelet.process.table import Process
from drupelet.process.verbs import (
    Verb,
    bad_arguments,
    check_names,
    find_verbs,
    own_names,
    undefined,
)
from drupelet.wire.ids import Pid
from drupelet.wire.notices import Exit, Request

_log = logging.getLogger("drupelet.process")

TIMEOUT: Final = "timeout"
"""What `handle_info` gets after `timeout_after`; write ``case "timeout":``."""

_NOTHING: Final = object()


class _NoReply:
    def __repr__(self) -> str:
        return "NOREPLY"


NOREPLY: Final = _NoReply()
"""Returned by a verb: the answer comes later, by ``reply(caller, value)``."""


class Stop(DrupeletError):
    """Raised in a callback: the server ends with `reason`; the caller gets `reply`.

    Without `reply` the caller gets ``ProcessDown(reason)``.
    """

    def __init__(self, reason: object = "normal", reply: object = NOREPLY) -> None:
        super().__init__(f"stop: {reason!r:.200}")
        self.reason = reason
        self.reply = reply


class _Step:
    """What a callback asked for; looked at when it returned."""

    __slots__ = ("asked", "continuation", "stop", "timeout_s")

    def __init__(self) -> None:
        self.asked = False
        self.continuation: object = _NOTHING
        self.stop: object = _NOTHING
        self.timeout_s = inf


class GenServer(Startable):
    """Base class of servers; see the top of this file, and BEHAVIOURS.md for each feature.

    *Owns* its process. *Cancellation* of a call: the server finishes the verb, its value is
    dropped.
    """

    caller: Caller | None = None
    """During a call: whom to answer, for `reply` by whoever has the value."""

    __verbs: Mapping[str, Verb] = {}
    __step: _Step

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for base in cls.__mro__[: cls.__mro__.index(GenServer)]:
            check_names(base, _OWN_NAMES)
        cls.__verbs = find_verbs(cls, own=_OWN_NAMES)

    # -- callbacks

    def init(self, *args: Any, **kwargs: Any) -> Any:
        """Set the first state. `start` gives the arguments, and waits until this returns."""

    def handle_info(self, message: Any) -> Any:
        """A message that is no request: of `send`, a timer, `Down`, `Exit`, "timeout"."""
        _unexpected(self, "message", message)

    def handle_continue(self, argument: Any) -> Any:
        """What `continue_with` put off, before the next message."""

    def handle_call(self, request: Any, caller: Caller) -> Any:
        """A request that is no verb. The value is the answer, or `NOREPLY`."""
        raise undefined(type(self).__name__, self.__verbs, request)

    def handle_cast(self, request: Any) -> Any:
        """A cast that is no verb."""
        _unexpected(self, "cast", request)

    def terminate(self, reason: Any) -> Any:
        """The server ends. Within `TERMINATE_S`."""

    def code_change(self, former: type) -> Any:
        """The class of this server was replaced by a newer one; `former` was it before."""

    def format_status(self) -> dict[str, Any]:
        """What `process_info` shows of the state: fields that look like secrets are hidden."""
        own = ("caller", "_GenServer__step")
        return shown_fields({name: each for name, each in vars(self).items() if name not in own})

    # -- for the server itself

    def continue_with(self, argument: object) -> None:
        """Call ``handle_continue(argument)`` after this callback, before any message."""
        step = self.__step
        if step.continuation is not _NOTHING:
            raise RuntimeError("continue_with was called already in this callback")
        step.continuation = argument
        step.asked = True

    def timeout_after(self, seconds: float) -> None:
        """Call ``handle_info("timeout")`` when no message comes for so long."""
        self.__step.timeout_s = seconds
        self.__step.asked = True

    def _stop_self(self, reason: object = "normal") -> None:
        self.__step.stop = reason
        self.__step.asked = True

    stop = StopName()
    """``await GenServer.stop(to, reason="normal", timeout=10)``: end a server, and wait for it.
    ``self.stop(reason)`` in a callback: end after it, when its value was answered."""

    @classmethod
    def _behaviour_body(cls, args: tuple[Any, ...], linked: bool) -> Body:
        async def body(started: Started) -> None:
            process = this_process()
            server = cls()
            server.__step = _Step()
            process.state = server
            await server.__run(process, started, args, process.parent if linked else None)

        return body

    # -- for others

    @staticmethod
    async def call(to: To, verb: str, /, *args: object, timeout: float = CALL_TIMEOUT_S) -> Any:
        """Ask a server and wait for its answer. `to`: a pid, a name, or (name, node).

        Raises: `Timeout`, `ProcessDown` (the server is gone; `reason`), `NoConnection`,
        `RemoteError` ("undef", "badarg", "not_sendable", or the server's own).
        """
        runtime = this_runtime()
        answer = await runtime.ask(process_var.get(None), to, (verb, *args), timeout)
        return answer if answer.__class__ is not tuple else value_of(answer)

    @staticmethod
    async def cast(to: To, verb: str, /, *args: object) -> None:
        """Tell a server something; nobody says whether it arrived. Waits for room in its mailbox.

        Raises: `NotSendable`.
        """
        try:
            await this_runtime().send(process_var.get(None), to, (CAST, (verb, *args)))
        except ProcessDown:
            await trio.lowlevel.checkpoint()

    # -- the process

    async def __run(
        self, process: Process, started: Started, args: tuple[object, ...], parent: Pid | None
    ) -> None:
        runtime = cast(Runtime, process.runtime)
        try:
            value = self.init(*args)
            if value.__class__ is CoroutineType:
                value = await value
        except Stop as stop:
            raise ProcessExit(stop.reason) from None
        if value is IGNORE:
            started(None)
            return
        started()
        try:
            await self.__live(process, runtime, parent)
        except Stop as stop:
            try:
                await self.__terminate(process, stop.reason)
            finally:
                if stop.reply is not NOREPLY and self.caller is not None:
                    reply_value(runtime, process, self.caller, stop.reply)
            raise ProcessExit(stop.reason) from None
        except BaseException as error:
            reason = reason_of_end(process, error)
            if reason is not NO_REASON:
                await self.__terminate(process, reason)
            raise

    async def __live(self, process: Process, runtime: Runtime, parent: Pid | None) -> NoReturn:
        """Message after message; ends by what a callback raises."""
        step = self.__step
        cls: type[GenServer] = type(self)
        verbs = cls.__verbs
        refused: object = None  # newer code that this server cannot go over to
        wait_s = inf
        while True:
            if step.asked:
                wait_s = await self.__do_asked(step)
            try:
                message: Any = await runtime.receive_message(process, None, wait_s)
            except ReceiveTimeout:
                message = TIMEOUT
            kind = message.__class__
            if kind is Errand and message.taken_back:
                continue  # as if it had never come
            wait_s = inf
            newest = runtime.newest(cls)
            if newest is not cls and newest is not refused:
                if not await change_class(self, newest):
                    refused = newest
                cls = type(self)
                verbs = cls.__verbs
            if kind is Request:
                await self.__answer(message, verbs, process, runtime)
            elif kind is Errand:
                if message.begin():
                    wait_s = await self.__carry_out(message, verbs, process, runtime)
            elif kind is tuple and len(message) == 2 and message[0] == CAST:
                await self.__take_cast(message[1], verbs)
            elif kind is Exit and message.pid == parent:
                raise Stop(message.reason)
            else:
                value = self.handle_info(message)
                if value.__class__ is CoroutineType:
                    await value

    async def __answer(
        self, message: Request, verbs: Mapping[str, Verb], process: Process, runtime: Runtime
    ) -> None:
        self.caller = caller = message.caller
        request: Any = message.request
        try:
            verb = None
            if request.__class__ is tuple and request:
                name = request[0]
                if name.__class__ is str:
                    verb = verbs.get(name)
            if verb is None:
                if request.__class__ is tuple and len(request) == 2 and name == STOP:
                    raise Stop(request[1])
                value = self.handle_call(request, caller)
            elif not verb.arity_min <= len(request) - 1 <= verb.arity_max:
                raise bad_arguments(self, verb.name, len(request) - 1)
            elif verb.is_cast:  # taken; that is all that the caller may wait for
                reply_value(runtime, process, caller, None)
                self.caller = None
                await self.__take_cast(request, verbs)
                return
            else:
                value = getattr(self, verb.name)(*request[1:])
            if value.__class__ is CoroutineType:
                value = await value
        except RemoteError as error:
            if error.__class__ is not RemoteError:
                raise  # ProcessDown of another server is a crash
            value = error_value(error)
        if self.__step.stop is not _NOTHING:
            raise Stop(self.__step.stop, value)
        if value is not NOREPLY:
            reply_value(runtime, process, caller, value)
        self.caller = None

    async def __carry_out(
        self, errand: Errand, verbs: Mapping[str, Verb], process: Process, runtime: Runtime
    ) -> float:
        """As `__answer`; over when what the verb put off is done too. As `__do_asked`, seconds."""
        try:
            await self.__answer(errand, verbs, process, runtime)
            return await self.__do_asked(self.__step) if self.__step.asked else inf
        finally:
            errand.end()

    async def __take_cast(self, request: Any, verbs: Mapping[str, Verb]) -> None:
        verb = None
        if request.__class__ is tuple and request and request[0].__class__ is str:
            verb = verbs.get(request[0])
        try:
            if verb is None:
                value = self.handle_cast(request)
            elif not verb.arity_min <= len(request) - 1 <= verb.arity_max:
                raise bad_arguments(self, verb.name, len(request) - 1)
            else:
                value = getattr(self, verb.name)(*request[1:])
            if value.__class__ is CoroutineType:
                await value
        except RemoteError as error:
            if error.__class__ is not RemoteError:
                raise
            _log.warning("cast_refused class=%s, ignoring: %s", type(self).__qualname__, error)

    async def __do_asked(self, step: _Step) -> float:
        """Stop, continue; the seconds after which it is to be a timeout."""
        while step.asked:
            step.asked = False
            if step.stop is not _NOTHING:
                raise Stop(step.stop)
            if step.continuation is not _NOTHING:
                argument, step.continuation = step.continuation, _NOTHING
                value = self.handle_continue(argument)
                if value.__class__ is CoroutineType:
                    await value
        timeout_s, step.timeout_s = step.timeout_s, inf
        return timeout_s

    async def __terminate(self, process: Process, reason: object) -> None:
        if process.exiting:
            return
        with trio.move_on_after(TERMINATE_S, shield=True) as scope:
            value = self.terminate(reason)
            if value.__class__ is CoroutineType:
                await value
        if scope.cancelled_caught:
            _log.warning(
                "terminate_abandoned class=%s took more than %g s, ending without it",
                type(self).__qualname__,
                TERMINATE_S,
            )


_OWN_NAMES: Final = own_names(GenServer)


def verbs_of(cls: type[GenServer]) -> Mapping[str, Verb]:
    """The public methods of a class of servers."""
    return cast(Mapping[str, Verb], cls.__dict__["_GenServer__verbs"])


def _unexpected(server: GenServer, what: str, message: object) -> None:
    """As OTP, which logs it too; never the message itself."""
    _log.warning(
        "unexpected_%s class=%s type=%s, ignoring; define handle_%s",
        what,
        type(server).__qualname__,
        type(message).__name__,
        "cast" if what == "cast" else "info",
    )
