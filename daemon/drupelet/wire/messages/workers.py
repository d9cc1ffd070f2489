"""The first frames between the daemon and a mission worker: the order, and what came of it.

Decides their fields and bounds. Both travel as the body of a HELLO frame, one CBOR map each.

- daemon -> worker, `WorkerOrder`: ``{"role": "daemon", "version", "mission", "modules", "exports",
  "memory_bytes", "directory", "shipped"}``. The order travels on the channel, not on the command
  line, so that a socket-activated worker under systemd gets it the same way as a child process.
- worker -> daemon, `WorkerHello`: ``{"role": "worker", "version", "digest", "missions": {name:
  [[export, is_cast, signature], ...]}}``, with `true` as a fourth where an idempotency key is
  needed; or `WorkerFailure`: ``{"role": "worker", "version", "problems": [[kind, file, line,
  message], ...]}`` with the names that WTD gave to load errors.

Rules: mission code runs in the worker, so what it says is a stranger's word: decoding raises
`RemoteProtocolError` for any other shape, and the daemon exposes only what its operator listed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from drupelet.errors import RemoteProtocolError
from drupelet.wire import limits
from drupelet.wire.codec import dumps, loads_control

VERSION: Final = 1
DIGEST_BYTES: Final = 16  # BLAKE2b of the modules' source bytes, one after the other

MODULES_MAX: Final = 16  # of one mission; a mission is a whitelist, not a library
MISSIONS_MAX: Final = 64  # in one file of `drupelet run`
EXPORTS_MAX: Final = 256  # of one worker; with the bounds below the HELLO fits one frame
EXPORT_CHARS_MAX: Final = 127  # "Class.method"
SIGNATURE_CHARS_MAX: Final = 100  # shown to people; what is longer is cut by the worker
PROBLEMS_MAX: Final = 32  # what a person reads at once; with the bounds below it fits one frame
PROBLEM_CHARS_MAX: Final = 400
PATH_CHARS_MAX: Final = 1_024  # PATH_MAX is 4,096 bytes; 16 of ours must fit one frame

FILE_WONT_COMPILE: Final = "file_wont_compile"
INVALID_EXPORT: Final = "invalid_export"
INVALID_FN_AND_ARITY: Final = "invalid_fn_and_arity"
FUNCTION_NOT_EXPORTED: Final = "function_not_exported"
KINDS: Final = frozenset(
    {FILE_WONT_COMPILE, INVALID_EXPORT, INVALID_FN_AND_ARITY, FUNCTION_NOT_EXPORTED}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOrder:
    """What a worker is to load.

    `mission` "" and `exports` None: everything that is marked (`drupelet run FILE`).
    `modules`: bundled names, or absolute paths that end in ``.py``. `memory_bytes` 0: no limit.
    `shipped`: the file of the bundle that is run instead of `modules`; "": none.
    """

    mission: str
    modules: tuple[str, ...]
    exports: tuple[str, ...] | None = None
    memory_bytes: int = 0
    directory: str = "/"
    shipped: str = ""


@dataclass(frozen=True, slots=True)
class ExportEntry:
    """One function that a worker offers."""

    name: str
    is_cast: bool = False
    signature: str = ""
    once: bool = False


@dataclass(frozen=True, slots=True)
class WorkerHello:
    """The worker is ready; `missions` maps each mission to its exports."""

    missions: Mapping[str, tuple[ExportEntry, ...]]
    digest: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong with a module. `line` 0: the file as a whole."""

    kind: str
    file: str
    line: int
    message: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        return f"{where}: {self.kind}: {self.message}"


@dataclass(frozen=True, slots=True)
class WorkerFailure:
    """The worker refused to load the mission; it exits after saying so."""

    problems: tuple[Problem, ...]


def encode_order(order: WorkerOrder) -> bytes:
    """The body of the daemon's HELLO."""
    return dumps(
        {
            "role": "daemon",
            "version": VERSION,
            "mission": order.mission,
            "modules": list(order.modules),
            "exports": None if order.exports is None else list(order.exports),
            "memory_bytes": order.memory_bytes,
            "directory": order.directory,
            "shipped": order.shipped,
        }
    )


def decode_order(body: bytes) -> WorkerOrder:
    """The reverse of `encode_order`. Raises: `RemoteProtocolError`."""
    match loads_control(body):
        case {
            "role": "daemon",
            "version": int(version),
            "mission": str(mission),
            "modules": list(modules),
            "exports": exports,
            "memory_bytes": int(memory_bytes),
            "directory": str(directory),
            "shipped": str(shipped),
            **rest,
        } if not rest:
            _check_version(version)
            _check(len(mission) <= limits.NAME_CHARS_MAX, "mission name too long")
            _check(0 < len(modules) <= MODULES_MAX, "too many modules, or none")
            _check(0 <= memory_bytes < 1 << 62, "memory_bytes out of range")
            _check(len(directory) <= PATH_CHARS_MAX, "directory too long")
            _check(len(shipped) <= PATH_CHARS_MAX, "path of the bundle too long")
            return WorkerOrder(
                mission=mission,
                modules=_texts(modules, PATH_CHARS_MAX),
                exports=None if exports is None else _export_names(exports),
                memory_bytes=memory_bytes,
                directory=directory,
                shipped=shipped,
            )
    raise RemoteProtocolError("malformed worker order")


def encode_hello(hello: WorkerHello | WorkerFailure) -> bytes:
    """The body of the worker's HELLO."""
    fields: dict[str, object] = {"role": "worker", "version": VERSION}
    if isinstance(hello, WorkerFailure):
        fields["problems"] = [
            [p.kind, p.file[-PATH_CHARS_MAX:], p.line, p.message[:PROBLEM_CHARS_MAX]]
            for p in hello.problems[:PROBLEMS_MAX]
        ]
    else:
        fields["digest"] = hello.digest
        fields["missions"] = {
            name: [
                [e.name, e.is_cast, e.signature[:SIGNATURE_CHARS_MAX], *([True] if e.once else ())]
                for e in entries
            ]
            for name, entries in hello.missions.items()
        }
    return dumps(fields)


def decode_hello(body: bytes) -> WorkerHello | WorkerFailure:
    """The reverse of `encode_hello`. Raises: `RemoteProtocolError`."""
    match loads_control(body):
        case {
            "role": "worker",
            "version": int(version),
            "digest": bytes(digest),
            "missions": dict(missions),
            **rest,
        } if not rest:
            _check_version(version)
            _check(len(digest) == DIGEST_BYTES, "digest length")
            _check(len(missions) <= MISSIONS_MAX, "too many missions")
            found = {_mission_name(name): _entries(value) for name, value in missions.items()}
            _check(sum(map(len, found.values())) <= EXPORTS_MAX, "too many exports")
            return WorkerHello(found, digest)
        case {
            "role": "worker",
            "version": int(version),
            "problems": list(problems),
            **rest,
        } if not rest:
            _check_version(version)
            _check(0 < len(problems) <= PROBLEMS_MAX, "too many problems, or none")
            return WorkerFailure(tuple(_problem(fields) for fields in problems))
    raise RemoteProtocolError("malformed worker hello")


def _check(good: bool, what: str) -> None:
    if not good:
        raise RemoteProtocolError(f"worker hello: {what}")


def _check_version(version: int) -> None:
    _check(version == VERSION, f"version is not {VERSION}")


def _texts(values: list[object], chars_max: int) -> tuple[str, ...]:
    texts = []
    for value in values:
        if not isinstance(value, str) or not 0 < len(value) <= chars_max:
            raise RemoteProtocolError("worker hello: not a text, or too long")
        texts.append(value)
    return tuple(texts)


def _export_names(values: object) -> tuple[str, ...]:
    if not isinstance(values, list) or len(values) > EXPORTS_MAX:
        raise RemoteProtocolError("worker hello: malformed exports")
    return _texts(values, EXPORT_CHARS_MAX)


def _mission_name(name: object) -> str:
    if not isinstance(name, str) or not 0 < len(name) <= limits.NAME_CHARS_MAX or "/" in name:
        raise RemoteProtocolError("worker hello: mission name")
    return name


def _entries(values: object) -> tuple[ExportEntry, ...]:
    if not isinstance(values, list) or len(values) > EXPORTS_MAX:
        raise RemoteProtocolError("worker hello: malformed exports")
    entries = []
    for value in values:
        match value:
            case [str(name), bool(is_cast), str(signature), *once] if once in ([], [True]):
                _check(0 < len(name) <= EXPORT_CHARS_MAX and "/" not in name, "export name")
                _check(len(signature) <= SIGNATURE_CHARS_MAX, "signature too long")
                entries.append(ExportEntry(name, is_cast, signature, bool(once)))
            case _:
                raise RemoteProtocolError("worker hello: malformed export")
    _check(len({entry.name for entry in entries}) == len(entries), "export named twice")
    return tuple(entries)


def _problem(fields: object) -> Problem:
    match fields:
        case [str(kind), str(file), int(line), str(message)]:
            _check(kind in KINDS, "unknown kind of problem")
            _check(len(file) <= PATH_CHARS_MAX and 0 <= line < 1 << 31, "place of a problem")
            _check(len(message) <= PROBLEM_CHARS_MAX, "problem text too long")
            return Problem(kind=kind, file=file, line=line, message=message)
    raise RemoteProtocolError("worker hello: malformed problem")
