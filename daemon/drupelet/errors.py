"""The exception tree, its wire form: one table, both ways; and its form in JSON.

Decides which *reaction* each failure asks for; one class per reaction, not one per message.

- `RemoteProtocolError`: the peer is wrong; close that link and nothing else.
- `LocalProtocolError`: we are wrong; crash the process, systemd restarts it.
- `CallError` and below: the outcome of one call, told to the program that made it. They cross the
  wire as a CBOR array ``[code, field, ...]`` (`error_to_fields`, `error_from_fields`).
- `ConfigError`: a file or flag is wrong; names file, line, key and the mend; exit code 78.
- `ChanError`: a chan server let us not in.
- `NotSendable`: the value cannot cross a node border; raised in the caller before a byte is sent.

Exit codes are those of the command line (`exit_code`).
"""

from __future__ import annotations

from typing import ClassVar, Final

EXIT_DONE: Final = 0
EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_NOT_PERMITTED: Final = 3
EXIT_RATE_LIMITED: Final = 4
EXIT_NO_CONNECTION: Final = 5
EXIT_TIMEOUT: Final = 6
EXIT_BAD_CONFIGURATION: Final = 78  # EX_CONFIG of sysexits.h; systemd does not restart on it


class DrupeletError(Exception):
    """Root of everything that this package raises on purpose."""


class LocalProtocolError(DrupeletError):
    """We broke our own rule; a bug in this program."""


class RemoteProtocolError(DrupeletError):
    """The peer sent something it must not send; its link is closed."""


class NotSendable(DrupeletError, TypeError):
    """A value that is not data (or is too large, too deep...) was about to be sent.

    `path` names the place in the argument, such as ``args[0]["callback"]``.
    """

    def __init__(self, message: str, path: str = "") -> None:
        super().__init__(f"{path}: {message}" if path else message)
        self.path = path


class ConfigError(DrupeletError):
    """A configuration, file or flag is wrong. `str()` is ``file:line: key: what; mend``."""

    def __init__(
        self, what: str, *, mend: str, file: str = "", line: int = 0, key: str = ""
    ) -> None:
        where = f"{file}:{line}: " if file and line else f"{file}: " if file else ""
        named = f"{key}: " if key else ""
        super().__init__(f"{where}{named}{what}; {mend}")
        self.what = what
        self.mend = mend
        self.file = file
        self.line = line
        self.key = key


class CallError(DrupeletError):
    """The outcome of a call that gave no value."""


class RemoteError(CallError):
    """The function ran, or was looked for, on the other node and raised.

    `kind` is the remote exception's class name, or a word of ours: ``undef`` (no such mission or
    function), ``badarg`` (arguments do not fit the signature), ``mission_crashed``,
    ``mission_stuck``, ``mission_backoff``, ``too_large``.
    """

    def __init__(self, kind: str, message: str, traceback_text: str = "") -> None:
        super().__init__(f"{kind}: {message}" if message else kind)
        self.kind = kind
        self.message = message
        self.traceback_text = traceback_text


_DOWN_WORDS: Final = {
    "noproc": "there is no such process, or not any more",
    "calling_self": "a process that asks itself would wait for ever",
}


class ProcessDown(RemoteError):
    """The process that was asked is gone, or was never there: `reason` as in `Down`."""

    def __init__(self, reason: object) -> None:
        what = _DOWN_WORDS.get(reason) if isinstance(reason, str) else None
        what = what or "the process that was asked is gone"
        super().__init__("process_down", f"{what}: {reason!r:.200}")
        self.reason = reason


class Refused(RemoteError):
    """A behaviour did not do what it was asked; `reason` is what OTP has in ``{error, Reason}``."""

    def __init__(self, reason: object) -> None:
        word = reason[0] if isinstance(reason, tuple) and reason else reason
        kind = word if isinstance(word, str) else "refused"
        super().__init__(kind, "" if reason == kind else f"{reason!r:.200}")
        self.reason = reason


class ProcessExit(DrupeletError):
    """`exit(reason)`: raised in a process, it ends it with `reason`."""

    def __init__(self, reason: object) -> None:
        super().__init__(f"exit: {reason!r:.200}")
        self.reason = reason


class ReceiveTimeout(DrupeletError):
    """No message that fits came in time."""


class MailboxFull(DrupeletError):
    """The receiver's mailbox takes no more and the sender did not want to wait."""


class NameTaken(DrupeletError):
    """Another process of this node is registered under that name, or it cannot be registered."""


class Timeout(CallError):
    """No answer before the deadline. `maybe_ran`: whether the function may have run, or may yet."""

    def __init__(self, maybe_ran: bool) -> None:
        super().__init__(
            "no answer before the deadline; the function may have run"
            if maybe_ran
            else "no answer before the deadline; the function did not run"
        )
        self.maybe_ran = maybe_ran


class NoConnection(CallError):
    """The node cannot be reached. `reason` is one of the words in `REASONS`."""

    def __init__(self, reason: str, maybe_ran: bool = False) -> None:
        super().__init__(f"{reason}: {REASONS.get(reason, 'the node cannot be reached')}")
        self.reason = reason
        self.maybe_ran = maybe_ran


class NotPermitted(CallError):
    """The caller has no right to this. A missing name and a forbidden one read alike."""

    def __init__(self, message: str = "not permitted") -> None:
        super().__init__(message)
        self.message = message


class RateLimited(CallError):
    """The right is there, and used up for now: try again after `retry_after_s` seconds."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(f"called too often; try again in {retry_after_s:.3g} s")
        self.retry_after_s = retry_after_s


class Revoked(CallError):
    """The grant was good once. `word`: ``revoked`` or ``expired``."""

    def __init__(self, word: str = "revoked") -> None:
        super().__init__(f"the grant is {word}; ask its issuer for a new one")
        self.word = word


class CodeMismatch(CallError):
    """The callee runs other code for this mission than the caller has. Digests in hex."""

    def __init__(self, have: str, want: str) -> None:
        super().__init__(f"the node runs code {have[:12]}, the caller has {want[:12]}")
        self.have = have
        self.want = want


class ChanError(DrupeletError):
    """A chan server did not let this guest in. `word` is lib_chan's name for it."""

    word: ClassVar[str] = ""


class AuthFail(ChanError):
    """The password is wrong, or nobody may try one now.

    `retry_after_s`: so long the server takes no try from this address; 0: it takes one now.
    """

    word = "authFail"

    def __init__(self, message: str, retry_after_s: float = 0.0) -> None:
        super().__init__(f"{self.word}: {message}")
        self.retry_after_s = retry_after_s


class BadService(ChanError):
    """The password is right, and the server has no service of that name."""

    word = "badService"

    def __init__(self, service: str) -> None:
        super().__init__(f"{self.word}: the server has no service {service[:80]!r}")
        self.service = service


# Why a node cannot be reached, and what it means in one sentence. Shared by NoConnection.reason,
# `drupelet ping` and `drupelet why`.
REASONS: Final[dict[str, str]] = {
    "no_such_node": "no node of that name is known here, or it is away from the relay",
    "no_mapper": "no port mapper answers on that host",
    "not_registered": "the port mapper on that host does not know the name",
    "no_route": "the host cannot be reached",
    "port_closed": "nothing listens on the node's port",
    "silent": "the host took the connection and said nothing",
    "bad_cookie": "the node has another cookie",
    "version": "the node speaks another protocol version",
    "not_a_member": "the node does not accept this key as a member",
    "name_taken": "another key uses that name",
    "wrong_node": "another node answers at that address",
    "closed": "the link was closed",
    "duplicate": "both nodes dialled; the other link is kept",
    "self": "that address leads back to this node",
    "superseded": "a newer start of the same node took its place",
    "down": "the node was declared down, or there is none of that name",
    "overloaded": "too much waits for that node, or it lets nobody in from this address now",
    "stopping": "the node is stopping",
    "no_daemon": "no drupeletd answers on this machine",
    "alone": "this program is on no node; `await net_kernel.start()` joins this machine's",
}

_CODE_REMOTE_ERROR: Final = 1
_CODE_TIMEOUT: Final = 2
_CODE_NO_CONNECTION: Final = 3
_CODE_NOT_PERMITTED: Final = 4
_CODE_CODE_MISMATCH: Final = 5
_CODE_RATE_LIMITED: Final = 6
_CODE_REVOKED: Final = 7

_KIND_CHARS_MAX: Final = 128  # a class name
_TEXT_CHARS_MAX: Final = 16_384  # a traceback; what is longer is cut at the sender and refused here


# Texts are cut to that many *bytes*: an ERROR frame is not split and must fit a record. Lone
# surrogates (an undecodable file name in an OSError) become question marks.
def _head(text: str, bytes_max: int) -> str:
    return text.encode("utf-8", "replace")[:bytes_max].decode("utf-8", "ignore")


def _tail(text: str, bytes_max: int) -> str:
    return text.encode("utf-8", "replace")[-bytes_max:].decode("utf-8", "ignore")


def error_to_fields(error: CallError) -> list[object]:
    """The wire form of a call's failure: ``[code, field, ...]``, ready for the codec."""
    match error:
        case RemoteError():
            return [
                _CODE_REMOTE_ERROR,
                _head(error.kind, _KIND_CHARS_MAX),
                _head(error.message, _TEXT_CHARS_MAX),
                _tail(error.traceback_text, _TEXT_CHARS_MAX),
            ]
        case Timeout():
            return [_CODE_TIMEOUT, error.maybe_ran]
        case NoConnection():
            return [_CODE_NO_CONNECTION, error.reason, error.maybe_ran]
        case NotPermitted():
            return [_CODE_NOT_PERMITTED, _head(error.message, _TEXT_CHARS_MAX)]
        case CodeMismatch():
            return [_CODE_CODE_MISMATCH, error.have, error.want]
        case RateLimited():
            return [_CODE_RATE_LIMITED, float(error.retry_after_s)]
        case Revoked():
            return [_CODE_REVOKED, error.word]
    raise LocalProtocolError(f"{type(error).__name__} has no wire form")


def error_from_fields(fields: object) -> CallError:
    """The reverse of `error_to_fields`. Raises: `RemoteProtocolError` for any other shape."""
    if type(fields) is not list or not fields or type(fields[0]) is not int:  # True == 1
        raise RemoteProtocolError("malformed error")
    match fields:
        case [1, str(kind), str(message), str(traceback_text)]:
            _check_text(kind, message, traceback_text)
            return RemoteError(kind, message, traceback_text)
        case [2, bool(maybe_ran)]:
            return Timeout(maybe_ran)
        case [3, str(reason), bool(maybe_ran)]:
            _check_text(reason)
            return NoConnection(reason, maybe_ran)
        case [4, str(message)]:
            _check_text(message)
            return NotPermitted(message)
        case [5, str(have), str(want)]:
            _check_text(have, want)
            return CodeMismatch(have, want)
        case [6, float(retry_after_s)] if 0 <= retry_after_s < float("inf"):
            return RateLimited(retry_after_s)
        case [7, str(word)]:
            _check_text(word)
            return Revoked(word)
    raise RemoteProtocolError("malformed error")


def _check_text(*texts: str) -> None:
    for text in texts:
        if len(text) > _TEXT_CHARS_MAX:
            raise RemoteProtocolError("error text too long")


def error_document(error: CallError) -> dict[str, object]:
    """The JSON form, for programs that read it: ``kind``, ``message``, and the error's own fields.

    The kind of a `RemoteError` is the remote exception's (with ``"class": "RemoteError"``), that
    of any other the name of its class.
    """
    match error:
        case RemoteError():
            found: dict[str, object] = {"kind": error.kind, "class": "RemoteError"}
            found["message"] = error.message
            if error.traceback_text:
                found["traceback"] = error.traceback_text
            return found
        case NotPermitted():
            return {"kind": "NotPermitted", "message": error.message}
        case Timeout():
            found = {"kind": "Timeout", "maybe_ran": error.maybe_ran}
        case NoConnection():
            found = {"kind": "NoConnection", "reason": error.reason, "maybe_ran": error.maybe_ran}
        case RateLimited():
            found = {"kind": "RateLimited", "retry_after_s": error.retry_after_s}
        case Revoked():
            found = {"kind": "Revoked", "word": error.word}
        case CodeMismatch():
            found = {"kind": "CodeMismatch", "have": error.have, "want": error.want}
        case _:
            found = {"kind": type(error).__name__}
    found["message"] = str(error)
    return found


def exit_code(error: BaseException) -> int:
    """The command line's exit code for a failure."""
    match error:
        case NotPermitted() | AuthFail() | Revoked():
            return EXIT_NOT_PERMITTED
        case RateLimited():
            return EXIT_RATE_LIMITED
        case NoConnection():
            return EXIT_NO_CONNECTION
        case Timeout():
            return EXIT_TIMEOUT
        case ConfigError():
            return EXIT_BAD_CONFIGURATION
    return EXIT_FAILED
