"""What the tests of the heart share: data of every kind, a kernel without trio, a runtime alone."""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Coroutine
from typing import Any

from hypothesis import strategies as st
from trio.testing import MockClock

from drupelet.process import run
from drupelet.process.kernel import NOPROC, Kernel
from drupelet.process.table import Process
from drupelet.wire.ids import Pid, Ref
from drupelet.wire.messages import processes as wire
from drupelet.wire.messages.processes import Signal, decode_signal
from drupelet.wire.notices import CLASSES, Down, Exit, NodeDown, NodeUp, Request, notice_fields

NUMBERS = st.integers(0, 2**63 - 1)
PIDS = st.builds(Pid, st.sampled_from(["gandalf", "bilbo@host"]), NUMBERS, NUMBERS)
REFS = st.builds(Ref, st.just("gandalf"), NUMBERS, NUMBERS)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.sampled_from([-(2**63), 2**63 - 1, 0, 1]),
    st.floats(),
    st.text(max_size=8),
    st.binary(max_size=8),
    st.datetimes(timezones=st.just(datetime.UTC)),
    st.uuids(),
    PIDS,
    REFS,
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.integers(-5, 5), inner, max_size=4)
        | st.builds(Down, REFS, PIDS | st.just(("oven", "gandalf")), inner)
        | st.builds(Exit, PIDS, inner)
        | st.builds(NodeUp, st.just("gandalf"))
        | st.builds(NodeDown, st.just("gandalf"), st.text(max_size=3))
        | st.builds(Request, st.tuples(PIDS, REFS), inner)
    ),
    max_leaves=12,
)


def same(left: Any, right: Any) -> bool:
    """Equal, with equal types at every depth; NaN equals NaN."""
    if type(left) is not type(right):
        return False
    if isinstance(left, float):
        return left == right or (math.isnan(left) and math.isnan(right))
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict):
        return [(type(key), key) for key in left] == [(type(key), key) for key in right] and all(
            same(left[key], right[key]) for key in left
        )
    if isinstance(left, CLASSES):
        return same(notice_fields(left), notice_fields(right))
    return bool(left == right)


def alone(main: Callable[..., Coroutine[Any, Any, Any]], *args: object) -> Any:
    """Run `main` as the first process of a runtime alone, in virtual time."""
    return run(main, *args, clock=MockClock(autojump_threshold=0))


class Sans(Kernel):
    """A kernel whose processes end as soon as they are told to; `slow`: when the test says."""

    def __init__(self) -> None:
        super().__init__()
        self.woken: list[tuple[object, object]] = []
        self.errors: list[tuple[object, Exception]] = []
        self.signals: list[Signal] = []
        self.freed: list[str] = []
        self.slow = False

    def wake(self, task: object, value: object) -> None:
        self.woken.append((task, value))

    def wake_error(self, task: object, error: Exception) -> None:
        self.errors.append((task, error))

    def cancel(self, process: Process) -> None:
        if not self.slow:
            self.end(process, process.exit_reason)

    def transmit(self, signal: bytes) -> None:
        self.signals.append(decode_signal(signal)[0])

    def crowded(self, pid: Pid) -> bool:
        return False

    def on_name_freed(self, name: str, pid: Pid) -> None:
        self.freed.append(name)

    def down_error(self, reason: object) -> Exception:
        return LookupError(reason)

    def name(self, process: Process, name: str) -> None:
        """What `Nodes.register` does."""
        self.names[name] = process
        process.names = [*(process.names or ()), name]

    def sent(self) -> list[int]:
        """The kinds of the signals that went out."""
        return [signal.kind for signal in self.signals]


__all__ = ["LEAVES", "NOPROC", "PIDS", "REFS", "VALUES", "Sans", "alone", "same", "wire"]
