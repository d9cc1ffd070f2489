"""Arguments: whether they are what the annotations of a function say.

Decides what an annotation means for values that came over a border. Everybody's calls are checked,
before the function runs; the first argument that does not fit is named.

| annotation | takes |
|---|---|
| `int` | integers; not True and False |
| `float` | numbers: an integer too, left as it is |
| `bool`, `str`, `bytes`, `None`, `datetime`, `UUID` | just these |
| `list`, `list[T]`, `tuple`, `tuple[T, ...]`, `tuple[T, U]` | lists and tuples: JSON has one kind |
| `dict`, `dict[K, V]`, a TypedDict (keys are not checked) | dicts |
| `T \\| U`, `Literal[...]`, a NewType | what they say |
| `Annotated[T, Range(1, 5), Length(1, 64)]` | T within limits; other metadata means nothing |
| anything else | everything |

Rules
- Compiled once, at load; what cannot be meant (a Range of texts) does not load. Most arguments then
  cost one look into a set of classes: decoded values have exactly the classes of the table.
- Nothing is converted: a function gets what was sent, or is not called.
- What is told has the argument's name and place, and of its value some characters at most.

Rejected: pydantic and msgspec (a library in every worker; conversion by default); annotated-types
(its own names for two classes); checks as generated source (0.2 us less, and unreadable).
"""

from __future__ import annotations

import collections.abc
import datetime
import inspect
import types
import typing
import uuid
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, TypeAlias

from drupelet.mission import Length, Range

SHOWN_CHARS_MAX: Final = 40

_Found: TypeAlias = tuple[str, str] | None  # where in the argument, and what is wrong there
_Rest: TypeAlias = Callable[[object], _Found]

_NUMBERS: Final = frozenset({int, float})
_ARRAYS: Final = frozenset({list, tuple})
_SIZED: Final = frozenset({str, bytes, list, tuple, dict})
_KINDS: Final[dict[object, frozenset[type]]] = {
    int: frozenset({int}),
    float: _NUMBERS,
    bool: frozenset({bool}),
    str: frozenset({str}),
    bytes: frozenset({bytes}),
    None: frozenset({type(None)}),
    type(None): frozenset({type(None)}),
    list: _ARRAYS,
    tuple: _ARRAYS,
    typing.List: _ARRAYS,  # noqa: UP006
    typing.Tuple: _ARRAYS,  # noqa: UP006
    dict: frozenset({dict}),
    typing.Dict: frozenset({dict}),  # noqa: UP006
    datetime.datetime: frozenset({datetime.datetime}),
    uuid.UUID: frozenset({uuid.UUID}),
}
_MAPS: Final = (dict, collections.abc.Mapping, collections.abc.MutableMapping)


class Check(NamedTuple):
    """What one argument may be: its class, and what else. `kinds` None: any class."""

    kinds: frozenset[type] | None = None
    rest: _Rest | None = None
    name: str = ""
    text: str = ""

    def find(self, value: object) -> _Found:
        """What is wrong with the value."""
        if self.kinds is not None and value.__class__ not in self.kinds:
            return "", f"{_show(value)} is no {self.text}"
        return self.rest(value) if self.rest is not None else None


_ANYTHING: Final = Check()


class BadAnnotation(Exception):
    """It cannot be meant; the text says why."""


def compile_checks(hints: Sequence[tuple[str, object]]) -> tuple[Check, ...]:
    """A check for each (name, annotation) in their order; () when there is nothing to check.

    Raises: `BadAnnotation`.
    """
    checks = [_compile(hint)._replace(name=name) for name, hint in hints]
    while checks and checks[-1].kinds is None and checks[-1].rest is None:
        checks.pop()
    return tuple(checks)


def complaint(name: str, checks: tuple[Check, ...], args: Sequence[object]) -> str:
    """``boil(litres): 7 is more than 5``, or "" when all arguments fit. The hot path of a call."""
    for value, (kinds, rest, argument, text) in zip(args, checks, strict=False):
        if kinds is not None and value.__class__ not in kinds:
            return f"{name}({argument}): {_show(value)} is no {text}"
        if rest is not None:
            found = rest(value)
            if found is not None:
                return f"{name}({argument}{found[0]}): {found[1]}"
    return ""


# -- compiling


def _compile(hint: object) -> Check:
    text = _text(hint)
    try:
        kinds = _KINDS.get(hint)
    except TypeError:  # unhashable, so no type
        kinds = None
    if kinds is not None:
        return Check(kinds, text=text)
    if isinstance(hint, typing.NewType):
        return _compile(hint.__supertype__)
    if typing.is_typeddict(hint):
        return Check(_KINDS[dict], text=text)
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _limited(_compile(inner[0]), inner[1:])
    if origin is typing.Literal:
        return _literal(inner, text)
    if origin in (typing.Union, types.UnionType):
        return _union([_compile(each) for each in inner], text)
    if origin is list:
        return Check(_ARRAYS, _items(_compile(inner[0])), text=text)
    if origin is tuple:
        if len(inner) == 2 and inner[1] is Ellipsis:
            return Check(_ARRAYS, _items(_compile(inner[0])), text=text)
        return Check(_ARRAYS, _places([_compile(each) for each in inner]), text=text)
    if origin in _MAPS:
        return Check(_KINDS[dict], _entries(*(_compile(each) for each in inner)), text=text)
    return _ANYTHING


def _items(check: Check) -> _Rest | None:
    """For each item of a list."""
    kinds, rest = check.kinds, check.rest
    if kinds is None and rest is None:
        return None

    def items(value: object) -> _Found:
        assert isinstance(value, list | tuple)
        if kinds is not None and rest is None and kinds.issuperset(map(type, value)):
            return None
        for place, item in enumerate(value):
            found = check.find(item)
            if found is not None:
                return f"[{place}]{found[0]}", found[1]
        return None

    return items


def _places(checks: list[Check]) -> _Rest:
    """For a tuple of so many items."""

    def places(value: object) -> _Found:
        assert isinstance(value, list | tuple)
        if len(value) != len(checks):
            return "", f"{len(value)} items, and it has {len(checks)}"
        for place, (check, item) in enumerate(zip(checks, value, strict=True)):
            found = check.find(item)
            if found is not None:
                return f"[{place}]{found[0]}", found[1]
        return None

    return places


def _entries(keys: Check, values: Check) -> _Rest | None:
    """For the keys and values of a dict."""
    if all(each is None for each in (keys.kinds, keys.rest, values.kinds, values.rest)):
        return None

    def entries(value: object) -> _Found:
        assert isinstance(value, dict)
        for key, item in value.items():
            found = keys.find(key)
            if found is not None:
                return "", f"key {found[1]}"
            found = values.find(item)
            if found is not None:
                return f"[{_show(key)}]{found[0]}", found[1]
        return None

    return entries


def _literal(values: Sequence[object], text: str) -> Check:
    known = frozenset((value.__class__, value) for value in values)  # 1, 1.0 and True are equal
    shown = ", ".join(_show(value) for value in values)

    def literal(value: object) -> _Found:
        if (value.__class__, value) in known:
            return None
        return "", f"{_show(value)} is none of {shown}"

    return Check(frozenset(value.__class__ for value in values), literal, text=text)


def _union(checks: list[Check], text: str) -> Check:
    if any(each.kinds is None and each.rest is None for each in checks):
        return _ANYTHING
    kinds: frozenset[type] = frozenset()
    for each in checks:
        kinds |= each.kinds or frozenset()
    if not any(each.rest for each in checks):
        return Check(kinds, text=text)

    def union(value: object) -> _Found:
        first: _Found = None
        for each in checks:
            if each.kinds is not None and value.__class__ in each.kinds:
                found = each.find(value)
                if found is None:
                    return None
                first = first or found
        return first

    return Check(kinds, union, text=text)


def _limited(check: Check, metadata: Sequence[object]) -> Check:
    """`Range` and `Length` of an `Annotated`, after what the type itself says."""
    rests = [] if check.rest is None else [check.rest]
    for mark in metadata:
        if isinstance(mark, type) and issubclass(mark, Range | Length):
            raise BadAnnotation(f"write what it goes from and to: {mark.__name__}(1, 5)")
        if isinstance(mark, Range):
            if check.kinds is None or not check.kinds & _NUMBERS:
                raise BadAnnotation(f"{mark} is for int and float, not for {check.text or 'any'}")
            rests.append(_range(mark.low, mark.high))
        elif isinstance(mark, Length):
            if check.kinds is None or not check.kinds & _SIZED:
                what = check.text or "any"
                raise BadAnnotation(f"{mark} is for str, bytes, list and dict, not for {what}")
            rests.append(_length(mark.low, mark.high))
    if len(rests) < 2:
        return check._replace(rest=rests[0] if rests else None)

    def limited(value: object) -> _Found:
        for rest in rests:
            found = rest(value)
            if found is not None:
                return found
        return None

    return check._replace(rest=limited)


def _range(low: float, high: float) -> _Rest:
    def within(value: object) -> _Found:
        if value.__class__ not in _NUMBERS or low <= value <= high:  # type: ignore[operator]
            return None
        if value != value:
            return "", "nan is no number"
        if value < low:  # type: ignore[operator]
            return "", f"{_show(value)} is less than {low!r}"
        return "", f"{_show(value)} is more than {high!r}"

    return within


def _length(low: int, high: int) -> _Rest:
    def within(value: object) -> _Found:
        if value.__class__ not in _SIZED:
            return None
        size = len(value)
        if low <= size <= high:
            return None
        noun = {str: "characters", bytes: "bytes"}.get(type(value), "items")
        return "", f"{size} {noun}, {f'at least {low}' if size < low else f'at most {high}'}"

    return within


# -- words


def _text(hint: object) -> str:
    if hint is type(None):
        return "None"
    return inspect.formatannotation(hint).replace("typing.", "")


def _show(value: object) -> str:
    """Some of a value that a stranger chose."""
    if isinstance(value, str | bytes):
        cut = value[:SHOWN_CHARS_MAX]
        return repr(cut) + ("..." if len(cut) < len(value) else "")
    if value is None or isinstance(value, bool | int | float):
        return repr(value)
    return f"a {type(value).__name__}"
