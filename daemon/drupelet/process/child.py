"""A program that computes one value: the other half of ``spawn(where="process")``.

Decides nothing. Reads ``[module, file, name, args, path]`` from standard input, calls the function,
writes ``["value", value]`` or ``["error", class, message, traceback]`` to standard output and ends.
What the function prints goes to standard error.

Rule: it never outlives its parent: standard input stays open until the answer was read; when it
closes before, this program ends at once.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import threading
import traceback
from typing import Any, BinaryIO

from drupelet.errors import RemoteProtocolError
from drupelet.wire.codec import dumps, loads
from drupelet.wire.limits import BODY_BYTES_MAX

_TEXT_CHARS_MAX = 16_384


def main() -> None:
    """Compute, answer, end."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    requests = sys.stdin.buffer
    request = _read(requests)
    threading.Thread(target=_end_with_parent, args=(requests,), daemon=True).start()
    answers.write(_answer(request))
    answers.flush()
    os._exit(0)  # not at the end of threads that the function may have left


def _read(requests: BinaryIO) -> bytes:
    length = int.from_bytes(requests.read(4), "big")
    request = requests.read(min(length, BODY_BYTES_MAX + 1))
    if len(request) != length:
        os._exit(1)
    return request


def _end_with_parent(requests: BinaryIO) -> None:
    requests.read(1)
    os._exit(1)


def _answer(request: bytes) -> bytes:
    try:
        match loads(request):
            case [str(module), str(file), str(name), list(args), list(path)]:
                sys.path[:] = [str(each) for each in path]
                return dumps(["value", _find(module, file, name)(*args)])
        raise RemoteProtocolError("malformed request")
    except BaseException as error:  # SystemExit too: it is the function's
        text = "".join(traceback.format_exception(error))[-_TEXT_CHARS_MAX:]
        message = str(error)[:1_000]
        return dumps(["error", type(error).__name__, _clean(message), _clean(text)])


def _clean(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _find(module: str, file: str, name: str) -> Any:
    if file:
        spec = importlib.util.spec_from_file_location(f"drupelet_computing_{module}", file)
        assert spec is not None and spec.loader is not None
        loaded = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = loaded
        spec.loader.exec_module(loaded)
    else:
        loaded = importlib.import_module(module)
    found: Any = loaded
    for part in name.split("."):
        found = getattr(found, part)
    return found


if __name__ == "__main__":
    main()
