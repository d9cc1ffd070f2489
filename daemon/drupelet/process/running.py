"""Starting a runtime: for a program of its own, a test, a worker or a client.

Decides who owns what: `open_runtime` opens the nursery in which the processes run and closes it
when its block ends: every process then ends with "shutdown".
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio

from drupelet.errors import ProcessExit
from drupelet.process.current import runtime_var
from drupelet.process.information import author_traceback, end_of
from drupelet.process.runtime import Runtime
from drupelet.process.transport import Transport


@asynccontextmanager
async def open_runtime(transport: Transport | None = None) -> AsyncIterator[Runtime]:
    """A runtime; what runs in the block belongs to it."""
    async with trio.open_nursery() as nursery:
        runtime = Runtime(nursery, transport)
        nursery.start_soon(runtime.run)
        token = runtime_var.set(runtime)
        try:
            yield runtime
        finally:
            runtime_var.reset(token)
            nursery.cancel_scope.cancel()


def run(main: Callable[..., Any], *args: object, clock: trio.abc.Clock | None = None) -> Any:
    """Run ``main(*args)`` as the first process, alone; its value. What it started ends with it.

    Raises what `main` raises, with the traceback of the author's own frames.
    """
    if not callable(main):
        if inspect.iscoroutine(main):
            main.close()
            name = main.__name__
            raise TypeError(f"write run({name}) and not run({name}()): it was called already")
        raise TypeError(f"run takes an async function, not {main!r:.100}")

    async def first() -> Any:
        failure: Exception | None = None
        async with open_runtime() as runtime:
            try:
                return await run_main(runtime, main, *args)
            except Exception as error:  # a nursery would make a group of it
                failure = error
        if failure is None:  # an application that must not end has ended
            raise RuntimeError("the program was ended from within: see the log")
        raise failure

    try:
        return trio.run(first, clock=clock)
    except Exception as error:
        raise error.with_traceback(author_traceback(error))  # noqa: B904 - it is the same


async def run_main(runtime: Runtime, main: Callable[..., Any], *args: object) -> Any:
    """``main(*args)`` as a process of `runtime`, and wait for it; its value, or what it raised.

    Who is linked to it or watches it is told how it ended.
    """
    outcomes: list[Any] = []
    errors: list[BaseException] = []
    name = getattr(main, "__name__", "main")

    async def body() -> None:
        try:
            value = main(*args)
            if not inspect.isawaitable(value):
                raise TypeError(f"write `async def {name}`: what runs as a process waits")
            outcomes.append(await value)
        except Exception as error:  # raised below, so not a crash to be logged
            errors.append(error)
            raise ProcessExit(end_of(error)) from None

    body.__qualname__ = getattr(main, "__qualname__", "main")
    process = runtime.start(body, ())
    reason = await runtime.join(process)
    if errors:
        raise errors[0]
    if not outcomes:
        raise RuntimeError(f"the first process was ended: {reason!r}")
    return outcomes[0]
