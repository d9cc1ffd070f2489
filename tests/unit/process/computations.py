"""What the tests of computing.py run in threads and in programs of their own: loads in no time."""

from __future__ import annotations

import os
import signal
import sys
import threading

from drupelet.errors import ProcessExit

go = threading.Event()
began = threading.Event()


def square(number: int) -> int:
    return number * number


def give_back(*values: object) -> list[object]:
    return list(values)


def bad() -> None:
    raise ValueError("bad")


def leave(reason: object) -> None:
    raise ProcessExit(reason)


def end(code: int) -> None:
    sys.exit(code)


def vanish(code: int) -> None:
    os._exit(code)


def die(number: int = signal.SIGKILL) -> None:
    os.kill(os.getpid(), number)


def say(text: str) -> int:
    print(text, flush=True)
    return os.getpid()


def write_pid(file: str) -> None:
    """Say who computes, and never end."""
    with open(file, "w") as stream:
        stream.write(str(os.getpid()))
    threading.Event().wait()


def a_function() -> object:
    return square  # no data


def wait_in_thread() -> str:
    began.set()
    go.wait()
    return threading.current_thread().name
