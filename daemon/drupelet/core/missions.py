"""One mission worker's life: when it starts, when it is stuck, when it is tried again.

Decides, without a process in sight: the state of one worker, the wait before a restart, when a
worker that answers nothing is killed, and what a caller is told while there is none.

    STARTING -> READY -> (exit) BACKOFF -> STARTING ...
    STARTING -> REFUSED   the module does not load: no restart would mend it
    STARTING or READY -> KILLING   silent too long: killed; its exit leads to BACKOFF

Rules
- An idle worker is left alone: it is pinged only while calls are open. A worker is stuck when a
  ping stays unanswered for `stuck_s`; a call that waits in an async function is not stuck.
- The restart wait is jittered, from 0.1 s up to 30 s; 60 s of health make it short again.
- Callers that were waiting at a crash get ``mission_crashed``, at a kill ``mission_stuck``; those
  that come while it is down get ``mission_backoff``, or a load error's own name.
- `handle_timer` is told first how many calls are open (`report_calls`).

References: OTP's supervisor (a restart is the supervisor's, never the caller's, business);
systemd's WatchdogSec and RestartSec.
Rejected: giving up after so many restarts, as OTP's intensity does (a mission that needs the
network would stay down after a bad night; at one try in 30 s nothing is lost).
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Final, TypeAlias

from drupelet.core.backoff import Backoff
from drupelet.errors import CallError, RemoteError
from drupelet.wire.messages.workers import WorkerFailure, WorkerHello

RESTART_BASE_S: Final = 0.1  # a crash now and then is mended before anybody notices
RESTART_CAP_S: Final = 30.0
HEALTHY_S: Final = 60.0  # so long without a crash, and the next one is a first one
START_S: Final = 30.0  # a Pi Zero imports numpy in 8 s; what takes longer hangs
STUCK_S: Final = 10.0
PINGS_PER_STUCK: Final = 4  # so a kill comes at most a quarter later than stuck_s
MEMORY_MB: Final = 256

_SIGNALS: Final = {  # signal(7), those that end a mission in practice; the module `signal` is I/O
    4: "SIGILL",
    6: "SIGABRT",
    7: "SIGBUS",
    8: "SIGFPE",
    9: "SIGKILL (out of memory, or by hand)",
    11: "SIGSEGV (a bug in native code)",
    15: "SIGTERM",
    24: "SIGXCPU",
    31: "SIGSYS",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class MissionSpec:
    """What one worker runs. `name` "" and `exports` None: all that its file marks."""

    name: str
    modules: tuple[str, ...]
    exports: tuple[str, ...] | None = None
    memory_mb: int = MEMORY_MB
    stuck_s: float = STUCK_S
    directory: str = "/"
    cluster: bool = True  # whether it may call and signal beyond itself
    source: str = ""  # the configuration file that asked for it, for messages

    @property
    def label(self) -> str:
        """What people call it: its name, or its file's before the file was read."""
        return self.name or self.modules[0].rsplit("/", 1)[-1].removesuffix(".py")


class State(enum.Enum):
    """`drupelet missions` shows these words."""

    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    KILLING = "killing"
    BACKOFF = "backoff"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class StartWorker:
    """Start the process; answer with `worker_hello` or `worker_exit`."""


@dataclass(frozen=True, slots=True)
class KillWorker:
    """Kill the process; its `worker_exit` follows."""


@dataclass(frozen=True, slots=True)
class PingWorker:
    """Send a PING with this token."""

    token: int


@dataclass(frozen=True, slots=True)
class Serve:
    """The worker serves these exports from now on."""

    hello: WorkerHello


@dataclass(frozen=True, slots=True)
class Withdraw:
    """The worker is gone. Open calls end with `open_error`, later ones with `later_error`."""

    open_error: CallError
    later_error: CallError


Effect: TypeAlias = StartWorker | KillWorker | PingWorker | Serve | Withdraw


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """Counters since the start."""

    start_count: int
    crash_count: int
    stuck_count: int


class MissionWorker:
    """The decision machine of one worker. `random` gives floats in [0, 1)."""

    def __init__(self, spec: MissionSpec, random: Callable[[], float]) -> None:
        self.spec = spec
        self.state = State.STOPPED
        self.last_error: CallError | None = None
        self._backoff = Backoff(RESTART_BASE_S, RESTART_CAP_S, random)
        self._effects: list[Effect] = []
        self._start_by = inf
        self._restart_at = inf
        self._healthy_at = inf
        self._ping_at = inf
        self._stuck_at = inf
        self._token = 0
        self._open_calls = 0
        self._stuck = ""
        self._start_count = 0
        self._crash_count = 0
        self._stuck_count = 0

    # -- inputs

    def start(self, now: float) -> None:
        """Begin; or begin again at once, when the worker is gone."""
        self.state = State.STARTING
        self._start_count += 1
        self._start_by = now + START_S
        self._restart_at = inf
        self._effects.append(StartWorker())

    def worker_hello(self, hello: WorkerHello | WorkerFailure, now: float) -> None:
        """The worker said what came of its order."""
        if self.state is not State.STARTING:
            return  # a second one, or one that crossed the kill
        self._start_by = inf
        if isinstance(hello, WorkerFailure):
            self.state = State.REFUSED
            error = load_error(hello)
            self._withdraw(error, error)
            return
        self.state = State.READY
        self.last_error = None
        self._healthy_at = now + HEALTHY_S
        self._ping_at = now + self._ping_interval_s
        self._effects.append(Serve(hello))

    def worker_pong(self, token: int, now: float) -> None:
        """The worker answered a ping. Token 0 is its own sign of life in a long batch."""
        if self.state is State.READY and token in (0, self._token) and self._stuck_at < inf:
            self._stuck_at = inf if token else now + self.spec.stuck_s

    def report_calls(self, open_calls: int) -> None:
        """How many calls at this worker have no answer yet."""
        self._open_calls = open_calls

    def worker_exit(self, code: int, now: float) -> None:
        """The process ended; `code` below 0 is a signal's number, as in `subprocess`."""
        if self.state is State.REFUSED or self.state is State.STOPPED:
            return
        reason = self._stuck or _describe(code)
        if now >= self._healthy_at:
            self._backoff.reset()
        delay_s = self._backoff.next_delay_s()
        if not self._stuck:
            self._crash_count += 1
        kind = "mission_stuck" if self._stuck else "mission_crashed"
        label = self.spec.label
        self._clear_timers()
        self.state = State.BACKOFF
        self._restart_at = now + delay_s
        self._stuck = ""
        self._withdraw(
            RemoteError(kind, f"{label} {reason} while it ran this call; it starts again"),
            RemoteError(
                "mission_backoff", f"{label} {reason}; it starts again {delay_s:.1f} s after that"
            ),
        )

    def stop(self) -> None:
        """No restart any more."""
        if self.state in (State.STARTING, State.READY):
            self._effects.append(KillWorker())
        self.state = State.STOPPED
        self._clear_timers()

    def handle_timer(self, now: float) -> None:
        """Do what is due."""
        if now >= self._restart_at:
            self.start(now)
        if now >= self._start_by:
            self._kill(f"did not finish loading within {START_S:.0f} s")
        if now >= self._stuck_at:
            self._kill(f"answered nothing for {self.spec.stuck_s:g} s and was killed")
        if now >= self._ping_at:
            self._ping_at = now + self._ping_interval_s
            if self._open_calls and self._stuck_at == inf:
                self._token += 1
                self._stuck_at = now + self.spec.stuck_s
                self._effects.append(PingWorker(self._token))

    # -- outputs

    def silent_s(self, now: float) -> float:
        """For how long the worker owes an answer to a PING; 0 when it owes none."""
        return 0.0 if self._stuck_at == inf else now - (self._stuck_at - self.spec.stuck_s)

    def next_timer(self) -> float:
        """When `handle_timer` is wanted next."""
        return min(self._restart_at, self._start_by, self._stuck_at, self._ping_at)

    def take_effects(self) -> list[Effect]:
        """What to do now, in order."""
        effects, self._effects = self._effects, []
        return effects

    def statistics(self) -> Statistics:
        """Counters since the start."""
        return Statistics(
            start_count=self._start_count,
            crash_count=self._crash_count,
            stuck_count=self._stuck_count,
        )

    # -- inside

    @property
    def _ping_interval_s(self) -> float:
        return self.spec.stuck_s / PINGS_PER_STUCK

    def _kill(self, reason: str) -> None:
        self._clear_timers()
        self.state = State.KILLING
        self._stuck = reason
        self._stuck_count += 1
        self._withdraw(
            RemoteError(
                "mission_stuck",
                f"{self.spec.label} {reason}; it starts again. For work that takes long "
                'use @mission(..., where="thread"), an async function, or a larger stuck_s',
            ),
            RemoteError("mission_backoff", f"{self.spec.label} {reason}; it starts again soon"),
        )
        self._effects.append(KillWorker())

    def _withdraw(self, open_error: CallError, later_error: CallError) -> None:
        self.last_error = later_error
        self._effects.append(Withdraw(open_error, later_error))

    def _clear_timers(self) -> None:
        self._start_by = self._restart_at = self._healthy_at = inf
        self._ping_at = self._stuck_at = inf


def load_error(failure: WorkerFailure) -> RemoteError:
    """What callers, and who ships code, are told about code that does not load."""
    return RemoteError(failure.problems[0].kind, "\n".join(map(str, failure.problems)))


def starting_error(label: str) -> RemoteError:
    """What a caller is told before the first start is done."""
    return RemoteError("mission_backoff", f"{label} is starting; try again in a second")


def _describe(code: int) -> str:
    """An exit code in words."""
    if code >= 0:
        return f"ended with exit code {code}"
    name = _SIGNALS.get(-code, f"signal {-code}")
    return f"was killed by {name}"
