"""Verbs: which methods of a server's class a request reaches.

Decides it once, when the class is defined: every public method is a verb, callbacks and the names
of the base class are not, and a class that would hide one of those does not come into being. Each
verb's number of arguments is known, so that a wrong call is an answer and not a crash.

Rejected: a look-up by getattr at each request (`__class__`, `terminate`... would be reachable).
"""

from __future__ import annotations

import difflib
import dis
import inspect
from collections.abc import Callable, Mapping
from types import FunctionType, MethodType
from typing import Final, NamedTuple

from drupelet.errors import RemoteError

CALLBACKS: Final = frozenset(
    {
        "init", "handle_info", "handle_continue", "handle_call", "handle_cast", "terminate",
        "code_change", "format_status",
    }
)  # fmt: skip
_IS_CAST: Final = "__drupelet_cast__"  # the mark of drupelet.mission.cast
_IS_VERB: Final = "__drupelet_verb__"  # and of drupelet.mission.verb
_NO_WORK: Final = frozenset(
    {"RESUME", "NOP", "LOAD_CONST", "RETURN_VALUE", "RETURN_CONST", "POP_TOP", "CACHE"}
)
_ANY_COUNT: Final = 1 << 30
_NAME_CHARS_MAX: Final = 80


class Verb(NamedTuple):
    """One public method, as requests reach it; `self` is not counted."""

    name: str
    is_cast: bool
    arity_min: int
    arity_max: int


def own_names(base: type) -> frozenset[str]:
    """The public names of a base class that its subclasses may not take for verbs."""
    names = [name for each in base.__mro__[:-1] for name in vars(each)]
    return frozenset(name for name in names if not name.startswith("_")) - CALLBACKS


def check_names(
    cls: type, own: frozenset[str], *, base: str = "GenServer", what: str = "verb"
) -> None:
    """Raises: `TypeError` for a class that hides a name of its base."""
    for name in sorted(own.intersection(vars(cls))):
        raise TypeError(
            f"{cls.__name__}.{name}: every {base} has {name!r} already; give the {what} another "
            "name"
        )


def find_verbs(cls: type, *, own: frozenset[str]) -> dict[str, Verb]:
    """The verbs of a class, with what it inherits; by name.

    Raises: `TypeError` for a method without `self`, and an ``__init__`` that wants arguments.
    """
    if _arity(cls.__init__)[0] > 1:  # type: ignore[misc]
        raise TypeError(
            f"{cls.__name__}: what `start` is given goes to `init(self, ...)`; write that, and not "
            "`__init__`"
        )
    verbs = {}
    for name, member in inspect.getmembers_static(cls):
        if name.startswith("_") or name in own:
            continue
        if isinstance(member, staticmethod | classmethod):
            function: Callable[..., object] = member.__func__
        elif isinstance(member, FunctionType):
            function = member
        else:
            continue
        low, high = _arity(function)
        bound = 0 if isinstance(member, staticmethod) else 1
        if high < bound:
            raise TypeError(f"{cls.__name__}.{name}: write `def {name}(self)`")
        if name in CALLBACKS:
            continue
        is_cast = getattr(function, _IS_CAST, False) is True
        verbs[name] = Verb(name, is_cast, max(low - bound, 0), max(high - bound, 0))
    return verbs


def is_marked(member: object) -> bool:
    """Whether a method is marked as a verb: what callers may name, of a class whose other public
    methods are states or handlers."""
    return getattr(member, _IS_VERB, False) is True or getattr(member, _IS_CAST, False) is True


def marked_verbs(cls: type) -> list[str]:
    """The names of the marked methods of a class, with what it inherits."""
    return [
        name
        for name, member in inspect.getmembers_static(cls)
        if isinstance(member, FunctionType) and is_marked(member)
    ]


def check_marked(cls: type) -> None:
    """Raises: `TypeError` for a marked method that would do something: it is never run."""
    for name in marked_verbs(cls):
        function = inspect.getattr_static(cls, name)
        if name in CALLBACKS or name.startswith("_"):
            raise TypeError(f"{cls.__name__}.{name} cannot be a verb; give it another name")
        if any(each.opname not in _NO_WORK for each in dis.get_instructions(function)):
            raise TypeError(
                f"{cls.__name__}.{name}: a verb has no body, only `...`; what it does stands where "
                f"the event ({name!r}, ...) is handled"
            )


def _arity(function: Callable[..., object]) -> tuple[int, int]:
    low = high = 0
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            high = _ANY_COUNT
        elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            high += 1
            low += parameter.default is parameter.empty
    return low, high


def undefined(cls: str, verbs: Mapping[str, Verb], request: object) -> RemoteError:
    """The answer to a request that is no verb."""
    known = ", ".join(verbs) or "none"
    match request:
        case (str(name), *_) if isinstance(request, tuple):
            near = difflib.get_close_matches(name[:_NAME_CHARS_MAX], verbs, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"its verbs: {known}"
            return RemoteError("undef", f"{cls} has no verb {name[:_NAME_CHARS_MAX]!r}; {hint}")
    return RemoteError("undef", f"{cls} answers nothing but its verbs: {known}")


def bad_arguments(server: object, name: str, given: int) -> RemoteError:
    """The answer to a request with so many arguments, which the verb does not take."""
    method = getattr(server, name)
    shown = f"{type(server).__name__}.{name}{inspect.signature(method)}"
    told = f"{shown}: {given} argument{'s' if given != 1 else ''} given"
    if isinstance(method, MethodType) and method.__self__ is server:
        first = next(iter(inspect.signature(method.__func__).parameters))
        if first != "self":
            told += f"; `{first}` stands where `self` should"
    return RemoteError("badarg", told)
