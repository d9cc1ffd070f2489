"""Functions served inside the daemon: one call, or many calls that travel as one.

Decides how a function's outcome becomes a value or a `CallError`; who may call it was decided
before (`services/calls.py`). The shape of many calls is in `wire/frames.py`.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Sequence
from typing import cast

from drupelet.errors import (
    CallError,
    NotSendable,
    RemoteError,
    RemoteProtocolError,
    error_from_fields,
    error_to_fields,
)
from drupelet.services.missions import Export
from drupelet.wire.codec import dumps, loads
from drupelet.wire.limits import MANY_CALLS_MAX


async def run_inline(export: Export, args: list[object]) -> bytes:
    assert export.inline is not None
    try:
        value = export.inline(*args)
        if inspect.iscoroutine(value):
            value = await value
        return dumps(value)
    except CallError:
        raise
    except Exception as error:  # the function's, told to its caller
        raise as_call_error(export, error) from error


def run_many(export: Export, args: list[object]) -> object:
    """The value of many calls, or a coroutine for it when the function is asynchronous."""
    if len(args) > MANY_CALLS_MAX or any(each.__class__ is not list for each in args):
        raise RemoteProtocolError("not an array of argument arrays")
    assert export.inline is not None
    if inspect.iscoroutinefunction(export.inline):
        return run_many_in_turn(export, args)
    values: list[object] = []
    errors: dict[int, list[object]] = {}
    function = export.inline
    for index, each in enumerate(args):
        try:
            values.append(function(*each))  # type: ignore[misc]
        except Exception as error:  # the function's, told to its caller
            values.append(None)
            errors[index] = error_to_fields(as_call_error(export, error))
    return [values, errors]


async def run_many_in_turn(export: Export, args: Sequence[object]) -> object:
    """As `_many`, for functions of either kind, one after the other."""
    values: list[object] = []
    errors: dict[int, list[object]] = {}
    for index, each in enumerate(args):
        try:
            values.append(loads(await run_inline(export, cast(list[object], each))))
        except CallError as error:
            values.append(None)
            errors[index] = error_to_fields(error)
    return [values, errors]


def encode_chunks(lists: list[list[object]]) -> list[tuple[list[list[object]], bytes]]:
    """(argument lists, encoded) of many calls: in one body, or in more when that is too large.

    Raises: `NotSendable` for a call that is too large alone, or that is not data.
    """
    try:
        return [(lists, dumps(lists))]
    except NotSendable:
        if len(lists) == 1:
            raise
    half = len(lists) // 2
    return encode_chunks(lists[:half]) + encode_chunks(lists[half:])


def join_answers(
    chunks: Sequence[Sequence[object]], bodies: Sequence[bytes | CallError]
) -> list[object]:
    """Answers of `call_many` in order. Raises: `RemoteProtocolError` for another shape."""
    joined: list[object] = []
    for chunk, body in zip(chunks, bodies, strict=True):
        if isinstance(body, CallError):
            joined += [body] * len(chunk)
            continue
        match loads(body[1:]):
            case [list(values), dict(errors)] if len(values) == len(chunk):
                for index, fields in errors.items():
                    if not isinstance(index, int) or not 0 <= index < len(values):
                        raise RemoteProtocolError("malformed answer to many calls")
                    values[index] = error_from_fields(fields)
                joined += values
            case _:
                raise RemoteProtocolError("malformed answer to many calls")
    return joined


def as_call_error(export: Export, error: Exception) -> CallError:
    if isinstance(error, CallError):
        return error
    if isinstance(error, NotSendable):
        return RemoteError("not_sendable", f"{export.mission}.{export.function}: {error}")
    if isinstance(error, TypeError) and error.__traceback__ and error.__traceback__.tb_next is None:
        return RemoteError("badarg", f"{export.mission}.{export.function}: {error}")
    text = "".join(traceback.format_exception(error))
    return RemoteError(type(error).__name__, str(error), text)
