"""Calls: what a process asks of missions, here and on other simulated nodes.

Decides how a call finds its function and what its caller is told: as `services/calls.py` does, on
the same links that carry the signals, so that a link's loss fails its calls.

| mission | functions |
|---|---|
| `node` | ``ping()`` |
| `process` | ``list()``, ``disconnect(node)`` of the own node |
| others | what `Cluster` was given for that node: run in its first runtime |

Owns: one task per call that runs, in the nursery of the runtime that runs it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Any

import outcome
import trio
from trio.lowlevel import Abort, Task, current_task, reschedule, wait_task_rescheduled

from drupelet.errors import CallError, NoConnection, RemoteError, Timeout
from drupelet.process.current import process_var, retire, runtime_var
from drupelet.process.data import copy_data
from drupelet.process.runtime import reason_of

if TYPE_CHECKING:
    from drupelet.ladder.daemon import Daemon, Link

Answer = Callable[[outcome.Outcome[object]], None]


class Calls:
    """The calls of one daemon, both ways."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self._last = 0
        self._open: dict[int, tuple[Task, Link | None]] = {}

    async def call(
        self, node: str, mission: str, function: str, args: list[object], timeout: float
    ) -> object:
        """The value. Raises: `CallError`."""
        args = [copy_data(each) for each in args]
        with trio.CancelScope(deadline=trio.current_time() + timeout if timeout != inf else inf):
            if node in ("", self.daemon.name):
                return await self._wait(None, (mission, function, args))
            link = await self.daemon.connect(node)
            return await self._wait(link, (mission, function, args))
        raise Timeout(maybe_ran=True)

    def cast(self, node: str, mission: str, function: str, args: list[object]) -> None:
        """No answer."""
        args = [copy_data(each) for each in args]
        if node in ("", self.daemon.name):
            self.serve(mission, function, args, lambda value: None)
            return
        link = self.daemon.link_of(node)
        if link is not None:
            link.out.send(("cast", 0, (mission, function, args)))

    async def _wait(self, link: Link | None, what: tuple[str, str, list[object]]) -> object:
        self._last += 1
        ident = self._last
        self._open[ident] = (current_task(), link)
        if link is None:
            self.daemon.later(lambda: self.serve(*what, lambda value: self.answered(ident, value)))
        else:
            link.out.send(("call", ident, what))

        def abort(_: object) -> Abort:
            self._open.pop(ident, None)
            return Abort.SUCCEEDED

        return await wait_task_rescheduled(abort)

    def answered(self, ident: int, value: outcome.Outcome[object]) -> None:
        """An answer came."""
        entry = self._open.pop(ident, None)
        if entry is not None:
            reschedule(entry[0], value)

    def lost(self, link: Link, reason: str) -> None:
        """A link is gone: what was called on it may have run."""
        for ident in [ident for ident, (_, used) in self._open.items() if used is link]:
            self.answered(ident, outcome.Error(NoConnection(reason, maybe_ran=True)))

    def received(self, link: Link, ident: int, what: tuple[str, str, list[object]]) -> None:
        """A call came in on a link; ident 0: a cast."""

        def answer(value: outcome.Outcome[object]) -> None:
            if ident:
                link.out.send(("answer", ident, value))

        self.serve(*what, answer)

    def serve(self, mission: str, function: str, args: list[object], answer: Answer) -> None:
        """Run it here."""
        daemon = self.daemon
        if not daemon.is_alive:
            return
        if mission == "node" and function == "ping":
            answer(outcome.Value("pong"))
        elif mission == "process" and function == "disconnect":
            answer(outcome.Value(daemon.disconnect(str(args[0]))))
        elif mission == "process" and function == "list":
            shown: list[object] = []
            for attachment in daemon.attachments.values():
                runtime = attachment.runtime
                shown += [runtime.describe(each) for each in runtime.processes.values()]
            answer(outcome.Value(shown))
        else:
            found = daemon.cluster.export(daemon.name, mission, function)
            if found is None or not daemon.attachments:
                what = f"{daemon.name} has no {mission}.{function}"
                answer(outcome.Error(RemoteError("undef", what)))
                return
            attachment = next(iter(daemon.attachments.values()))
            attachment.runtime.nursery.start_soon(
                self._run, attachment.runtime, found, args, answer, name=f"{mission}.{function}"
            )

    @staticmethod
    async def _run(
        runtime: Any, function: Callable[..., object], args: list[object], answer: Answer
    ) -> None:
        runtime_var.set(runtime)
        process_var.set(None)  # type: ignore[arg-type]
        try:
            value = function(*args)
            if inspect.isawaitable(value):
                value = await value
            result: outcome.Outcome[object] = outcome.Value(copy_data(value))
        except CallError as error:
            result = outcome.Error(error)
        except Exception as error:  # the function's, told to its caller
            result = outcome.Error(RemoteError(*reason_of(error)))
        finally:
            retire()
        answer(result)
