"""Missions: the whitelist of this node, and the workers behind it.

Decides nothing about when a worker starts or is stuck (`core/missions.py`): carries that out, and
keeps `exports`, the one table in which every call is looked up (`services/calls.py`).

Rules
- Exposed is what the operator listed and the code marks; what a worker says beyond its list is
  ignored, since it runs the mission's code.
- A mission that cannot load keeps its places in the table: its callers are told why, with file and
  line, instead of "no such function".
- `exports` is changed in place and never replaced; other services hold it.
- New code comes to a running worker in place (`load_code`); what is shipped, and kept over a
  restart, is decided by `services/code.py`, which `code_for` asks before each start of a worker.

Owns: one driver task per mission; per running worker one task for its channel, one for its prints,
one for its exit; its process. Cancellation: every worker is killed and waited for.
"""

from __future__ import annotations

import logging
import random
import socket
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Protocol

import trio

from drupelet.core.missions import (
    KillWorker,
    MissionSpec,
    MissionWorker,
    PingWorker,
    Serve,
    StartWorker,
    State,
    Withdraw,
    load_error,
    starting_error,
)
from drupelet.errors import CallError, ConfigError, RemoteError, RemoteProtocolError, Timeout
from drupelet.services.launchers import Launcher, WorkerProcess, make_order
from drupelet.services.mission_files import read_missions
from drupelet.services.mission_output import log_output
from drupelet.services.settling import REAP_S, Asked, Worker, settle
from drupelet.wire import frames
from drupelet.wire.codec import dumps, loads
from drupelet.wire.messages.workers import (
    WorkerFailure,
    WorkerHello,
    decode_hello,
    encode_order,
)

_log = logging.getLogger("drupelet.missions")

READY_S: Final = 2.0  # how long the node's own readiness waits for its workers
GRACE_S: Final = 0.5  # from a worker's closing its channel to its being killed
SILENT_S: Final = 0.5  # a PING unanswered for longer is worth telling a person
LOAD_S: Final = 30.0  # for new code in a running worker, as for its start (core/missions.py)
RINGS: Final = frozenset({"operator", "member"})
LOAD_TARGET: Final = b"/load"  # worker/versions.py: no mission has that name
_MOVING: Final = (State.STOPPED, State.STARTING, State.KILLING)


class EndpointLike(Protocol):
    """What this service needs of `services/endpoint.py`."""

    on_hello: Callable[[bytes], None] | None
    on_pong: Callable[[int], None] | None
    close_error: CallError | None
    ring: str

    @property
    def open_calls(self) -> int: ...

    @property
    def closed(self) -> bool: ...

    async def run(self) -> object: ...

    async def call(self, prefix: bytes, args: bytes, deadline: float) -> bytes: ...

    def ping(self, token: int) -> None: ...

    def close(self, error: CallError) -> None: ...


OpenEndpoint = Callable[[socket.socket, str], EndpointLike]


@dataclass(slots=True)
class Export:
    """One entry of the whitelist. `inline` for system missions, `endpoint` for workers.

    Not frozen: calls hold it while its worker comes and goes.
    """

    target: bytes
    mission: str
    function: str
    rings: frozenset[str]
    inline: Callable[..., object] | None = None
    endpoint: EndpointLike | None = None
    unavailable: CallError | None = None
    digest: bytes = b""
    is_cast: bool = False
    once: bool = False  # only with an idempotency key: services/once.py
    signature: str = ""
    with_endpoint: bool = False  # inline functions that are told who calls
    raw: Callable[[Any, bytes], None] | None = None  # casts whose arguments are not decoded


@dataclass(slots=True)
class _Mission:
    """One worker's slot."""

    spec: MissionSpec
    machine: MissionWorker
    exports: list[Export] = field(default_factory=list)
    endpoint: EndpointLike | None = None
    process: WorkerProcess | None = None
    digest: bytes = b""
    shipped: str = ""  # the bundle that is tried; once it is kept, `code_for` knows it
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)  # of its driver
    wake: trio.Event = field(default_factory=trio.Event)
    changed: trio.Event = field(default_factory=trio.Event)  # set and replaced at every change
    settled: trio.Event = field(default_factory=trio.Event)

    @property
    def ready(self) -> bool:
        """Whether its worker takes calls."""
        endpoint = self.endpoint
        return self.machine.state is State.READY and endpoint is not None and not endpoint.closed


class Missions:
    """The missions of one node.

    `directory` holds the operator's ``*.toml`` files (None: no files). Each worker's working
    directory is ``state_dir/missions/NAME``.
    Raises: `ConfigError` for what is wrong in the files.
    """

    def __init__(
        self,
        directory: Path | None = None,
        *,
        launcher: Launcher,
        open_endpoint: OpenEndpoint,
        state_dir: Path | None = None,
        random: Callable[[], float] = random.random,
    ) -> None:
        self.exports: dict[bytes, Export] = {}
        self._launcher = launcher
        self._open_endpoint = open_endpoint
        self._state_dir = state_dir
        self._random = random
        self._missions: list[_Mission] = []
        self._workers: dict[Asked, Worker] = {}  # every process that may still run
        self._system: dict[str, list[Export]] = {}
        self._nursery: trio.Nursery | None = None
        self._stopped = False
        self.code_for: Callable[[MissionSpec], Awaitable[str]] | None = None
        if directory is not None:
            for spec in read_missions(directory):
                self.add(spec)

    # -- the table

    def add_system(
        self,
        mission: str,
        functions: dict[str, Callable[..., object]],
        rings: frozenset[str],
        *,
        with_endpoint: bool = False,
    ) -> None:
        """Functions that run inside the daemon. `with_endpoint`: the caller's comes first."""
        for function, inline in functions.items():
            target = f"{mission}/{function}".encode()
            export = Export(target, mission, function, rings, inline=inline)
            export.with_endpoint = with_endpoint
            self.exports[target] = export
            self._system.setdefault(mission, []).append(export)

    def add_raw(
        self, mission: str, function: str, raw: Callable[[Any, bytes], None], rings: frozenset[str]
    ) -> None:
        """A cast that runs inside the daemon with its sender's endpoint and undecoded arguments."""
        target = f"{mission}/{function}".encode()
        self.exports[target] = Export(target, mission, function, rings, raw=raw)

    def add(self, spec: MissionSpec) -> _Mission:
        """One more worker. Before `run`. Raises: `ConfigError` when the name is taken."""
        if spec.name and (spec.name in self._system or self._owner(spec.name) is not None):
            what = f'mission "{spec.name}" is there already'
            raise ConfigError(what, mend="give one another name", file=spec.source, key="name")
        mission = _Mission(spec, MissionWorker(spec, self._random))
        for function in spec.exports or ():
            export = self._new_export(mission, spec.name, function)
            export.unavailable = starting_error(spec.label)
        self._missions.append(mission)
        return mission

    def snapshot(self) -> list[dict[str, object]]:
        """What `drupelet missions` shows, one map per mission."""
        shown: list[dict[str, object]] = [
            _show(name, exports, b"", State.READY.value, "", 0)
            for name, exports in self._system.items()
        ]
        now = trio.current_time()
        for mission in self._missions:
            machine = mission.machine
            problem = str(machine.last_error or "")
            silent_s = machine.silent_s(now)
            if silent_s > SILENT_S:
                problem = (
                    f"has answered nothing for {silent_s:.0f} s: it computes, or loops for ever; "
                    f"after {mission.spec.stuck_s:g} s it is killed and starts again"
                )
            restarts = max(machine.statistics().start_count - 1, 0)
            by_name: dict[str, list[Export]] = {}
            if mission.spec.name or not mission.exports:
                by_name[mission.spec.label] = []
            for export in mission.exports:
                by_name.setdefault(export.mission, []).append(export)
            for name, exports in by_name.items():
                shown.append(
                    _show(name, exports, mission.digest, machine.state.value, problem, restarts)
                )
        return shown

    def digest(self, mission: str) -> bytes:
        """The digest of the code that serves `mission`; b"" when nobody knows."""
        owner = self._owner(mission)
        return owner.digest if owner is not None else b""

    def _owner(self, name: str) -> _Mission | None:
        for mission in self._missions:
            if mission.spec.name == name or any(e.mission == name for e in mission.exports):
                return mission
        return None

    def _new_export(self, mission: _Mission, name: str, function: str) -> Export:
        target = f"{name}/{function}".encode()
        export = Export(target, name, function, RINGS)
        self.exports[target] = export
        mission.exports.append(export)
        return export

    # -- life

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the workers until cancelled. Started: every worker serves, or failed once."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for mission in self._missions:
                nursery.start_soon(self._drive, mission)
            with trio.move_on_after(READY_S):
                for mission in self._missions:
                    await mission.settled.wait()
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                self._stopped = True
                for mission in self._missions:
                    mission.changed.set()  # who loads code under a shield

    async def _drive(self, mission: _Mission) -> None:
        """Give the machine its inputs in time, and do what it says."""
        machine = mission.machine
        machine.start(trio.current_time())
        with mission.scope:
            while True:
                self._perform(mission)
                mission.wake = trio.Event()
                with trio.CancelScope(deadline=machine.next_timer()):
                    await mission.wake.wait()
                machine.report_calls(mission.endpoint.open_calls if mission.endpoint else 0)
                machine.handle_timer(trio.current_time())

    def _perform(self, mission: _Mission) -> None:
        for effect in mission.machine.take_effects():
            match effect:
                case StartWorker():
                    assert self._nursery is not None
                    self._nursery.start_soon(self._run_worker, mission)
                case KillWorker():
                    if mission.process is not None:
                        mission.process.kill()
                case PingWorker(token):
                    if mission.endpoint is not None:
                        mission.endpoint.ping(token)
                case Serve(hello):
                    self._serve(mission, hello)
                case Withdraw(open_error, later_error):
                    self._withdraw(mission, open_error, later_error)
        mission.wake.set()  # its timers may have changed
        mission.changed.set()
        mission.changed = trio.Event()

    def _serve(self, mission: _Mission, hello: WorkerHello) -> None:
        mission.digest = hello.digest
        if mission.spec.exports is None:
            self._take_marked(mission, hello)
        entries = {
            (name, entry.name): entry for name, named in hello.missions.items() for entry in named
        }
        for export in mission.exports:
            entry = entries.get((export.mission, export.function))
            if entry is None:
                what = f"{mission.spec.label} no longer has {export.function}"
                export.unavailable = RemoteError("undef", what)
                export.endpoint = None
                continue
            export.is_cast, export.once = entry.is_cast, entry.once
            export.signature = entry.signature
            export.digest = hello.digest
            export.endpoint = mission.endpoint
            export.unavailable = None
        pid = mission.process.pid if mission.process else 0
        _log.info("mission_ready mission=%s pid=%d", mission.spec.label, pid)
        mission.settled.set()

    def _take_marked(self, mission: _Mission, hello: WorkerHello) -> None:
        """`drupelet run`: the file's own marks are the list; they may differ after a restart."""
        former = {export.target: export for export in mission.exports}
        for target, export in former.items():
            self.exports.pop(target, None)
            export.digest = b""  # callers hold it
        mission.exports.clear()
        for name, entries in hello.missions.items():
            if name in self._system or self._owner(name) not in (None, mission):
                _log.warning(
                    "mission_taken mission=%s, another one has that name, ignoring the one in %s",
                    name,
                    mission.spec.modules[0],
                )
                continue
            for entry in entries:
                export = self._new_export(mission, name, entry.name)
                kept = former.get(export.target)
                if kept is not None:
                    mission.exports[-1] = self.exports[export.target] = kept

    def _withdraw(self, mission: _Mission, open_error: CallError, later_error: CallError) -> None:
        for export in mission.exports:
            export.endpoint = None
            export.unavailable = later_error
        if mission.endpoint is not None:
            mission.endpoint.close(open_error)
            mission.endpoint = None
        state = mission.machine.state
        where = f" (listed in {mission.spec.source})" if mission.spec.source else ""
        if state is State.REFUSED:
            _log.warning(
                "mission_refused mission=%s %s%s, serving everything else",
                mission.spec.label,
                later_error,
                where,
            )
        elif state is State.BACKOFF:
            _log.warning("mission_down mission=%s %s", mission.spec.label, later_error)
        mission.settled.set()

    # -- new code (services/code.py)

    def specs(self) -> list[MissionSpec]:
        """Of every worker."""
        return [mission.spec for mission in self._missions]

    def start_count(self, spec: MissionSpec) -> int:
        """How often its worker was started."""
        counts = (m.machine.statistics().start_count for m in self._missions if m.spec == spec)
        return next(counts, 0)

    async def load_code(self, spec: MissionSpec, path: str, digest: bytes) -> int:
        """Run the bundle in `path` in the worker of `spec`: in place, or in a fresh one.

        Returns its `start_count`: when that is another one later, the worker ended meanwhile.

        With a `spec` that is not there yet: in a worker of its own, which goes again when the code
        does not load. Raises: `CallError`, with file and line when it does not load; the code that
        ran before runs on.
        """
        mission = next((each for each in self._missions if each.spec == spec), None)
        if mission is None:
            mission = self.add(spec)
            mission.shipped = path
            assert self._nursery is not None
            self._nursery.start_soon(self._drive, mission)
            try:
                await self._loaded(mission)
                # Known there, and answered when its processes are this node's: then others may
                # spawn its functions.
                await self._load_in_place(mission, path, digest)
            except CallError:
                self._remove(mission)
                raise
            return self.start_count(spec)
        await self._until_steady(mission)
        if mission.ready:
            start_count = self.start_count(spec)
            await self._load_in_place(mission, path, digest)
            return start_count
        mission.shipped = path
        self._start_again(mission)
        try:
            await self._loaded(mission)
        except CallError:
            self._start_again(mission)
            raise
        return self.start_count(spec)

    async def _load_in_place(self, mission: _Mission, path: str, digest: bytes) -> None:
        assert mission.endpoint is not None
        prefix = frames.call_body(LOAD_TARGET, b"")
        deadline = trio.current_time() + LOAD_S
        try:
            body = await mission.endpoint.call(prefix, dumps([path, digest]), deadline)
            hello = self._listed(mission, decode_hello(loads(body[1:])))
        except (Timeout, RemoteProtocolError) as error:  # nobody knows what it runs now
            self.kill(mission.spec)
            raise RemoteError("mission_stuck", f"loading the code: {error}") from None
        if isinstance(hello, WorkerFailure):
            raise load_error(hello)
        self._serve(mission, hello)

    def _start_again(self, mission: _Mission) -> None:
        """Its worker is gone; another one, at once."""
        mission.machine.start(trio.current_time())
        self._perform(mission)

    async def _until_steady(self, mission: _Mission) -> None:
        """Until its worker serves, or there is none. Raises: `RemoteError` when the node stops."""
        while not mission.ready and (mission.machine.state in _MOVING or mission.process):
            if self._stopped:
                raise RemoteError("mission_crashed", f"{mission.spec.label}: the node is stopping")
            await mission.changed.wait()

    async def _loaded(self, mission: _Mission) -> None:
        """Until the worker that was just started serves `mission.shipped`. Raises: `CallError`."""
        machine = mission.machine
        try:
            await self._until_steady(mission)
        finally:
            mission.shipped = ""
        if not mission.ready:
            raise machine.last_error or RemoteError("mission_crashed", "it did not start")

    def kill(self, spec: MissionSpec) -> None:
        """End a worker; it starts again, with what `code_for` says then."""
        for mission in self._missions:
            if mission.spec == spec and mission.process is not None:
                mission.process.kill()

    def _remove(self, mission: _Mission) -> None:
        self._missions.remove(mission)
        mission.machine.stop()
        mission.scope.cancel()

    async def settle(self, calls: Mapping[Asked, Collection[int]], within_s: float) -> list[str]:
        """Until nothing of these calls, which were cancelled, can run any more: ids by worker.

        Returns the labels of those that were killed for it. See `services/settling.py`.
        """
        return await settle(self._workers, calls, within_s)

    # -- one worker process

    async def _run_worker(self, mission: _Mission) -> None:
        machine, spec = mission.machine, mission.spec
        shipped = mission.shipped or await self._code_for(spec)
        ours, theirs = socket.socketpair()
        try:
            order = make_order(spec, shipped, self._state_dir)
            ours.sendall(frames.frame(frames.HELLO, 0, encode_order(order)))
            process = await self._launcher.start(spec, theirs)
        except OSError as error:
            theirs.close()
            ours.close()
            _log.warning("mission_start mission=%s %s, trying again", spec.label, error)
            machine.worker_exit(1, trio.current_time())
            self._perform(mission)
            return
        except BaseException:
            ours.close()
            raise
        endpoint = self._open_endpoint(ours, spec.label)
        if not spec.cluster:
            endpoint.ring = "confined"
        endpoint.close_error = RemoteError(
            "mission_crashed", f"{spec.label} ended while it ran this call; it starts again"
        )
        endpoint.on_hello = lambda body: self._on_hello(mission, body)
        endpoint.on_pong = lambda token: self._on_pong(mission, token)
        mission.process, mission.endpoint = process, endpoint
        worker = self._workers[endpoint] = Worker(spec.label, process)
        code = 1
        exited = trio.Event()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._carry, mission, endpoint, process, exited)
                if process.output is not None:
                    nursery.start_soon(log_output, spec.label, process.output)
                if machine.state is not State.STARTING:  # stopped while the launcher was at it
                    process.kill()
                code = await process.wait()
                worker.gone.set()
                # What it sent and printed last is read; then `_carry` would wait for its grace.
                nursery.cancel_scope.deadline = trio.current_time() + GRACE_S
                exited.set()
        finally:
            process.kill()
            with trio.move_on_after(REAP_S, shield=True):
                await process.wait()
            worker.gone.set()
            del self._workers[endpoint]
            mission.process = None
        machine.worker_exit(code, trio.current_time())
        self._perform(mission)

    async def _carry(
        self,
        mission: _Mission,
        endpoint: EndpointLike,
        process: WorkerProcess,
        exited: trio.Event,
    ) -> None:
        """The worker's channel. A worker whose channel is closed is of no more use."""
        try:
            await endpoint.run()
        except RemoteProtocolError as error:
            _log.warning("mission_protocol mission=%s %s, killing it", mission.spec.label, error)
            process.kill()
            return
        if mission.machine.state is State.READY:
            what = f"{mission.spec.label} has just ended; it starts again at once"
            for export in mission.exports:
                export.unavailable = RemoteError("mission_backoff", what)
        with trio.move_on_after(GRACE_S):
            await exited.wait()
        process.kill()

    @staticmethod
    def _listed(
        mission: _Mission, hello: WorkerHello | WorkerFailure
    ) -> WorkerHello | WorkerFailure:
        """What the operator listed of it."""
        if isinstance(hello, WorkerHello) and mission.spec.exports is not None:
            listed = {mission.spec.name: hello.missions.get(mission.spec.name, ())}
            return replace(hello, missions=listed)
        if isinstance(hello, WorkerFailure) and not hello.problems:
            raise RemoteProtocolError("a failure without a problem")
        return hello

    def _on_hello(self, mission: _Mission, body: bytes) -> None:
        hello = self._listed(mission, decode_hello(body))
        mission.machine.worker_hello(hello, trio.current_time())
        self._perform(mission)

    def _on_pong(self, mission: _Mission, token: int) -> None:
        mission.machine.worker_pong(token, trio.current_time())
        mission.wake.set()

    async def _code_for(self, spec: MissionSpec) -> str:
        return await self.code_for(spec) if self.code_for is not None else ""


def _show(
    name: str, exports: Iterable[Export], digest: bytes, state: str, problem: str, restarts: int
) -> dict[str, object]:
    return {
        "name": name,
        "exports": [export.function for export in exports],
        "digest": digest.hex(),
        "state": state,
        "problem": problem,
        "restarts": restarts,
    }


__all__ = ["EndpointLike", "Export", "MissionSpec", "Missions"]
