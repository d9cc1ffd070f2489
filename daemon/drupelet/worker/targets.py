"""Targets: what a call runs, with everything about it that can be known before the call.

Decides how a function is run (inline, as a task, in a thread), how many arguments it takes, how its
signature is shown, and which signatures a mission may not have. What each argument may be:
arguments.py.

Rules: computed once per export at load; a call then costs two comparisons. Every problem of a
signature is reported, not the first.
"""

from __future__ import annotations

import collections.abc
import datetime
import inspect
import types
import typing
import uuid
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final, NoReturn

from drupelet.errors import RemoteError
from drupelet.mission import THREAD
from drupelet.wire.messages.workers import SIGNATURE_CHARS_MAX
from drupelet.worker.arguments import BadAnnotation, Check, compile_checks

if TYPE_CHECKING:
    from drupelet.worker.servers import Slot

INLINE: Final = 0
TASK: Final = 1
IN_THREAD: Final = 2

_ANY_COUNT: Final = 1 << 30

_PLAIN: Final = frozenset(
    {
        None, type(None), bool, int, float, str, bytes, list, tuple, dict, object,
        datetime.datetime, uuid.UUID, typing.Any, typing.NoReturn, typing.Never,
        typing.List, typing.Tuple, typing.Dict, typing.Optional,  # noqa: UP006
    }
)  # fmt: skip
_CONTAINERS: Final = frozenset(
    {
        list, tuple, dict, typing.Union, types.UnionType, typing.Annotated,
        collections.abc.Mapping, collections.abc.MutableMapping, collections.abc.Sequence,
        collections.abc.MutableSequence, collections.abc.Iterable, collections.abc.Collection,
    }
)  # fmt: skip
_DEPTH_MAX: Final = 16  # as deep as a value may be


class Target:
    """One export, ready to run."""

    __slots__ = (
        "arity_max", "arity_min", "checks", "function", "how", "is_cast", "name", "once", "owner",
        "server", "shown", "slot", "stop",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        function: Callable[..., object],
        *,
        where: str = "inline",
        is_cast: bool = False,
        owner: object = None,
        server: str = "",
        checks: tuple[Check, ...] = (),
        once: bool = False,
    ) -> None:
        self.name = name
        self.once = once  # only with an idempotency key: the daemon sees to it
        self.checks = checks  # of the arguments
        self.function = function
        self.is_cast = is_cast
        self.owner = owner  # the class instance whose state it changes: one thread at a time
        self.server = server  # the GenServer that answers (servers.py); "": none
        self.slot: Slot | None = None
        self.stop: Callable[[], None] | None = None  # its call was cancelled (many.py)
        if server or inspect.iscoroutinefunction(function):
            self.how = TASK
        else:
            self.how = IN_THREAD if where == THREAD else INLINE
        signature = inspect.signature(function)
        self.arity_min, self.arity_max = _arity(signature)
        self.shown = show_signature(name, signature)
        if server:
            self.function = _not_started

    @property
    def verb(self) -> str:
        """What a server is asked for: ``heat`` of ``Oven.heat``."""
        return self.name.rpartition(".")[2]


def _not_started(*_: object) -> NoReturn:
    raise RemoteError("mission_backoff", "the server is not started yet; try again")


def _arity(signature: inspect.Signature) -> tuple[int, int]:
    low = high = 0
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            high = _ANY_COUNT
        elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            high += 1
            low += parameter.default is parameter.empty
    return low, high


def show_signature(name: str, signature: inspect.Signature) -> str:
    """``boil(litres: float, lid: bool = True) -> str``, at most SIGNATURE_CHARS_MAX characters."""
    parts = []
    for parameter in signature.parameters.values():
        text = parameter.name
        if parameter.annotation is not parameter.empty:
            text += f": {_show_annotation(parameter.annotation)}"
        if parameter.default is not parameter.empty:
            text += f" = {_show_value(parameter.default)}"
        parts.append(text)
    shown = f"{name}({', '.join(parts)})"
    if signature.return_annotation is not signature.empty:
        shown += f" -> {_show_annotation(signature.return_annotation)}"
    if len(shown) > SIGNATURE_CHARS_MAX:
        shown = shown[: SIGNATURE_CHARS_MAX - 3] + "..."
    return shown


def _show_annotation(annotation: object) -> str:
    if isinstance(annotation, str):
        return annotation
    return inspect.formatannotation(annotation)


def _show_value(value: object) -> str:
    try:
        return repr(value)
    except Exception:  # anybody's __repr__
        return "..."


def signature_problems(name: str, function: Callable[..., object]) -> Iterator[str]:
    """What keeps this function's signature from being callable from another node."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        yield f"{name} has no signature that Python knows; wrap it in a plain function"
        return
    if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
        yield f"{name} is a generator; return a list"
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            yield f"{name} takes *{parameter.name}; name each argument, or take one list"
        elif parameter.kind is parameter.VAR_KEYWORD:
            yield f"{name} takes **{parameter.name}; take one dict"
        elif parameter.kind is parameter.KEYWORD_ONLY:
            yield f"{name} takes {parameter.name} by keyword only; arguments travel by position"
        if parameter.annotation is not parameter.empty:
            what = _annotation_problem(parameter.annotation, function)
            if what:
                yield f"{name}: argument {parameter.name}: {what}"
    if signature.return_annotation is not signature.empty:
        what = _annotation_problem(signature.return_annotation, function)
        if what:
            yield f"{name}: return value: {what}"


def argument_checks(function: Callable[..., object]) -> tuple[Check, ...]:
    """What its arguments may be, for `arguments.complaint`; of a function without problems."""
    return compile_checks(
        [
            (parameter.name, _resolve(parameter.annotation, function))
            for parameter in inspect.signature(function).parameters.values()
        ]
    )


def _annotation_problem(annotation: object, function: Callable[..., object]) -> str:
    try:
        hint = _resolve(annotation, function)
    except Exception as error:  # whatever it evaluates to
        return f"{annotation!r} is not a type ({type(error).__name__}: {error}); import it"
    wrong = _not_data(hint)
    if wrong:
        return f"{wrong}; use types that are data: int, str, list, dict..."
    try:
        compile_checks([("", hint)])
    except BadAnnotation as bad:
        return str(bad)
    return ""


def _resolve(annotation: object, function: Callable[..., object]) -> object:
    """The annotation itself, where it was written as a text."""
    if not isinstance(annotation, str):
        return annotation
    plain = inspect.unwrap(function)
    names = getattr(plain, "__globals__", None) or getattr(
        getattr(plain, "__func__", None), "__globals__", {}
    )
    return eval(annotation, dict(names))  # the author's own text


def _not_data(hint: object, depth: int = 0) -> str:
    """What in `hint` cannot cross a node border, or ""."""
    if depth > _DEPTH_MAX:
        return "nested too deep"
    try:
        if hint in _PLAIN:
            return ""
    except TypeError:  # unhashable, so no type
        return f"{_show_value(hint)} is not a type"
    if isinstance(hint, str | typing.ForwardRef | typing.TypeVar) or typing.is_typeddict(hint):
        return ""
    if isinstance(hint, typing.NewType):
        return _not_data(hint.__supertype__, depth + 1)
    origin = typing.get_origin(hint)
    if origin is typing.Literal or hint in _CONTAINERS:
        return ""
    if origin in _CONTAINERS:
        inner = typing.get_args(hint)
        if origin is typing.Annotated:
            inner = inner[:1]
        for item in inner:
            wrong = "" if item is Ellipsis else _not_data(item, depth + 1)
            if wrong:
                return wrong
        return ""
    if getattr(hint, "__module__", "").startswith("drupelet."):
        return ""  # Pid, Ref
    if isinstance(hint, type) or origin is not None:
        return f"{inspect.formatannotation(hint)} is not data and cannot cross a node border"
    return f"{_show_value(hint)} is not a type"
