"""Serving: how a behaviour of a mission answers calls from outside.

Decides, for each behaviour, which verbs callers may name, what a call becomes in its mailbox, and
what its answer means. Whatever else a behaviour understands (its callbacks, its states, `stop`,
what supervisors and managers are told to change) has no verb, so no caller reaches it.

| class | verbs | what handles ``(verb, argument...)`` |
|---|---|---|
| GenServer | its public methods | that method |
| GenStatem | methods marked with `@verb` or `@cast` | its state: the event "call" or "cast" |
| GenEvent | methods marked so | `handle_call` or `handle_event` |
| Supervisor | those of `_SupervisorVerbs` | the supervisor |

A marked GenEvent is a manager with that one handler. When the handler ends, so does the manager,
for its supervisor to start both anew: a manager without it would answer nothing.

Reference: OTP's gen_server:call, gen_statem:call, gen_event:call and supervisor's own functions.
Rejected: every state of a GenStatem as a verb (states are how it works, not what it offers); a verb
for starting children (its caller would choose what code runs).
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import trio

from drupelet.errors import ProcessDown, Refused, RemoteError
from drupelet.process import api
from drupelet.process.behaviours import CAST, value_of
from drupelet.process.gen_event import EVENT_EXIT, NOTIFY, GenEvent, name_of
from drupelet.process.gen_server import GenServer, verbs_of
from drupelet.process.gen_statem import GenStatem
from drupelet.process.supervisor import Supervisor
from drupelet.process.verbs import marked_verbs
from drupelet.wire.ids import Pid
from drupelet.wire.notices import Down

Verbs = Mapping[str, Callable[..., object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Face:
    """One class of behaviours, from outside. `verbs`: bound, for their signatures only."""

    what: str
    verbs: Verbs
    start: Callable[[str | None], Awaitable[Pid | None]]  # with that name, linked
    request: Callable[[str, Sequence[object]], object]  # what its process is asked
    message: Callable[[str, Sequence[object]], object]  # what it is told
    value: Callable[[Any], object]  # of its answer. Raises: `CallError`
    by_marks: bool = False  # whether its verbs are those that are marked
    is_supervisor: bool = False
    casts_are_requests: bool = False  # as a request, which can be taken back, one does the same


def face_of(cls: type) -> Face | None:
    """None: it is no behaviour that missions can serve."""
    for base, make in _FACES.items():
        if issubclass(cls, base):
            return make(cls)
    return None


def _asked(verb: str, args: Sequence[object]) -> object:
    return (verb, *args)


def _told(verb: str, args: Sequence[object]) -> object:
    return (CAST, (verb, *args))


def _bound(cls: type, names: Sequence[str]) -> Verbs:
    instance: Any = object.__new__(cls)
    return {name: getattr(instance, name) for name in names}


def _server(cls: type[GenServer]) -> Face:
    return Face(
        what="a GenServer",
        verbs=_bound(cls, list(verbs_of(cls))),
        start=lambda name: cls.start_link(name=name),
        request=_asked,
        message=_told,
        value=value_of,
        casts_are_requests=True,
    )


def _machine(cls: type[GenStatem]) -> Face:
    return Face(
        what="a GenStatem",
        verbs=_bound(cls, marked_verbs(cls)),
        start=lambda name: cls.start_link(name=name),
        request=_asked,
        message=_told,
        value=value_of,
        by_marks=True,
    )


# -- event managers


def _manager(cls: type[GenEvent]) -> Face:
    handler = name_of(cls)
    return Face(
        what="a GenEvent",
        verbs=_bound(cls, marked_verbs(cls)),
        start=lambda name: _start_manager(cls, name),
        request=lambda verb, args: ("call", handler, (verb, *args)),
        message=lambda verb, args: (NOTIFY, (verb, *args)),
        value=_answered,
        by_marks=True,
    )


async def _start_manager(cls: type[GenEvent], name: str | None) -> Pid:
    """A manager with its one handler. Raises: `Refused`, `NameTaken`."""
    manager = await GenEvent.start_link(name=name)
    assert manager is not None
    added = trio.Event()
    failures: list[Exception] = []

    async def keeper() -> None:
        api.monitor(manager)
        try:
            await GenEvent.add_sup_handler(manager, cls)
        except (Refused, ProcessDown) as error:
            failures.append(error)
        finally:
            added.set()
        if not failures:
            ended = await api.receive(_is_end)
            if not isinstance(ended, Down):
                with contextlib.suppress(ProcessDown):
                    await GenEvent.stop(manager, ended[2])

    await api.spawn(keeper)
    await added.wait()
    if failures:
        with contextlib.suppress(ProcessDown):
            await GenEvent.stop(manager, "shutdown")
        raise failures[0]
    return manager


def _is_end(message: object) -> bool:
    """Whether it tells of the end of the handler, or of its manager."""
    if isinstance(message, tuple):
        return len(message) == 3 and message[0] == EVENT_EXIT
    return isinstance(message, Down)


def _answered(answer: Any) -> Any:
    """What a manager or a supervisor answered. Raises: `RemoteError`."""
    match answer:
        case ("ok", value):
            return value
        case ("error", (str(kind), str(message))):
            raise RemoteError(kind, message)
        case ("error", "bad_module"):
            raise RemoteError("process_down", "the handler has ended; it is about to start anew")
        case ("error", reason):
            raise RemoteError("refused", f"{reason!r:.200}")
    raise RemoteError("refused", f"an answer that means nothing: {answer!r:.200}")


# -- supervisors


class _SupervisorVerbs:
    """What callers may ask of a marked supervisor."""

    _WORDS: Final = {
        "which_children": "which",
        "count_children": "count",
        "restart_child": "restart",
        "terminate_child": "terminate",
    }

    def which_children(self) -> list[object]:
        """``(id, pid, type, modules)`` of each."""
        raise NotImplementedError

    def count_children(self) -> dict[str, int]:
        """How many there are."""
        raise NotImplementedError

    def restart_child(self, id: object) -> object:
        """Start one again that was terminated."""
        raise NotImplementedError

    def terminate_child(self, id: object) -> None:
        """End one; it stays known."""
        raise NotImplementedError


def _supervisor(cls: type[Supervisor]) -> Face:
    words = _SupervisorVerbs._WORDS
    return Face(
        what="a Supervisor",
        verbs=_bound(_SupervisorVerbs, list(words)),
        start=lambda name: cls.start_link(name=name),
        request=lambda verb, args: (words[verb], *args),
        message=_told,
        value=_answered,
        is_supervisor=True,
    )


_FACES: Final[dict[type, Callable[[Any], Face]]] = {
    GenServer: _server,
    GenStatem: _machine,
    GenEvent: _manager,
    Supervisor: _supervisor,
}
