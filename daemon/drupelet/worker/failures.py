"""Failures: what a worker tells the caller of a function that raised, or that it does not call.

Decides the words and their length: an exception's class, text and traceback without our own frames,
a refusal of arguments, and that too much waits.
"""

from __future__ import annotations

from typing import Final

from drupelet.errors import CallError, NotSendable, RemoteError
from drupelet.worker.targets import Target

MESSAGE_CHARS_MAX: Final = 2_000
TRACEBACK_CHARS_MAX: Final = 8_000  # about 100 lines; with the message it fits one frame
NO_MEMORY: Final = "the mission's memory limit is reached"


def as_call_error(error: BaseException) -> CallError:
    """What the caller is told about an exception of the mission's."""
    if isinstance(error, RemoteError):
        return RemoteError(error.kind, error.message[:MESSAGE_CHARS_MAX])  # the author's own kind
    if isinstance(error, NotSendable):
        return RemoteError("not_sendable", f"the value: {message_of(error)}")
    if isinstance(error, MemoryError):
        return RemoteError("MemoryError", message_of(error) or NO_MEMORY)
    return RemoteError(type(error).__name__, message_of(error), _traceback(error))


def message_of(error: BaseException) -> str:
    """Its text."""
    try:
        return str(error)[:MESSAGE_CHARS_MAX]
    except Exception:  # anybody's __str__
        return "(the exception has no text)"


def _traceback(error: BaseException) -> str:
    """The mission's own frames."""
    import traceback  # rare

    step = error.__traceback__
    while step is not None and step.tb_frame.f_code.co_filename in _OWN_FILES:
        step = step.tb_next
    try:
        text = "".join(traceback.format_exception(type(error), error, step, limit=-20))
    except (Exception, RecursionError):  # anybody's __repr__
        return ""
    return text[-TRACEBACK_CHARS_MAX:]


_OWN_FILES: Final = {__file__.replace("failures.py", name) for name in ("session.py", "loops.py")}


def bad_arguments(target: Target, what: str) -> RemoteError:
    """They do not fit the function."""
    return RemoteError("badarg", f"{target.shown}: {what}")


def describe_count(args: object) -> str:
    """How many there are."""
    if not isinstance(args, list):
        return "the arguments are not one array"
    return f"{len(args)} argument{'s' if len(args) != 1 else ''} given"


def overloaded() -> RemoteError:
    """It is to come again later."""
    return RemoteError("overloaded", "too much waits for this mission already; try again later")
