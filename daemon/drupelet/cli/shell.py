"""``shell``: a Python prompt where `await` works, connected to the local node.

The main thread reads lines (so that readline and Ctrl-C work as they should), trio runs in a thread
of its own, where node events and background calls go on while the prompt waits. A line is compiled
with top-level await, as in ``python -m asyncio``, and runs in a cancel scope: Ctrl-C cancels it, a
second one leaves (a line that computes without ever awaiting cannot be cancelled).

From a pipe: no prompt; results on stdout, what was raised on stderr, exit code 1 if a line raised.

Ideas rejected: reading lines in a thread (readline's history and Ctrl-C need the main one); trio in
the main thread with `input` in between (nothing else would run meanwhile).
"""

from __future__ import annotations

import ast
import codeop
import contextlib
import inspect
import sys
import threading
import traceback
from collections.abc import Iterator
from concurrent.futures import Future
from types import CodeType, FunctionType
from typing import Final, TextIO

import trio

from drupelet.cli import output
from drupelet.cli.grammar import Request
from drupelet.cli.places import state_directory
from drupelet.client import Client, open_client
from drupelet.errors import EXIT_DONE, EXIT_FAILED, DrupeletError

EXIT_INTERRUPTED: Final = 130  # 128 + SIGINT
HISTORY_LINES_MAX: Final = 2_000
SOURCE_CHARS_MAX: Final = 1_000_000  # of one statement; a file given by mistake stops here
STOP_S: Final = 3.0  # after Ctrl-C a line has this long to clean up
_BANNER: Final = (
    "Connected to {name}. `await` works; ready: node, call, call_many, cast, multicall, "
    "nodes, ping, trio.\n"
    '  await call("{name}", "kvs", "lookup", "weather")\n'
    "Ctrl-C cancels the running line, Ctrl-D leaves."
)


_CONTINUES: Final = ("else", "elif", "except", "finally", ")", "]", "}")


def shell(request: Request) -> int:
    """``shell``."""
    with open_loop(request.socket) as loop:
        console = Console(loop, debug=request.debug)
        if not sys.stdin.isatty():
            return console.read_all(sys.stdin)
        with _history():
            return console.interact()


class Loop:
    """The trio side, in a thread of its own: a client, and the line that runs.

    *Owns* the thread; `open_loop` joins it.
    """

    def __init__(self, socket: str | None) -> None:
        self._socket = socket
        self._stop = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self.client: Future[Client] = Future()
        self.thread = threading.Thread(target=self._run, name="drupelet shell")

    def submit(
        self,
        code: CodeType,
        names: dict[str, object],
        done: Future[None],
        scope: trio.CancelScope,
    ) -> None:
        """Start a line. `done` ends with the line; cancelling `scope` cancels the line."""
        assert self._token is not None
        assert self._nursery is not None
        self._token.run_sync_soon(self._nursery.start_soon, _run_line, code, names, done, scope)

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
        async with open_client(self._socket) as node, trio.open_nursery() as nursery:
            self._token = trio.lowlevel.current_trio_token()
            self._nursery = nursery
            self.client.set_result(node)
            await self._stop.wait()
            nursery.cancel_scope.cancel()


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


async def _run_line(
    code: CodeType, names: dict[str, object], done: Future[None], scope: trio.CancelScope
) -> None:
    failure: BaseException | None = None
    with scope:
        try:
            value = FunctionType(code, names)()
            if inspect.iscoroutine(value):
                await value
            await trio.lowlevel.checkpoint()  # so that cancelling a line without an await shows too
        except (Exception, SystemExit) as error:
            failure = error
    if scope.cancelled_caught:
        failure = KeyboardInterrupt()
    if failure is None:
        done.set_result(None)
    else:
        done.set_exception(failure)


class Console:
    """Lines in, results out."""

    def __init__(self, loop: Loop, *, debug: bool = False) -> None:
        self._loop = loop
        self._debug = debug
        self._compile = codeop.CommandCompiler()
        self._compile.compiler.flags |= ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        self.failed = False
        node = loop.client.result()
        self.names: dict[str, object] = {
            "__name__": "__console__",
            "node": node,
            "call": node.call,
            "call_many": node.call_many,
            "cast": node.cast,
            "multicall": node.multicall,
            "nodes": node.nodes,
            "ping": node.ping,
            "trio": trio,
        }
        sys.displayhook = self._show

    def interact(self) -> int:
        """The prompt, until Ctrl-D."""
        output.note(_BANNER.format(name=self._loop.client.result().name))
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
            code = self._compile(source, "<shell>", "single")
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
            self._loop.submit(code, self.names, done, scope)
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
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self.failed = True
        if isinstance(error, DrupeletError) and not self._debug:
            output.note("\n".join(output.explain(error)).removeprefix("drupelet: "))
            return
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename != "<shell>":
            trace = trace.tb_next  # our own frames say nothing to the user
        output.note("".join(traceback.format_exception(type(error), error, trace)).rstrip())

    def _show(self, value: object) -> None:
        if value is not None:
            self.names["_"] = value
            output.line(repr(value))
            if inspect.iscoroutine(value):
                value.close()  # or Python warns later, on another line
                output.note("nothing was called: write `await` before it")


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
