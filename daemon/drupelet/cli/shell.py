"""``shell``: a Python prompt that is a process of the local node, as `erl` is.

The main thread reads lines (so that readline and Ctrl-C work as they should), trio runs in a thread
of its own, where processes, node events and calls go on while the prompt waits. What a line means
is decided in `awaiting.py`; it runs in the shell's process, in a cancel scope: Ctrl-C cancels it, a
second one leaves (a line that computes without ever awaiting cannot be cancelled).

Rules
- The shell is one process: `self()`, its mailbox, links and names stay from line to line. A line
  that raises changes nothing of that. It ends by ``exit(reason)``, or by an exit signal that it
  does not trap; then a new one takes over, with the variables, and says so, as in erl.
- ``exit()`` leaves the shell, as Python has it; with a reason it is OTP's.
- Every public name of `drupelet` is there, but for what makes missions.

From a pipe: no prompt; results on stdout, what was raised on stderr, exit code 1 if a line raised.

Ideas rejected: reading lines in a thread (readline's history and Ctrl-C need the main one); trio in
the main thread with `input` in between (nothing else would run meanwhile); a new process after each
line that raises, as in erl (who mistypes a word would lose the mailbox).
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import sys
import threading
import traceback
from collections.abc import Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FunctionType, TracebackType
from typing import Final, TextIO

import trio

import drupelet
from drupelet.cli import awaiting, output, ps
from drupelet.cli.attached import open_attached
from drupelet.cli.grammar import Request
from drupelet.cli.meant import meant
from drupelet.cli.pids import parse_pid, shown
from drupelet.cli.places import state_directory
from drupelet.client import Client
from drupelet.errors import EXIT_DONE, EXIT_FAILED, DrupeletError, ProcessExit
from drupelet.process import api
from drupelet.process.information import author_traceback
from drupelet.process.nodes import PROMPT
from drupelet.process.runtime import Runtime
from drupelet.process.table import Process
from drupelet.process.tracing import trace
from drupelet.wire.ids import Pid

EXIT_INTERRUPTED: Final = 130  # 128 + SIGINT
HISTORY_LINES_MAX: Final = 2_000
SOURCE_CHARS_MAX: Final = 1_000_000  # of one statement; a file given by mistake stops here
HINT_S: Final = 2.0  # a line that waits for so long may wait for ever: say how to get out
STOP_S: Final = 3.0  # after Ctrl-C a line has this long to clean up
_BANNER: Final = """\
You are process {pid} of {name}.
As in erl: spawn send receive flush self link monitor exit register whereis nodes i ...;
besides: call cast multicall. On the line itself no `await` is needed.
  me = self()
  spawn(lambda: send(me, "hello"))
  receive()
Ctrl-C cancels the running line, Ctrl-D leaves."""
_FOR_MISSIONS: Final = ("at_start", "become", "cast", "mission", "run", "net_kernel")


_CONTINUES: Final = ("else", "elif", "except", "finally", ")", "]", "}")


def shell(request: Request) -> int:
    """``shell``."""
    bundled = str(Path(drupelet.__file__).parent / "bundled")
    sys.path += [bundled, ""]  # ``import resa``, and what lies here; last: it replaces nothing
    logging.getLogger("drupelet.process").addFilter(_not_of_the_shell)
    with open_loop(request.socket) as loop:
        console = Console(loop, debug=request.debug)
        if not sys.stdin.isatty():
            return console.read_all(sys.stdin)
        with _history():
            return console.interact()


@dataclass(slots=True)
class Line:
    """A statement to run. `done` ends with it; cancelling `scope` cancels it."""

    code: CodeType
    names: dict[str, object]
    done: Future[None]
    scope: trio.CancelScope


class Ended(Exception):
    """The shell's process ended in the middle of a line; that was told already."""


def _not_of_the_shell(record: logging.LogRecord) -> bool:
    """The user knows which line computes; of other processes the loop watch tells."""
    args = record.args
    return not (isinstance(args, tuple) and len(args) > 1 and args[1] == "drupelet.shell")


class Loop:
    """The trio side, in a thread of its own: a client, a runtime, and the shell's process.

    *Owns* the thread; `open_loop` joins it.
    """

    def __init__(self, socket: str | None) -> None:
        self._socket = socket
        self._stop = trio.Event()
        self._token: trio.lowlevel.TrioToken | None = None
        self._send, self._receive = trio.open_memory_channel[Line](1)
        self._line: Line | None = None
        self.client: Future[Client] = Future()
        self.pid: Pid | None = None  # of the shell's process
        self.thread = threading.Thread(target=self._run, name="drupelet shell")

    def submit(self, line: Line) -> None:
        """Start a line, from the main thread; one at a time."""
        assert self._token is not None
        self._token.run_sync_soon(self._send.send_nowait, line)

    def cancel(self, scope: trio.CancelScope) -> None:
        """Cancel a line, from the main thread."""
        assert self._token is not None
        self._token.run_sync_soon(scope.cancel)

    def stop(self) -> None:
        """End the loop, from the main thread."""
        if self._token is not None:
            with contextlib.suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._stop.set)

    def _run(self) -> None:
        try:
            trio.run(self._serve)
        except Exception as error:
            if not self.client.done():
                self.client.set_exception(error)

    async def _serve(self) -> None:
        async with open_attached(self._socket) as (client, runtime):
            self._token = trio.lowlevel.current_trio_token()
            process = runtime.start(self._evaluate, ())
            self.pid = process.pid
            runtime.nursery.start_soon(self._keep_process, runtime, process)
            self.client.set_result(client)
            await self._stop.wait()

    async def _keep_process(self, runtime: Runtime, process: Process) -> None:
        """There is always a process that runs the lines."""
        while True:
            reason = await runtime.join(process)
            former, process = process, runtime.start(self._evaluate, ())
            self.pid = process.pid
            output.note(
                f"** process {former.pid} of this shell ended: {shown(reason)}; "
                f"it goes on as {process.pid}"
            )
            line, self._line = self._line, None
            if line is not None:
                line.done.set_exception(Ended())

    async def _evaluate(self) -> None:
        """The shell's process."""
        async for line in self._receive:
            self._line = line
            failure = await _run_line(line)
            self._line = None
            if failure is None:
                line.done.set_result(None)
            else:
                line.done.set_exception(failure)

    _evaluate.__module__, _evaluate.__qualname__ = "drupelet", "shell"  # as `ps` shows it


@contextlib.contextmanager
def open_loop(socket: str | None) -> Iterator[Loop]:
    """A running loop with a connected client. Raises: `NoConnection`."""
    loop = Loop(socket)
    loop.thread.daemon = True  # a line that never awaits must not keep the program from ending
    loop.thread.start()
    try:
        loop.client.result()
        yield loop
    finally:
        loop.stop()
        loop.thread.join(STOP_S)


async def _run_line(line: Line) -> BaseException | None:
    """Run it; what it raised. An exit of the process itself passes."""
    failure: BaseException | None = None
    with line.scope:
        try:
            value = FunctionType(line.code, line.names)()
            if inspect.iscoroutine(value):
                await value
            await trio.lowlevel.checkpoint()  # so that cancelling a line without an await shows too
        except ProcessExit:
            raise
        except (Exception, SystemExit) as error:
            failure = error
    return KeyboardInterrupt() if line.scope.cancelled_caught else failure


class Here:
    """`node` at the prompt: ``node()`` is this node's name, as in erl; else it is the client."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def __call__(self) -> str:
        return api.node()

    def __getattr__(self, name: str) -> object:
        return getattr(self._client, name)


def leave_or_exit(*args: object) -> None:
    """``exit()`` leaves the shell; ``exit(reason)`` and ``exit(pid, reason)`` are OTP's."""
    if not args:
        raise SystemExit(EXIT_DONE)
    api.exit(*args)


async def show_processes(node: str | None = None) -> None:
    """``i()``: the processes of a node (None: this one) as a table."""
    ps.show(ps.rows_of(await api.processes(node)))


def shell_names(client: Client) -> dict[str, object]:
    """What a line finds."""
    public = {
        name: getattr(drupelet, name)
        for name in drupelet.__all__
        if not name.startswith("_") and name not in _FOR_MISSIONS
    }
    return public | {
        "__name__": PROMPT,
        awaiting.SETTLE: awaiting.settle,
        "__pid__": parse_pid,
        "call": client.call,
        "call_many": client.call_many,
        "cast": client.cast,
        "exit": leave_or_exit,
        "i": show_processes,
        "multicall": client.multicall,
        "nl": drupelet.code.nl,
        "node": Here(client),
        "quit": leave_or_exit,
        "trace": trace,
        "trio": trio,
    }


class Console:
    """Lines in, results out."""

    def __init__(self, loop: Loop, *, debug: bool = False) -> None:
        self._loop = loop
        self._debug = debug
        self._compile = awaiting.make_compiler()
        self.failed = False
        self.names = shell_names(loop.client.result())
        sys.displayhook = self._show

    def interact(self) -> int:
        """The prompt, until Ctrl-D."""
        output.note(_BANNER.format(pid=self._loop.pid, name=self._loop.client.result().name))
        pending = ""
        while True:
            try:
                line = input("...      " if pending else "drupelet> ")
                pending = self.feed(f"{pending}\n{line}" if pending else line)
            except EOFError:
                output.note("")
                return EXIT_DONE
            except KeyboardInterrupt:
                output.note("")
                pending = ""

    def read_all(self, source: TextIO) -> int:
        """All lines of a pipe or file; exit code 1 if one of them raised."""
        pending = ""
        for text in source:
            line = text.rstrip("\n")
            if (
                pending
                and line.strip()
                and not line[0].isspace()
                and not line.startswith(_CONTINUES)
            ):
                pending = (
                    self.feed(f"{pending}\n") and pending
                )  # an end of a block without a blank line
            pending = self.feed(f"{pending}\n{line}" if pending else line)
        if pending and self.feed(f"{pending}\n"):
            self._fail(SyntaxError("the last statement is not complete"))
        return EXIT_FAILED if self.failed else EXIT_DONE

    def feed(self, source: str) -> str:
        """Run `source` if it is complete; what is still pending (`source` itself, or nothing)."""
        if len(source) > SOURCE_CHARS_MAX:
            self._fail(ValueError(f"a statement has at most {SOURCE_CHARS_MAX} characters"))
            return ""
        try:
            code = awaiting.compile_line(source, self._compile, self.names)
        except (SyntaxError, ValueError, OverflowError) as error:
            self._fail(error)
            return ""
        if code is None:
            return source
        self._run(code)
        return ""

    def _run(self, code: CodeType) -> None:
        done: Future[None] = Future()
        scope = trio.CancelScope()
        try:  # from here on Ctrl-C can come at any point, also before the line has begun
            self._loop.submit(Line(code, self.names, done, scope))
            if not wait({done}, HINT_S).done:
                output.note("(this line waits; Ctrl-C cancels it)")
            done.result()
        except KeyboardInterrupt:
            self._loop.cancel(scope)
            with contextlib.suppress(KeyboardInterrupt, Exception):
                done.result(STOP_S)
            if not done.done():
                output.note("the line does not stop (it never awaits): leaving")
                raise SystemExit(EXIT_INTERRUPTED) from None
            self.failed = True
            output.note("cancelled")
        except Ended:
            self.failed = True
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self.failed = True
        if isinstance(error, DrupeletError) and not self._debug:
            output.note("\n".join(output.explain(error)).removeprefix("drupelet: "))
            return
        trace = _users_frames(error.__traceback__)
        if not self._debug:
            trace = author_traceback(error.with_traceback(trace))
        text = "".join(traceback.format_exception(type(error), error, trace)).rstrip()
        near = meant(error)
        if near and "Did you mean" not in text:
            text += f". Did you mean: '{near}'?"
        output.note(text)

    def _show(self, value: object) -> None:
        if value is not None:
            self.names["_"] = value
            output.line(shown(value))
            if isinstance(value, FunctionType):
                output.note(f"to call it: {value.__name__}()")


def _users_frames(trace: TracebackType | None) -> TracebackType | None:
    """A traceback without our own frames, which say nothing to the user."""
    frames: list[TracebackType] = []
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if (frames or file == awaiting.FILE) and file != awaiting.__file__:
            frames.append(trace)
        trace = trace.tb_next
    chain: TracebackType | None = None
    for each in reversed(frames):
        chain = TracebackType(chain, each.tb_frame, each.tb_lasti, each.tb_lineno)
    return chain


@contextlib.contextmanager
def _history() -> Iterator[None]:
    try:
        import readline
    except ImportError:  # a Python without it still has a prompt
        yield
        return
    file = state_directory() / "history"
    readline.set_history_length(HISTORY_LINES_MAX)
    with contextlib.suppress(OSError):
        readline.read_history_file(file)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            readline.write_history_file(file)
