"""A program that computes one value: the other half of ``spawn(where="process")``.

Decides nothing. Reads ``[module, file, name, args, path, sources]`` from standard input, calls the
function, writes ``["value", value]``, ``["exit", reason]`` or ``["error", class, message,
traceback]`` to standard output and ends. What the function prints goes to standard error.

Rules
- It never outlives its parent: standard input stays open until the answer was read; when it closes
  before, this program ends at once.
- Ctrl-C in a terminal reaches every program of it; what it means is decided by the parent.
- `sources` are modules that are in no file (shipped code): they are imported from memory.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import os
import signal
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, BinaryIO, Final

from drupelet.errors import NotSendable, ProcessExit, RemoteProtocolError
from drupelet.process.computing import LOADING
from drupelet.process.information import author_traceback
from drupelet.wire.codec import dumps, loads
from drupelet.wire.limits import BODY_BYTES_MAX

EXIT_DONE: Final = 0
EXIT_ALONE: Final = 1  # the parent is gone, or sent no whole request
LENGTH_BYTES: Final = 4

_TEXT_CHARS_MAX: Final = 16_384
_MESSAGE_CHARS_MAX: Final = 1_000


def main() -> None:
    """Compute, answer, end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    requests = sys.stdin.buffer
    request = read_request(requests)
    if request is None:
        os._exit(EXIT_ALONE)
    threading.Thread(target=_end_with_parent, args=(requests,), daemon=True).start()
    answers.write(answer(request))
    answers.flush()
    sys.stderr.flush()
    os._exit(EXIT_DONE)  # not at the end of threads that the function may have left


def read_request(requests: BinaryIO) -> bytes | None:
    """What to do; None when it is torn or too long."""
    length = int.from_bytes(requests.read(LENGTH_BYTES), "big")
    request = requests.read(min(length, BODY_BYTES_MAX + 1))
    return request if 0 < length == len(request) <= BODY_BYTES_MAX else None


def _end_with_parent(requests: BinaryIO) -> None:
    requests.read(1)
    os._exit(EXIT_ALONE)


def answer(request: bytes) -> bytes:
    """Find the function, call it; its value or its exception as bytes."""
    try:
        match loads(request):
            case [str(module), str(file), str(name), list(args), list(path), dict(sources)]:
                sys.path[:] = [str(each) for each in path]
                function = find(module, file, name, sources)
                return dumps(["value", function(*args)])
        raise RemoteProtocolError("malformed request")
    except ProcessExit as error:
        return _exit(error.reason)
    except (Exception, SystemExit) as error:  # the function's, told to who watches it
        frames = traceback.format_exception(type(error), error, author_traceback(error))
        text = "".join(frames)[-_TEXT_CHARS_MAX:]
        message = _text_of(error)[:_MESSAGE_CHARS_MAX]
        return dumps(["error", type(error).__name__, _clean(message), _clean(text)])


def _exit(reason: object) -> bytes:
    try:
        return dumps(["exit", reason])
    except NotSendable:
        return dumps(["exit", _clean(repr(reason)[:_MESSAGE_CHARS_MAX])])


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # anybody's __str__
        return "(the exception has no text)"


def _clean(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def find(module: str, file: str, name: str, sources: Mapping[str, str]) -> Any:
    """The function. Raises: what its module does while it is loaded."""
    os.environ[LOADING] = "1"
    try:
        if sources:
            sys.meta_path.insert(0, _InMemory(sources))
        found: Any = _load_file(module, file) if file else importlib.import_module(module)
    finally:
        del os.environ[LOADING]
    for part in name.split("."):
        found = getattr(found, part)
    return found


def _load_file(module: str, file: str) -> ModuleType:
    # never under its own name: "__main__" is this program's
    spec = importlib.util.spec_from_file_location(f"drupelet_computing_{module}", file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is no Python file")
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = loaded
    spec.loader.exec_module(loaded)
    return loaded


class _InMemory(importlib.abc.MetaPathFinder, importlib.abc.ExecutionLoader):
    """Imports modules from their sources."""

    def __init__(self, sources: Mapping[str, str]) -> None:
        self._sources = sources

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """importlib's question."""
        if fullname not in self._sources:
            return None
        return importlib.util.spec_from_loader(fullname, self)

    def get_filename(self, fullname: str) -> str:
        """What tracebacks show."""
        return f"shipped/{fullname}.py"

    def get_source(self, fullname: str) -> str:
        """Also for the lines of tracebacks."""
        return self._sources[fullname]


if __name__ == "__main__":
    main()
